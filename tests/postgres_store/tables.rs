//! Tables that are missing, or differ so that they cannot work.

use keyward::stores::{Metastore, StoreError, StoreOutcome};
use keyward::{Error, KeyId};

use crate::stage::{
    ID, NO_SECRET, NOON, Postgres, TestResult, connect, factory, key, record, refused, says, store, user,
};

#[tokio::test]
async fn a_missing_table_is_refused_with_how_to_make_it() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.new_table()?;
    let opened = connect(&url).await?;
    server.sql("postgres", &format!("DROP TABLE {}.encryption_key", user(&url)))?;
    let error = refused(&url).await?;
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    let remedy = "make the table: keyward migrate --store … --apply";
    says(&error, NO_SECRET, &[&url, "looking at the key table", "there is no table encryption_key", remedy]);
    let error = opened.load(&key(ID, NOON)).await.expect_err("dropped meanwhile");
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, NO_SECRET, &[&url, "loading a key from Postgres", "42P01", remedy]);
    Ok(())
}

#[tokio::test]
async fn a_missing_column_is_named() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.new_table()?;
    let opened = connect(&url).await?;
    assert_eq!(opened.load(&key(ID, NOON)).await?, None);
    server.sql("postgres", &format!("ALTER TABLE {}.encryption_key RENAME key_record TO record", user(&url)))?;
    let error = refused(&url).await?;
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, NO_SECRET, &[&url, "there is no column key_record", "keyward migrate"]);
    let error = store(&opened, ID, NOON).await.expect_err("renamed meanwhile");
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, NO_SECRET, &[&url, "storing a key", "42703", "the table lacks a column"]);
    Ok(())
}

#[tokio::test]
async fn a_column_in_which_nothing_can_be_looked_up_is_named() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    for (id, created, text, word) in [
        ("INTEGER", "TIMESTAMPTZ", "JSONB", "the column id is integer"),
        ("TEXT", "BIGINT", "JSONB", "the column created is bigint"),
        ("TEXT", "TIMESTAMPTZ", "BYTEA", "the column key_record is bytea"),
    ] {
        let url = server.table(id, created, text)?;
        says(&refused(&url).await?, NO_SECRET, &[&url, word, "keyward migrate"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_table_without_a_primary_key_is_refused() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.new_table()?;
    let opened = connect(&url).await?;
    let table = format!("{}.encryption_key", user(&url));
    server.sql("postgres", &format!("ALTER TABLE {table} DROP CONSTRAINT encryption_key_pkey"))?;
    let error = refused(&url).await?;
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, NO_SECRET, &[&url, "no primary key or unique index is over (id, created)", "keyward migrate"]);
    let error = store(&opened, ID, NOON).await.expect_err("dropped meanwhile");
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, NO_SECRET, &[&url, "42P10", "the table needs PRIMARY KEY (id, created)"]);
    assert_eq!(server.sql("postgres", &format!("SELECT count(*) FROM {table}"))?.trim(), "0");
    // Another unique index does as well.
    server.sql("postgres", &format!("CREATE UNIQUE INDEX ON {table} (id, created)"))?;
    let opened = connect(&url).await?;
    assert_eq!(store(&opened, ID, NOON).await?, StoreOutcome::Stored);
    assert_eq!(store(&opened, ID, NOON).await?, StoreOutcome::Duplicate);
    Ok(())
}

#[tokio::test]
async fn an_id_that_is_too_long_is_refused_for_good() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.new_table()?;
    let opened = connect(&url).await?;
    let long = "x".repeat(300);
    let error = store(&opened, &long, NOON).await.expect_err("too long");
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    let advice = "the key id is longer than the column id: shorten partition, service or product";
    says(&error, NO_SECRET, &[&url, "storing a key", "22001", advice]);
    assert_eq!(opened.load_latest(&KeyId::new(&long)).await?, None, "looking for it is no error");
    // A partition that is allowed may still be too long for a column that somebody made short.
    let url = server.table("VARCHAR(60)", "TIMESTAMPTZ", "JSONB")?;
    let factory = factory("svc", connect(&url).await?).await?;
    let error = factory.session(&long[..100]).await?.encrypt(b"tea").await.expect_err("too long");
    assert!(matches!(&error, Error::Metastore(source) if !source.is_transient()), "{error:?}");
    says(&error, NO_SECRET, &[&url, advice]);
    Ok(factory.close().await?)
}

#[tokio::test]
async fn a_table_that_is_changed_while_it_is_used_goes_on_over_a_new_connection() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.table("TEXT", "TIMESTAMP", "TEXT")?;
    let opened = connect(&url).await?;
    assert_eq!(store(&opened, ID, NOON).await?, StoreOutcome::Stored);
    assert_eq!(opened.load(&key(ID, NOON)).await?, Some(record(NOON)));
    server.sql(
        "postgres",
        &format!(
            "ALTER TABLE {}.encryption_key ALTER created TYPE TIMESTAMPTZ USING created AT TIME ZONE 'UTC', \
             ALTER key_record TYPE JSONB USING key_record::jsonb",
            user(&url)
        ),
    )?;
    if let Err(error) = opened.load(&key(ID, NOON)).await {
        assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
        says(&error, NO_SECRET, &[&url, "0A000", "the table was changed; the connection is made anew"]);
    }
    assert_eq!(opened.load(&key(ID, NOON)).await?, Some(record(NOON)));
    assert_eq!(store(&opened, ID, NOON + 60).await?, StoreOutcome::Stored);
    assert_eq!(opened.load_latest(&KeyId::new(ID)).await?, Some(record(NOON + 60)));
    Ok(())
}
