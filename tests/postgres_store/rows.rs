//! Rows that others wrote.

use keyward::stores::{KeyAdmin, Metastore, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId};

use crate::stage::{
    ID, NO_SECRET, NOON, Postgres, TestResult, connect, factory, key, record, says, store, user, works,
};

#[tokio::test]
async fn rows_of_other_services_and_rows_that_are_no_keys_disturb_nobody() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.new_table()?;
    server.sql(
        "postgres",
        &format!(
            "INSERT INTO {}.encryption_key VALUES ('settings', now(), '{{\"colour\": \"green\"}}'), \
             ('', 'infinity', '1'), ('_IK_alice_svc_prod_other', now(), '[]'), ('_SK_svc_prod ', now(), '\"x\"')",
            user(&url)
        ),
    )?;
    let opened = connect(&url).await?;
    let (mine, others) = (factory("svc", opened.clone()).await?, factory("other", opened.clone()).await?);
    for partition in ["alice", "bob"] {
        works(&mine, partition).await?;
        works(&others, partition).await?;
    }
    let record = mine.session("alice").await?.encrypt(b"tea").await?;
    assert!(others.session("alice").await?.decrypt(&record).await.is_err());
    let rows = opened.list(None, 100).await?;
    // Two system keys, four intermediate keys and what has a time that is one.
    assert_eq!(rows.iter().filter(|row| row.record.is_ok()).count(), 6);
    mine.close().await?;
    Ok(others.close().await?)
}

#[tokio::test]
async fn fields_that_are_null_are_as_good_as_none() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    for kind in ["JSONB", "JSON", "TEXT"] {
        let url = server.table("VARCHAR(255)", "TIMESTAMPTZ", kind)?;
        let text =
            format!(r#"{{"Revoked": null, "Created": {NOON}, "Key": "AAAA", "ParentKeyMeta": null, "More": []}}"#);
        server.sql(
            "postgres",
            &format!("INSERT INTO {}.encryption_key VALUES ('{ID}', to_timestamp({NOON}), '{text}')", user(&url)),
        )?;
        let expected = EnvelopeKeyRecord { created: NOON, encrypted_key: vec![0; 3], parent_key: None, revoked: false };
        let opened = connect(&url).await?;
        assert_eq!(opened.load(&key(ID, NOON)).await?, Some(expected.clone()), "{kind}");
        assert_eq!(opened.load_latest(&KeyId::new(ID)).await?, Some(expected), "{kind}");
    }
    Ok(())
}

#[tokio::test]
async fn a_row_that_is_no_record_is_corrupt_and_never_missing() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.table("TEXT", "TIMESTAMPTZ", "TEXT")?;
    let opened = connect(&url).await?;
    server.sql(
        "postgres",
        &format!("INSERT INTO {}.encryption_key VALUES ('{ID}', to_timestamp({NOON}), '{{\"Key\"')", user(&url)),
    )?;
    for answer in [opened.load(&key(ID, NOON)).await, opened.load_latest(&KeyId::new(ID)).await] {
        let error = answer.expect_err("it is no record");
        assert!(matches!(error, StoreError::Corrupt { created: Some(NOON), .. }), "{error:?}");
        says(&error, NO_SECRET, &[ID, "is corrupt"]);
    }
    assert_eq!(store(&opened, ID, NOON).await?, StoreOutcome::Duplicate, "it is not overwritten");
    Ok(())
}

#[tokio::test]
async fn two_stores_of_different_servers_live_in_one_process() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let urls = [server.new_table()?, server.table("TEXT", "TIMESTAMP", "JSON")?];
    let stores = [connect(&urls[0]).await?, connect(&urls[1]).await?];
    let factories = [factory("svc", stores[0].clone()).await?, factory("svc", stores[1].clone()).await?];
    let record_of_first = factories[0].session("alice").await?.encrypt(b"tea").await?;
    works(&factories[1], "bob").await?;
    for (at, expected) in [(0, ["_IK_alice_svc_prod", "_SK_svc_prod"]), (1, ["_IK_bob_svc_prod", "_SK_svc_prod"])] {
        let rows = stores[at].list(None, 10).await?;
        let ids: Vec<&str> = rows.iter().map(|row| row.key.id.as_str()).collect();
        assert_eq!(ids, expected, "{}", urls[at]);
    }
    assert_eq!(factories[0].session("alice").await?.decrypt(&record_of_first).await?, b"tea");
    assert_eq!(stores[1].load(record_of_first.parent_key()).await?, None);
    assert_eq!(store(&stores[1], ID, NOON).await?, StoreOutcome::Stored);
    assert_eq!(stores[0].load(&key(ID, NOON)).await?, None);
    assert_eq!(stores[1].load(&key(ID, NOON)).await?, Some(record(NOON)));
    factories[0].close().await?;
    Ok(factories[1].close().await?)
}
