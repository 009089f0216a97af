//! Replacing the wrapped keys of records.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyward::stores::{KeyAdmin, Replacement, Revocation, StoreError};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta, TOMBSTONE_CREATED};
use serde_json::value::RawValue;

use crate::stage::{Stage, TestResult, key, record, tombstone};

pub(crate) async fn a_replacement_says_what_became_of_it(stage: Stage) -> TestResult {
    for created in [4, 5, 6] {
        stage.put("alice", &record(created, b"old")).await?;
    }
    let other = 5 + stage.apart(2);
    stage.put("Alice", &record(other, b"old")).await?;
    let alice = key("alice", 5);
    assert_eq!(stage.store.replace_wrapped_key(&alice, b"older", b"new").await?, Replacement::Changed);
    assert_eq!(stage.store.replace_wrapped_key(&alice, b"", b"new").await?, Replacement::Changed);
    assert_eq!(stage.load("alice", 5).await?, Some(record(5, b"old")));
    assert_eq!(stage.store.replace_wrapped_key(&alice, b"old", b"new").await?, Replacement::Replaced);
    assert_eq!(
        stage.store.replace_wrapped_key(&alice, b"old", b"new").await?,
        Replacement::Changed,
        "it is another now"
    );
    for _ in 0..2 {
        assert_eq!(stage.store.replace_wrapped_key(&alice, b"new", b"new").await?, Replacement::Replaced);
    }
    for absent in [key("alice", 7), key("bob", 5), key("alice ", 5), key("alice", i64::MAX), key("alice", i64::MIN)] {
        let outcome = stage.store.replace_wrapped_key(&absent, b"old", b"new").await?;
        assert_eq!(outcome, Replacement::NotFound, "{absent}");
    }
    assert_eq!(stage.load("alice", 5).await?, Some(record(5, b"new")));
    for (id, created) in [("alice", 4), ("alice", 6), ("Alice", other)] {
        assert_eq!(stage.load(id, created).await?, Some(record(created, b"old")), "{id} {created}");
    }
    Ok(())
}

pub(crate) async fn a_replaced_wrapped_key_keeps_the_rest_of_its_record(stage: Stage) -> TestResult {
    let parent = |text| Some(KeyMeta { id: KeyId::new(text), created: 3 });
    let cases = [
        (r#"{"Created":5,"Key":"AAEC"}"#, None, false),
        (r#"{"Revoked":true,"Created":5,"Key":"AAEC"}"#, None, true),
        (
            r#" { "Revoked" : null, "New": [ 1e400, {"x":"\u0041"} ], "Created":5, "Key":"AA\nEC",
                "ParentKeyMeta":{"Y":1,"KeyId":"_SK_a\u0026é","Created":3} } "#,
            parent("_SK_a&é"),
            false,
        ),
        (
            r#"{"ParentKeyMeta":{"KeyId":"_SK_a","Created":3},"Key":"AAEC","Created":5,"Revoked":true,"key":"AQ=="}"#,
            parent("_SK_a"),
            true,
        ),
    ];
    // Longer than the old one, as that of one more region is.
    let new = [7; 300];
    for (number, (text, parent_key, revoked)) in cases.into_iter().enumerate() {
        let id = format!("odd {number}");
        assert!(stage.write(&id, 5, text).await?, "{text}");
        let before = match &stage.behind {
            Some(_) => Some(others(&stage.text(&id, 5).await?)?),
            None => None,
        };
        let outcome = stage.store.replace_wrapped_key(&key(&id, 5), &[0, 1, 2], &new).await?;
        assert_eq!(outcome, Replacement::Replaced, "{text}");
        let expected = EnvelopeKeyRecord { parent_key, revoked, ..record(5, &new) };
        assert_eq!(stage.load(&id, 5).await?.as_ref(), Some(&expected), "{text}");
        assert_eq!(stage.latest(&id).await?.as_ref(), Some(&expected), "{text}");
        if let Some(before) = before {
            assert_eq!(others(&stage.text(&id, 5).await?)?, before, "{text}");
        }
    }
    Ok(())
}

/// Returns what is beside the wrapped key in the text of a row.
fn others(text: &str) -> TestResult<BTreeMap<String, String>> {
    let mut fields: BTreeMap<String, Box<RawValue>> = match serde_json::from_str(text) {
        Ok(fields) => fields,
        // The text of an item is a list, and the key a string in it.
        Err(_) => return Ok(items(text)),
    };
    assert!(fields.remove("Key").is_some(), "{text}");
    Ok(fields.into_iter().map(|(name, value)| (name, value.get().split_whitespace().collect())).collect())
}

fn items(text: &str) -> BTreeMap<String, String> {
    let fields = text.split(", ").filter(|field| !field.contains("Key: S("));
    fields.map(|field| (field.to_owned(), String::new())).collect()
}

pub(crate) async fn a_tombstone_gets_no_wrapped_key_and_no_key_becomes_one(stage: Stage) -> TestResult {
    stage.put("alice", &EnvelopeKeyRecord { revoked: true, ..record(5, b"old") }).await?;
    let error = stage.store.replace_wrapped_key(&key("alice", 5), b"old", b"").await.expect_err("nothing is no key");
    assert!(matches!(error, StoreError::Permanent { .. }), "{error}");
    assert_eq!(stage.store.shred(&KeyId::new("alice"), &tombstone()).await?, [key("alice", 5)]);
    for (created, old) in [(5, b"old".as_slice()), (TOMBSTONE_CREATED, b"old"), (TOMBSTONE_CREATED, b"")] {
        let outcome = stage.store.replace_wrapped_key(&key("alice", created), old, b"new").await?;
        assert_eq!(outcome, Replacement::NotFound, "{created}");
    }
    assert_eq!(stage.rows_of("alice").await?, [tombstone()]);
    Ok(())
}

pub(crate) async fn of_many_replacers_one_wins(stage: Stage) -> TestResult {
    let stage = Arc::new(stage);
    for created in 1..9 {
        stage.put("alice", &record(created, b"old")).await?;
        let replacers: Vec<_> = (0..4_u8)
            .map(|replacer| {
                let stage = Arc::clone(&stage);
                tokio::spawn(async move {
                    let outcome = stage.store.replace_wrapped_key(&key("alice", created), b"old", &[replacer]).await?;
                    TestResult::Ok((outcome == Replacement::Replaced).then_some(replacer).ok_or(outcome))
                })
            })
            .collect();
        let (mut winners, mut losers) = (Vec::new(), Vec::new());
        for replacer in replacers {
            match replacer.await?? {
                Ok(winner) => winners.push(winner),
                Err(outcome) => losers.push(outcome),
            }
        }
        assert_eq!(losers, [Replacement::Changed; 3]);
        assert_eq!(stage.load("alice", created).await?, Some(record(created, &winners)));
    }
    Ok(())
}

pub(crate) async fn a_revocation_beside_a_replacement_loses_neither(stage: Stage) -> TestResult {
    let stage = Arc::new(stage);
    for created in 1..17 {
        stage.put("alice", &record(created, b"old")).await?;
        let there = Arc::clone(&stage);
        let revoking = tokio::spawn(async move { there.store.revoke(&key("alice", created)).await });
        let outcome = stage.store.replace_wrapped_key(&key("alice", created), b"old", b"new").await?;
        assert_eq!(outcome, Replacement::Replaced);
        assert_eq!(revoking.await??, Revocation::Revoked);
        let both = EnvelopeKeyRecord { revoked: true, ..record(created, b"new") };
        assert_eq!(stage.load("alice", created).await?, Some(both));
    }
    Ok(())
}
