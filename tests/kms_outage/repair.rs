//! Keys that were made while a region was away.

use std::sync::Arc;
use std::time::Duration;

use keyward::kms::{KmsAdmin, WrapFinding};
use keyward::stores::{InMemoryMetastore, Metastore};
use keyward::{EnvelopeKeyRecord, KeyId, SessionFactory};

use crate::stage::{Fault, Regions, TestResult, until};

async fn system_key(store: &InMemoryMetastore) -> TestResult<EnvelopeKeyRecord> {
    Ok(store.load_latest(&KeyId::new("_SK_svc_prod")).await?.ok_or("there is a system key")?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_was_away_is_added_when_it_is_back() -> TestResult {
    let Some(regions) = Regions::new(&["us-west-2", "us-east-1"]).await? else { return Ok(()) };
    let kms = Arc::new(regions.kms(|options| options.min_regions = Some(1))?);
    let store = Arc::new(InMemoryMetastore::new());
    let factory = SessionFactory::builder("svc", "prod")
        .metastore(Arc::clone(&store))
        .kms(Arc::clone(&kms))
        .repair_system_keys(Arc::clone(&kms), Arc::clone(&store))
        .repair_interval(Duration::from_millis(50))
        .build()
        .await?;
    regions.proxies[1].set(Fault::Refuse);
    let session = factory.session("alice").await?;
    let record = session.encrypt(b"tea").await?;
    let before = system_key(&store).await?;
    assert_eq!(kms.inspect_key(&before.encrypted_key).await?, [WrapFinding::Missing { place: "us-east-1".to_owned() }]);
    let missed = |at: usize| factory.status().kms[at].missed_wraps;
    assert_eq!((missed(0), missed(1)), (0, 1));

    regions.proxies[1].set(Fault::None);
    let is_repaired = || async {
        let row = system_key(&store).await.ok().map(|row| row.encrypted_key);
        matches!(kms.inspect_key(&row.unwrap_or_default()).await, Ok(found) if found.is_empty())
    };
    until("the repair", is_repaired).await?;
    let after = system_key(&store).await?;
    assert_eq!((after.created, after.revoked, after.parent_key), (before.created, before.revoked, before.parent_key));

    // Whoever has only that region left opens it.
    factory.close().await?;
    regions.proxies[0].set(Fault::Refuse);
    regions.proxies[0].cut_all();
    let other = SessionFactory::builder("svc", "prod").metastore(Arc::clone(&store)).kms(regions.kms(|_| ())?).build();
    let other = other.await?;
    assert_eq!(other.session("alice").await?.decrypt(&record).await?, b"tea");
    other.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_enough_regions_no_key_is_made() -> TestResult {
    let Some(regions) = Regions::new(&["us-west-2", "us-east-1"]).await? else { return Ok(()) };
    let store = Arc::new(InMemoryMetastore::new());
    let factory =
        SessionFactory::builder("svc", "prod").metastore(Arc::clone(&store)).kms(regions.kms(|_| ())?).build().await?;
    regions.proxies[1].set(Fault::Refuse);
    let session = factory.session("alice").await?;
    let failed = session
        .encrypt(b"tea")
        .await
        .map(drop)
        .map_err(|error| std::error::Error::source(&error).map(ToString::to_string));
    let text = failed.err().flatten().unwrap_or_default();
    assert!(text.contains("us-east-1: network") && !text.contains("us-west-2"), "{text}");
    assert!(store.load_latest(&KeyId::new("_SK_svc_prod")).await?.is_none());
    regions.proxies[1].set(Fault::None);
    until("the first key", || async { session.encrypt(b"tea").await.is_ok() }).await?;
    factory.close().await?;
    Ok(())
}
