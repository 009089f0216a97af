//! What other implementations write and read, and what is no record.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use keyward::stores::{KeyAdmin, Metastore, Revocation, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId};
use serde_json::{Value, json};

use crate::dynamodb_support::{attribute, get, item, put, sorted};
use crate::servers::TestResult;
use crate::{chain, key, record, stages};

/// An intermediate key and a system key, as each implementation writes them.
fn written() -> [(&'static str, Value, bool); 11] {
    let parent = json!({"KeyId": "_SK_svc_prod", "Created": 60});
    let intermediate =
        |revoked: Value| json!({"Created": 120, "Key": "AAEC", "ParentKeyMeta": parent, "Revoked": revoked});
    [
        // Version 1 and 2 of the Go plugin leave out what says nothing; an item carries its keys beside the record.
        ("Go", json!({"Created": 120, "Key": "AAEC", "ParentKeyMeta": parent}), false),
        ("Go, revoked", intermediate(json!(true)), true),
        ("Go, a system key", json!({"Created": 120, "Key": "AAEC"}), false),
        ("Java", intermediate(json!(false)), false),
        ("C#", json!({"ParentKeyMeta": parent, "Revoked": false, "Key": "AAEC", "Created": 120}), false),
        ("Java, a system key", json!({"Created": 120, "Key": "AAEC", "Revoked": false}), false),
        ("the revoke script", intermediate(json!(true)), true),
        ("a converter with numbers", intermediate(json!(1)), true),
        ("a converter with numbers, valid", intermediate(json!(0)), false),
        (
            "a converter with NULL",
            json!({"Created": 120, "Key": "AAEC", "Revoked": null, "ParentKeyMeta": null}),
            false,
        ),
        (
            "lines of base64",
            json!({"Created": 120, "Key": "AA\r\nEC\n", "ParentKeyMeta": parent, "Note": [1, {}]}),
            false,
        ),
    ]
}

#[tokio::test]
async fn what_others_have_written_is_read() -> TestResult {
    for stage in stages().await? {
        for (writer, value, revoked) in written() {
            let has_parent = value.get("ParentKeyMeta").is_some_and(|parent| !parent.is_null());
            let expected = EnvelopeKeyRecord {
                parent_key: has_parent.then(|| key("_SK_svc_prod", 60)),
                revoked,
                ..record(120, &[0, 1, 2])
            };
            put(&stage.client, &stage.table, item(writer, 120, Some(attribute(&value)))).await?;
            assert_eq!(stage.store.load(&key(writer, 120)).await?.as_ref(), Some(&expected), "{writer}");
            assert_eq!(stage.store.load_latest(&KeyId::new(writer)).await?.as_ref(), Some(&expected), "{writer}");
            let rows = stage.store.versions(&KeyId::new(writer)).await?;
            assert!(rows.len() == 1 && rows[0].record.as_ref().is_ok_and(|found| *found == expected), "{writer}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_is_written_is_what_others_write() -> TestResult {
    for stage in stages().await? {
        let system = record(60, &[0, 1, 2]);
        let intermediate = EnvelopeKeyRecord { parent_key: Some(key("_SK_svc_prod", 60)), ..record(120, &[3, 4, 5]) };
        assert_eq!(stage.store.store(&KeyId::new("_SK_svc_prod"), &system).await?, StoreOutcome::Stored);
        assert_eq!(stage.store.store(&KeyId::new("_IK_a_svc_prod"), &intermediate).await?, StoreOutcome::Stored);
        let found = get(&stage.client, &stage.table, "_SK_svc_prod", 60).await?.ok_or("it was stored")?;
        let expected = item("_SK_svc_prod", 60, Some(attribute(&json!({"Created": 60, "Key": "AAEC"}))));
        assert_eq!(sorted(&found), sorted(&expected));
        let parent = json!({"KeyId": "_SK_svc_prod", "Created": 60});
        let mut value = json!({"Created": 120, "Key": "AwQF", "ParentKeyMeta": parent});
        let found = get(&stage.client, &stage.table, "_IK_a_svc_prod", 120).await?.ok_or("it was stored")?;
        assert_eq!(sorted(&found), sorted(&item("_IK_a_svc_prod", 120, Some(attribute(&value)))));

        assert_eq!(stage.store.revoke(&key("_IK_a_svc_prod", 120)).await?, Revocation::Revoked);
        value["Revoked"] = json!(true);
        let found = get(&stage.client, &stage.table, "_IK_a_svc_prod", 120).await?.ok_or("it was stored")?;
        assert_eq!(sorted(&found), sorted(&item("_IK_a_svc_prod", 120, Some(attribute(&value)))));
    }
    Ok(())
}

#[tokio::test]
async fn revoking_changes_nothing_else() -> TestResult {
    for stage in stages().await? {
        let mut value = json!({"Created": 5, "Key": "AA\nEC", "Revoked": "perhaps", "New": [{"x": 1}, null]});
        let mut before = item("alice", 5, Some(attribute(&value)));
        before.insert("Expires".to_owned(), AttributeValue::N("7".to_owned()));
        put(&stage.client, &stage.table, before.clone()).await?;
        assert_eq!(stage.store.revoke(&key("alice", 5)).await?, Revocation::Revoked);
        value["Revoked"] = json!(true);
        before.insert("KeyRecord".to_owned(), attribute(&value));
        let after = get(&stage.client, &stage.table, "alice", 5).await?.ok_or("it is there")?;
        assert_eq!(sorted(&after), sorted(&before));
    }
    Ok(())
}

#[tokio::test]
async fn an_item_that_is_no_record_is_corrupt_and_never_absent() -> TestResult {
    let map = |value: Value| Some(attribute(&value));
    let binary = AttributeValue::M(
        [
            ("Created".to_owned(), AttributeValue::N("5".to_owned())),
            ("Key".to_owned(), AttributeValue::B(Blob::new([0, 1, 2]))),
        ]
        .into(),
    );
    let cases = [
        (None, "no KeyRecord"),
        (Some(AttributeValue::S(r#"{"Created":5,"Key":"AAEC"}"#.to_owned())), "KeyRecord is a string"),
        (Some(AttributeValue::Null(true)), "KeyRecord is NULL"),
        (Some(binary), "KeyRecord.Key is binary"),
        (map(json!({"Created": "5", "Key": "AAEC"})), "KeyRecord.Created is a string, not a number"),
        (map(json!({"Created": 6, "Key": "AAEC"})), "it was created 6"),
        (map(json!({"Created": 5.5, "Key": "AAEC"})), "no whole number"),
        (map(json!({"Created": 5, "Key": "hunter2!"})), "not base64"),
        (map(json!({"Created": 5})), "no KeyRecord.Key"),
        (map(json!({"Created": 5, "Key": "AAEC", "ParentKeyMeta": {}})), "no KeyRecord.ParentKeyMeta.KeyId"),
        (map(json!({"Created": 5, "Key": "AAEC", "ParentKeyMeta": {"KeyId": "_SK", "Created": "3"}})), "is a string"),
        (map(json!({"Created": 5, "Key": "AAEC", "Revoked": "true"})), "KeyRecord.Revoked is a string"),
    ];
    for stage in stages().await? {
        for (number, (value, reason)) in cases.iter().enumerate() {
            let id = format!("corrupt {number}");
            put(&stage.client, &stage.table, item(&id, 5, value.clone())).await?;
            let corrupt = |error: StoreError| {
                assert!(matches!(&error, StoreError::Corrupt { id: named, created: Some(5), .. } if *named == id));
                let text = chain(&error);
                assert!(text.contains(reason), "{text}");
            };
            corrupt(stage.store.load(&key(&id, 5)).await.expect_err(reason));
            corrupt(stage.store.load_latest(&KeyId::new(&id)).await.expect_err(reason));
            assert_eq!(
                stage.store.store(&KeyId::new(&id), &record(5, b"k")).await?,
                StoreOutcome::Duplicate,
                "{reason}"
            );
            let rows = stage.store.versions(&KeyId::new(&id)).await?;
            assert!(rows.len() == 1 && rows[0].record.is_err(), "{reason}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_item_of_no_whole_second_is_corrupt_as_the_latest_and_can_be_shredded() -> TestResult {
    for stage in stages().await? {
        let mut odd = item("alice", 0, Some(attribute(&json!({"Created": 5, "Key": "AAEC"}))));
        odd.insert("Created".to_owned(), AttributeValue::N("5.5".to_owned()));
        put(&stage.client, &stage.table, odd).await?;
        let latest = stage.store.load_latest(&KeyId::new("alice")).await;
        assert!(matches!(latest, Err(StoreError::Corrupt { created: None, .. })), "{latest:?}");
        assert!(
            stage.store.list(None, 9).await?.is_empty() && stage.store.versions(&KeyId::new("alice")).await?.is_empty()
        );
        let tombstone = EnvelopeKeyRecord::tombstone(None);
        assert_eq!(stage.store.shred(&KeyId::new("alice"), &tombstone).await?, []);
        assert_eq!(stage.client.scan().table_name(&stage.table).send().await?.count, 1);
    }
    Ok(())
}

#[tokio::test]
async fn ids_of_up_to_2048_bytes_fit_and_longer_ones_are_refused() -> TestResult {
    for stage in stages().await? {
        for size in [300, 2048] {
            let id = KeyId::new(&"x".repeat(size));
            assert_eq!(stage.store.store(&id, &record(5, b"k")).await?, StoreOutcome::Stored);
            assert_eq!(stage.store.load_latest(&id).await?, Some(record(5, b"k")));
        }
        let refused = stage.store.store(&KeyId::new(&"x".repeat(2049)), &record(5, b"k")).await.expect_err("too long");
        assert!(matches!(refused, StoreError::Permanent { .. }), "{}", chain(&refused));
    }
    Ok(())
}

/// The service ends a page at 1 MiB.
#[tokio::test]
async fn more_than_one_page_is_read() -> TestResult {
    for stage in stages().await? {
        let large = vec![7; 150 * 1024];
        for created in 0..12 {
            let _ = stage.store.store(&KeyId::new("alice"), &record(created, &large)).await?;
        }
        assert_eq!(stage.store.versions(&KeyId::new("alice")).await?.len(), 12);
        assert_eq!(stage.store.list(None, 100).await?.len(), 12);
        assert_eq!(stage.store.list(Some(&key("alice", 9)), 100).await?.len(), 2);
        let destroyed = stage.store.shred(&KeyId::new("alice"), &EnvelopeKeyRecord::tombstone(None)).await?;
        assert_eq!(destroyed.len(), 12);
    }
    Ok(())
}
