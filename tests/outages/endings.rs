//! Errors that stay, and closing meanwhile.

use std::time::{Duration, Instant};

use keyward::Error;
use keyward::stores::StoreError;
use tokio::time::timeout;

use crate::stage::{Backend, Fault, TestResult, World, eventually};

pub(crate) async fn an_error_that_stays_reaches_the_caller_and_makes_no_second_key(backend: &Backend) -> TestResult {
    let world = World::new(backend, |_| ()).await?;
    let first = world.encrypt("first").await?;
    backend.set_insertable(false)?;
    let rows = world.store.list(None, 100).await?.len();
    let calls = |call: &str| world.number(&format!("ael_metastore_{}_{call}_seconds_count", world.store.kind()));
    let (latest, stores) = (calls("loadlatest"), calls("store"));
    let error = world.encrypt("alice").await.expect_err("it may not");
    let Error::Metastore(source) = &error else { return Err(error.into()) };
    assert!(matches!(**source, StoreError::Permanent { advice: Some(_), .. }), "{source:?}");
    // It is asked once for the latest key, which there is none of, and once to store one.
    assert_eq!((calls("loadlatest"), calls("store")), (latest + 1.0, stores + 1.0));
    assert_eq!(world.store.list(None, 100).await?.len(), rows);
    // Keys that are there serve on.
    let mut records = vec![("first".to_owned(), first), ("first".to_owned(), world.encrypt("first").await?)];
    backend.set_insertable(true)?;
    records.push(("alice".to_owned(), world.encrypt("alice").await?));
    assert_eq!(world.store.list(None, 100).await?.len(), rows + 1);
    world.check(&records).await?;
    world.close().await
}

pub(crate) async fn closing_does_not_wait_for_calls_that_wait_for_a_connection(backend: &Backend) -> TestResult {
    const LONG: Duration = Duration::from_secs(60);
    let world = World::new(backend, |setup| {
        (setup.pool, setup.pool_wait) = (1, LONG);
        (setup.retries.attempt_timeout, setup.operation_timeout) = (LONG, LONG);
        setup.drain_timeout = Duration::from_millis(300);
    })
    .await?;
    world.encrypt("first").await?;
    world.proxy.set(Fault::HalfOpen);
    let crowd = world.crowd(20);
    eventually("all wait", async || world.factory.status().loads_in_flight >= 20).await?;
    let began = Instant::now();
    // Calls under way were given up: that is told.
    let closed = timeout(LONG / 2, world.factory.close()).await?;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}: {closed:?}", began.elapsed());
    let (records, failed) =
        crowd.end(&world, |error| matches!(error, Error::Closed | Error::Metastore(_)) || error.is_transient()).await?;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!((records.len(), failed.len()), (0, 20));
    assert_eq!(world.factory.status().live_keys, 0);
    Ok(())
}
