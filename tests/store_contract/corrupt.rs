//! Rows that are no key records. What a store cannot hold at all is passed over.

use keyward::KeyId;
use keyward::stores::{KeyAdmin, StoreError, StoreOutcome};

use crate::stage::{Stage, TestResult, key, record, tombstone};

pub(crate) async fn a_corrupt_row_is_never_absent(stage: Stage) -> TestResult {
    for (id, text) in CORRUPT {
        if !stage.write(id, 5, text).await? {
            continue;
        }
        let error = stage.load(id, 5).await.expect_err(id);
        assert!(matches!(&error, StoreError::Corrupt { created: Some(5), id: named, .. } if named == id), "{error}");
        assert!(matches!(stage.latest(id).await, Err(StoreError::Corrupt { created: Some(5), .. })), "{id}");
        let outcome = stage.store(id, &record(5, b"k")).await?;
        assert_eq!(outcome, StoreOutcome::Duplicate, "{id}");
    }
    Ok(())
}

pub(crate) async fn a_corrupt_row_does_not_end_a_listing(stage: Stage) -> TestResult {
    stage.put("A", &record(5, b"k")).await?;
    let mut corrupt = 0;
    for (id, text) in CORRUPT {
        corrupt += usize::from(stage.write(id, 5, text).await?);
    }
    stage.put("z", &record(5, b"k")).await?;
    let rows = stage.store.list(None, 100).await?;
    assert_eq!(rows.len(), corrupt + 2);
    let mut good: Vec<_> = rows.iter().filter(|row| row.record.is_ok()).map(|row| row.key.id.as_str()).collect();
    good.sort_unstable();
    assert_eq!(good, ["A", "z"]);
    Ok(())
}

pub(crate) async fn a_corrupt_row_is_not_changed_and_can_be_shredded(stage: Stage) -> TestResult {
    for (id, text) in CORRUPT {
        if !stage.write(id, 5, text).await? {
            continue;
        }
        let before = stage.text(id, 5).await?;
        let revoked = stage.store.revoke(&key(id, 5)).await.expect_err(id);
        let replaced = stage.store.replace_wrapped_key(&key(id, 5), &[0, 1, 2], b"new").await.expect_err(id);
        for error in [revoked, replaced] {
            assert!(
                matches!(&error, StoreError::Corrupt { created: Some(5), id: named, .. } if named == id),
                "{error}"
            );
        }
        assert_eq!(stage.text(id, 5).await?, before, "it is left as it is");
        assert_eq!(stage.store.shred(&KeyId::new(id), &tombstone()).await?, [key(id, 5)]);
        assert_eq!(stage.rows_of(id).await?, [tombstone()], "{id}");
    }
    Ok(())
}

/// Rows that are no key records, by id; all stored as created at 5.
const CORRUPT: [(&str, &str); 6] = [
    ("empty", ""),
    ("no json", "{"),
    ("no record", "{}"),
    ("no base64", r#"{"Created":5,"Key":"?"}"#),
    ("null", "null"),
    ("other time", r#"{"Created":6,"Key":"AAEC"}"#),
];
