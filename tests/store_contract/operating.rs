//! What operators need: listing, revoking, shredding.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyward::stores::{KeyAdmin, Replacement, Revocation, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta, TOMBSTONE_CREATED};

use crate::stage::{Stage, TestResult, key, record, tombstone};

pub(crate) async fn a_listing_pages_through_everything_once(stage: Stage) -> TestResult {
    let mut keys: Vec<KeyMeta> = stage
        .ids(["B", "a", "a ", "é", "_IK_p_s_q", "drift guard"])
        .iter()
        .enumerate()
        .flat_map(|(number, id)| [1, 60, 1_700_000_000].map(|created| key(id, created + stage.apart(number))))
        .collect();
    for key in keys.iter().rev() {
        stage.put(key.id.as_str(), &record(key.created, b"k")).await?;
    }
    keys.sort();
    for limit in [1, 3, keys.len(), keys.len() + 1] {
        let mut listed: Vec<KeyMeta> = Vec::new();
        loop {
            let page = stage.store.list(listed.last(), limit).await?;
            assert!(page.len() <= limit && page.iter().all(|row| row.record.is_ok()));
            if page.is_empty() {
                break;
            }
            listed.extend(page.into_iter().map(|row| row.key));
        }
        if !stage.is_ordered {
            listed.sort();
        }
        assert_eq!(listed, keys, "pages of {limit}");
    }
    assert!(stage.store.list(None, 0).await?.is_empty());
    Ok(())
}

pub(crate) async fn the_versions_of_a_key_are_listed_in_order(stage: Stage) -> TestResult {
    for created in [300, 100, 200] {
        stage.put("alice", &record(created, b"k")).await?;
        stage.put("Alice", &record(created + stage.apart(1), b"k")).await?;
        stage.put("alice ", &record(created + stage.apart(2), b"k")).await?;
    }
    let versions = stage.store.versions(&KeyId::new("alice")).await?;
    let records: Vec<_> = versions.into_iter().map(|row| Ok((row.key, row.record?))).collect::<TestResult<_>>()?;
    assert_eq!(records, [100, 200, 300].map(|created| (key("alice", created), record(created, b"k"))));
    assert!(stage.store.versions(&KeyId::new("bob")).await?.is_empty());
    Ok(())
}

pub(crate) async fn a_listing_goes_on_after_a_key_that_is_not_there(stage: Stage) -> TestResult {
    for (id, created) in [("a", 1), ("a", 2), ("c", 1)] {
        stage.put(id, &record(created, b"k")).await?;
    }
    let cases =
        [(key("a", i64::MIN), 3), (key("a", 1), 2), (key("a", i64::MAX), 1), (key("b", 0), 1), (key("d", 0), 0)];
    for (after, expected) in cases {
        assert_eq!(stage.store.list(Some(&after), 9).await?.len(), expected, "{after}");
    }
    Ok(())
}

pub(crate) async fn a_revocation_says_what_became_of_it(stage: Stage) -> TestResult {
    for created in [4, 5, 6] {
        stage.put("alice", &record(created, b"k")).await?;
    }
    let other = 5 + stage.apart(2);
    stage.put("Alice", &record(other, b"k")).await?;
    assert_eq!(stage.store.revoke(&key("alice", 5)).await?, Revocation::Revoked);
    assert_eq!(stage.store.revoke(&key("alice", 5)).await?, Revocation::AlreadyRevoked);
    for absent in [key("alice", 7), key("bob", 5), key("alice ", 5), key("alice", i64::MAX), key("alice", i64::MIN)] {
        assert_eq!(stage.store.revoke(&absent).await?, Revocation::NotFound, "{absent}");
    }
    assert_eq!(stage.load("alice", 5).await?, Some(EnvelopeKeyRecord { revoked: true, ..record(5, b"k") }));
    for (id, created) in [("alice", 4), ("alice", 6), ("Alice", other)] {
        assert_eq!(stage.load(id, created).await?, Some(record(created, b"k")), "{id} {created}");
    }
    Ok(())
}

pub(crate) async fn a_revoked_key_keeps_the_rest_of_its_record(stage: Stage) -> TestResult {
    let parent_key = Some(KeyMeta { id: KeyId::new("_SK_a&é"), created: 3 });
    let expected = EnvelopeKeyRecord { parent_key, revoked: true, ..record(5, &[0, 1, 2]) };
    let shapes = [
        r#"{"Created":5,"Key":"AAEC","ParentKeyMeta":{"KeyId":"_SK_a&é","Created":3}}"#,
        r#" { "Revoked" : null, "New": [ 1e400, {"x":"\u0041"} ], "Created":5, "Key":"AA\nEC",
            "ParentKeyMeta":{"Y":1,"KeyId":"_SK_a\u0026é","Created":3} } "#,
    ];
    for (number, text) in shapes.iter().enumerate() {
        let id = format!("odd {number}");
        assert!(stage.write(&id, 5, text).await?, "{text}");
        assert_eq!(stage.store.revoke(&key(&id, 5)).await?, Revocation::Revoked, "{text}");
        assert_eq!(stage.load(&id, 5).await?.as_ref(), Some(&expected), "{text}");
        assert_eq!(stage.latest(&id).await?.as_ref(), Some(&expected), "{text}");
    }
    Ok(())
}

pub(crate) async fn a_shredded_key_leaves_its_tombstone_alone(stage: Stage) -> TestResult {
    for created in [1, 5, 1_700_000_000, TOMBSTONE_CREATED + 1] {
        stage.put("alice", &record(created, b"k")).await?;
    }
    let destroyed = stage.store.shred(&KeyId::new("alice"), &tombstone()).await?;
    assert_eq!(destroyed, [1, 5, 1_700_000_000, TOMBSTONE_CREATED + 1].map(|created| key("alice", created)));
    assert_eq!(stage.rows_of("alice").await?, [tombstone()]);
    assert_eq!(stage.latest("alice").await?, Some(tombstone()));
    assert_eq!(stage.load("alice", 5).await?, None);
    assert_eq!(stage.store.shred(&KeyId::new("nobody"), &tombstone()).await?, [], "there was nothing");
    assert_eq!(stage.latest("nobody").await?, Some(tombstone()), "and there will be nothing");
    Ok(())
}

pub(crate) async fn shredding_again_removes_what_others_added_meanwhile(stage: Stage) -> TestResult {
    let id = KeyId::new("alice");
    stage.put("alice", &record(5, b"k")).await?;
    assert_eq!(stage.store.shred(&id, &tombstone()).await?, [key("alice", 5)]);
    let is_added = stage.force("alice", &record(6, b"k")).await?;
    let other = EnvelopeKeyRecord::tombstone(None);
    let added = if is_added { vec![key("alice", 6)] } else { Vec::new() };
    assert_eq!(stage.store.shred(&id, &other).await?, added);
    assert_eq!(stage.store.shred(&id, &other).await?, []);
    assert_eq!(stage.rows_of("alice").await?, [tombstone()], "the first tombstone stays");
    Ok(())
}

pub(crate) async fn shredding_compares_ids_byte_by_byte(stage: Stage) -> TestResult {
    let others = stage.ids(["Alice", "alice ", "alice_", "%", "_____", "e\u{301}"]);
    let shredded = stage.ids(["alice", "\u{e9}"]);
    let all: Vec<(&str, i64)> =
        others.iter().chain(&shredded).enumerate().map(|(n, id)| (*id, 5 + stage.apart(n))).collect();
    for (id, created) in &all {
        stage.put(id, &record(*created, id.as_bytes())).await?;
    }
    let (others, shredded) = all.split_at(others.len());
    for (id, created) in shredded {
        assert_eq!(stage.store.shred(&KeyId::new(id), &tombstone()).await?, [key(id, *created)]);
    }
    for (id, created) in others {
        assert_eq!(stage.rows_of(id).await?, [record(*created, id.as_bytes())], "{id:?}");
    }
    Ok(())
}

pub(crate) async fn a_key_dated_as_a_tombstone_is_shredded_like_any_other(stage: Stage) -> TestResult {
    let real = [record(TOMBSTONE_CREATED, b"k"), EnvelopeKeyRecord { revoked: false, ..tombstone() }];
    for (number, real) in real.iter().enumerate() {
        let id = format!("real {number}");
        stage.put(&id, real).await?;
        stage.put(&id, &record(5, b"k")).await?;
        let destroyed = stage.store.shred(&KeyId::new(&id), &tombstone()).await?;
        assert_eq!(destroyed, [key(&id, 5), key(&id, TOMBSTONE_CREATED)]);
        assert_eq!(stage.rows_of(&id).await?, [tombstone()]);
    }
    Ok(())
}

pub(crate) async fn only_a_tombstone_takes_the_place_of_a_shredded_key(stage: Stage) -> TestResult {
    stage.put("alice", &record(5, b"k")).await?;
    let no_tombstones = [
        record(TOMBSTONE_CREATED, b""),
        EnvelopeKeyRecord { encrypted_key: b"k".to_vec(), ..tombstone() },
        EnvelopeKeyRecord { created: 6, ..tombstone() },
    ];
    for record in no_tombstones {
        let error = stage.store.shred(&KeyId::new("alice"), &record).await.expect_err("no tombstone");
        assert!(matches!(error, StoreError::Permanent { .. }), "{error}");
    }
    assert_eq!(stage.rows_of("alice").await?, [record(5, b"k")]);
    Ok(())
}

pub(crate) async fn an_id_with_a_tombstone_takes_no_more_rows(stage: Stage) -> TestResult {
    stage.put("alice", &record(5, b"k")).await?;
    let _ = stage.store.shred(&KeyId::new("alice"), &tombstone()).await?;
    for created in [5, 6, TOMBSTONE_CREATED, TOMBSTONE_CREATED + 1] {
        assert_eq!(stage.store("alice", &record(created, b"new")).await?, StoreOutcome::Duplicate, "{created}");
    }
    assert_eq!(stage.rows_of("alice").await?, [tombstone()]);
    stage.put("Alice", &record(5, b"k")).await?;
    // What is revoked, or has no key, or is dated like that, is no tombstone yet.
    stage.put("bob", &EnvelopeKeyRecord { revoked: true, ..record(TOMBSTONE_CREATED, b"k") }).await?;
    stage.put("bob", &record(5, b"k")).await?;
    stage.put("carol", &record(TOMBSTONE_CREATED, b"")).await?;
    stage.put("carol", &record(5, b"k")).await
}

pub(crate) async fn a_tombstone_can_be_copied_to_another_store(stage: Stage) -> TestResult {
    stage.put("alice", &tombstone()).await?;
    assert_eq!(stage.store("alice", &tombstone()).await?, StoreOutcome::Duplicate);
    assert_eq!(stage.store("alice", &record(5, b"k")).await?, StoreOutcome::Duplicate);
    Ok(())
}

pub(crate) async fn whoever_stores_after_the_shredding_is_told_duplicate(stage: Stage) -> TestResult {
    let stage = Arc::new(stage);
    for round in 0..8 {
        let id = format!("tenant {round}");
        let shredded = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..4_u8)
            .map(|writer| {
                let (stage, id, shredded) = (Arc::clone(&stage), id.clone(), Arc::clone(&shredded));
                tokio::spawn(async move {
                    for created in 1..41 {
                        let is_late = shredded.load(Ordering::SeqCst) > 0;
                        let outcome = stage.store(&id, &record(created, &[writer])).await?;
                        assert!(!is_late || outcome == StoreOutcome::Duplicate, "{id} {created}");
                    }
                    TestResult::Ok(())
                })
            })
            .collect();
        while stage.latest(&id).await?.is_none() {
            tokio::task::yield_now().await;
        }
        let _ = stage.store.shred(&KeyId::new(&id), &tombstone()).await?;
        shredded.store(1, Ordering::SeqCst);
        for writer in writers {
            writer.await??;
        }
        assert_eq!(stage.rows_of(&id).await?, [tombstone()], "never a row beside the tombstone");
    }
    Ok(())
}

pub(crate) async fn an_arc_of_a_store_is_one(stage: Stage) -> TestResult {
    async fn story<A: KeyAdmin>(store: A) -> TestResult {
        assert_eq!(store.list(None, 9).await?.len(), 1);
        assert_eq!(store.revoke(&key("alice", 5)).await?, Revocation::Revoked);
        assert_eq!(store.replace_wrapped_key(&key("alice", 5), b"k", b"l").await?, Replacement::Replaced);
        assert_eq!(store.shred(&KeyId::new("alice"), &tombstone()).await?, [key("alice", 5)]);
        Ok(())
    }
    stage.put("alice", &record(5, b"k")).await?;
    story(stage.store).await
}
