//! What encryption needs: loads and inserts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyward::stores::{StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};

use crate::stage::{Stage, TestResult, poll_once, record};

pub(crate) async fn what_was_never_stored_is_none(stage: Stage) -> TestResult {
    stage.put("other", &record(5, b"k")).await?;
    assert_eq!(stage.load("alice", 5).await?, None);
    assert_eq!(stage.load("other", 6).await?, None);
    assert_eq!(stage.load("other", i64::MAX).await?, None);
    assert_eq!(stage.latest("alice").await?, None);
    Ok(())
}

pub(crate) async fn a_stored_key_is_loaded_exactly_and_as_the_latest(stage: Stage) -> TestResult {
    let parent_key = Some(KeyMeta { id: KeyId::new("_SK_\"svc\"_é"), created: 0 });
    let stored = EnvelopeKeyRecord { parent_key, revoked: true, ..record(1_700_000_000, b"wrapped") };
    assert_eq!(stage.store("alice", &stored).await?, StoreOutcome::Stored);
    assert_eq!(stage.load("alice", 1_700_000_000).await?.as_ref(), Some(&stored));
    assert_eq!(stage.latest("alice").await?, Some(stored));
    Ok(())
}

pub(crate) async fn a_duplicate_leaves_the_first_row_as_it_is(stage: Stage) -> TestResult {
    let (first, second) = (record(5, b"first"), record(5, b"second"));
    assert_eq!(stage.store("alice", &first).await?, StoreOutcome::Stored);
    assert_eq!(stage.store("alice", &second).await?, StoreOutcome::Duplicate);
    assert_eq!(stage.load("alice", 5).await?, Some(first));
    Ok(())
}

pub(crate) async fn the_latest_is_the_one_created_last_not_stored_last(stage: Stage) -> TestResult {
    for created in [100, 300, 200] {
        stage.put("alice", &record(created, b"k")).await?;
    }
    assert_eq!(stage.latest("alice").await?, Some(record(300, b"k")));
    Ok(())
}

pub(crate) async fn any_time_within_its_range_is_a_creation_time(stage: Stage) -> TestResult {
    let (first, last) = stage.times;
    let mut times: Vec<i64> = [first, -1, 0, 1, 1_700_000_000, last].into();
    times.retain(|created| (first..=last).contains(created));
    times.sort_unstable();
    times.dedup();
    for created in times {
        stage.put("alice", &record(created, b"k")).await?;
        assert_eq!(stage.load("alice", created).await?, Some(record(created, b"k")));
        assert_eq!(stage.latest("alice").await?, Some(record(created, b"k")));
    }
    for created in [first.saturating_sub(1), last.saturating_add(1), i64::MIN, i64::MAX] {
        if !(first..=last).contains(&created) {
            assert_eq!(stage.load("alice", created).await?, None, "{created}");
            let refused = stage.store("bob", &record(created, b"k")).await.expect_err("out of its range");
            assert!(matches!(refused, StoreError::Permanent { .. }), "{created}: {refused}");
        }
    }
    Ok(())
}

pub(crate) async fn ids_are_compared_byte_by_byte(stage: Stage) -> TestResult {
    let ids = stage.ids([
        "alice", "Alice", "alice ", " alice", "\u{e9}", "e\u{301}", "a%", "a_", "ab", "%", "_", "a\\", "1", "01",
    ]);
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(stage.latest(id).await?, None, "{id:?}");
        let row = record(5 + stage.apart(number), id.as_bytes());
        assert_eq!(stage.store(id, &row).await?, StoreOutcome::Stored, "{id:?}");
    }
    for (number, id) in ids.iter().enumerate() {
        let created = 5 + stage.apart(number);
        assert_eq!(stage.load(id, created).await?, Some(record(created, id.as_bytes())), "{id:?}");
        assert_eq!(stage.latest(id).await?, Some(record(created, id.as_bytes())), "{id:?}");
    }
    Ok(())
}

pub(crate) async fn one_of_many_creators_wins_and_all_see_its_row(stage: Stage) -> TestResult {
    let stage = Arc::new(stage);
    let creators: Vec<_> = (0..16_u8)
        .map(|creator| {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move {
                let outcome = stage.store("alice", &record(5, &[creator])).await?;
                TestResult::Ok((creator, outcome, stage.latest("alice").await?))
            })
        })
        .collect();
    let mut winners = Vec::new();
    let mut seen = Vec::new();
    for creator in creators {
        let (creator, outcome, row) = creator.await??;
        winners.extend((outcome == StoreOutcome::Stored).then_some(creator));
        seen.push(row);
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(seen, vec![Some(record(5, &winners)); 16]);
    Ok(())
}

pub(crate) async fn the_latest_can_always_be_loaded_by_its_exact_key(stage: Stage) -> TestResult {
    const WRITERS: u8 = 8;
    let stage = Arc::new(stage);
    let writing = Arc::new(AtomicUsize::new(WRITERS.into()));
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let (stage, writing) = (Arc::clone(&stage), Arc::clone(&writing));
        tasks.push(tokio::spawn(async move {
            for round in 1..21 {
                let _ = stage.store("alice", &record(round, &[writer])).await?;
            }
            writing.fetch_sub(1, Ordering::SeqCst);
            TestResult::Ok(())
        }));
    }
    for _reader in 0..4 {
        let (stage, writing) = (Arc::clone(&stage), Arc::clone(&writing));
        tasks.push(tokio::spawn(async move {
            let mut newest = i64::MIN;
            while writing.load(Ordering::SeqCst) > 0 {
                let Some(latest) = stage.latest("alice").await? else { continue };
                assert!(latest.created >= newest, "{} after {newest}", latest.created);
                newest = latest.created;
                assert_eq!(stage.load("alice", newest).await?, Some(latest));
            }
            Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

pub(crate) async fn odd_but_legal_records_are_read(stage: Stage) -> TestResult {
    let parent_key = Some(KeyMeta { id: KeyId::new("_SK_a&é"), created: 3 });
    let expected = EnvelopeKeyRecord { parent_key, ..record(5, &[0, 1, 2]) };
    let shapes = [
        " {\n\t\"Created\" : 5 , \"Key\" : \"AAEC\", \"ParentKeyMeta\":{\"KeyId\":\"_SK_a&é\",\"Created\":3} } ",
        r#"{"ParentKeyMeta":{"Created":3,"KeyId":"_SK_a&é"},"Key":"AAEC","Created":5}"#,
        r#"{"New":[{"x":1}],"Created":5,"Key":"AAEC","ParentKeyMeta":{"KeyId":"_SK_a&é","Created":3,"Y":null}}"#,
        r#"{"Revoked":null,"Created":5,"Key":"AAEC","ParentKeyMeta":{"KeyId":"_SK_a&é","Created":3}}"#,
        r#"{"Revoked":false,"Created":5,"Key":"AAEC","ParentKeyMeta":{"KeyId":"_SK_a\u0026\u00e9","Created":3}}"#,
    ];
    for (number, text) in shapes.iter().enumerate() {
        let id = format!("odd {number}");
        assert!(stage.write(&id, 5, text).await?, "{text}");
        assert_eq!(stage.load(&id, 5).await?.as_ref(), Some(&expected), "{text}");
        assert_eq!(stage.latest(&id).await?.as_ref(), Some(&expected), "{text}");
    }
    Ok(())
}

pub(crate) async fn a_dropped_call_leaves_a_whole_store(stage: Stage) -> TestResult {
    for created in 1..21 {
        let dropped = record(created, b"dropped");
        poll_once(stage.store("alice", &dropped)).await;
        let kept = record(created, b"kept");
        let expected = match stage.store("alice", &kept).await? {
            StoreOutcome::Stored => kept,
            StoreOutcome::Duplicate => dropped,
        };
        poll_once(stage.load("alice", created)).await;
        assert_eq!(stage.load("alice", created).await?, Some(expected));
    }
    Ok(())
}

pub(crate) async fn ids_of_255_bytes_fit(stage: Stage) -> TestResult {
    let (one, other) = (format!("{}a", "x".repeat(254)), format!("{}b", "x".repeat(254)));
    stage.put(&one, &record(5, b"one")).await?;
    stage.put(&other, &record(5, b"other")).await?;
    assert_eq!(stage.load(&one, 5).await?, Some(record(5, b"one")));
    assert_eq!(stage.latest(&other).await?, Some(record(5, b"other")));
    Ok(())
}

pub(crate) async fn records_of_48_kib_fit(stage: Stage) -> TestResult {
    // The text of a MySQL column TEXT ends at 64 KiB.
    let large = record(5, &vec![7; 48 * 1024 - 100]);
    assert!(large.to_json().len() > 65_000);
    stage.put("alice", &large).await?;
    assert_eq!(stage.load("alice", 5).await?, Some(large));
    Ok(())
}
