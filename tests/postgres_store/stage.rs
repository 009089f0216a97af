//! Servers, stores and keys of these stories.

use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

use keyward::kms::StaticKms;
use keyward::stores::{Metastore, PostgresMetastore, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta, SessionFactory};

pub(crate) use crate::servers::{Postgres, PostgresSetup, TestResult};

/// 2026-01-01T12:00:00Z.
pub(crate) const NOON: i64 = 1_767_268_800;

pub(crate) const ID: &str = "_IK_alice_svc_prod";

pub(crate) fn key(id: &str, created: i64) -> KeyMeta {
    KeyMeta { id: KeyId::new(id), created }
}

pub(crate) fn record(created: i64) -> EnvelopeKeyRecord {
    let parent_key = Some(key("_SK_svc_prod", created));
    EnvelopeKeyRecord { created, encrypted_key: vec![7; 60], parent_key, revoked: false }
}

pub(crate) async fn connect(url: &str) -> TestResult<PostgresMetastore> {
    Ok(PostgresMetastore::connect(url.parse()?).await?)
}

/// Connects in vain.
pub(crate) async fn refused(url: &str) -> TestResult<StoreError> {
    match PostgresMetastore::connect(url.parse()?).await {
        Ok(_) => Err("it connected".into()),
        Err(error) => Ok(error),
    }
}

pub(crate) async fn store(store: &PostgresMetastore, id: &str, created: i64) -> Result<StoreOutcome, StoreError> {
    store.store(&KeyId::new(id), &record(created)).await
}

/// Builds a factory over a store.
pub(crate) async fn factory(service: &str, store: PostgresMetastore) -> TestResult<SessionFactory> {
    let kms = StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?;
    Ok(SessionFactory::builder(service, "prod").metastore(store).kms(kms).build().await?)
}

/// Encrypts and decrypts something for a partition.
pub(crate) async fn works(factory: &SessionFactory, partition: &str) -> TestResult {
    let session = factory.session(partition).await?;
    let record = session.encrypt(partition.as_bytes()).await?;
    assert_eq!(session.decrypt(&record).await?, partition.as_bytes());
    Ok(())
}

/// Checks that an error and its causes say all of `words`, and neither they nor their debug text a secret.
pub(crate) fn says(error: &(dyn Error + 'static), secret: &str, words: &[&str]) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
    assert!(!secret.is_empty() && !text.contains(secret), "a secret is in {text}");
    let debug = format!("{error:?} {error:#?}");
    assert!(!debug.contains(secret), "a secret is in {debug}");
}

/// What no address of a server without passwords holds.
pub(crate) const NO_SECRET: &str = "no secret is given";

/// Asks until the answer is what it should be: for what a server does in its own time.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) -> TestResult {
    let began = Instant::now();
    while !ask().await {
        if began.elapsed() > Duration::from_secs(20) {
            return Err(format!("never happened: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Returns the user of an address, which is also the name of its schema.
pub(crate) fn user(url: &str) -> &str {
    url.split("//").nth(1).and_then(|rest| rest.split(['@', ':']).next()).unwrap_or_default()
}

/// Makes a user beside that of `url`, who finds the same table and may do what `rights` name; returns their address.
pub(crate) fn other_user(server: &Postgres, url: &str, name: &str, rights: &str) -> TestResult<String> {
    let schema = user(url);
    let name = format!("{schema}_{name}");
    server.sql(
        "postgres",
        &format!(
            "CREATE ROLE {name} LOGIN; ALTER ROLE {name} SET search_path = {schema}; \
             GRANT USAGE ON SCHEMA {schema} TO {name}; GRANT {rights} ON {schema}.encryption_key TO {name}"
        ),
    )?;
    Ok(url.replacen(schema, &name, 1))
}
