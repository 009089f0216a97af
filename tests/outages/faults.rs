//! Networks that are slow, refuse or go silent.

use std::time::Duration;

use keyward::Error;
use keyward::stores::StoreError;

use crate::stage::{Backend, Fault, TestResult, World};

const CROWD: usize = 200;

/// Keeps a crowd busy for a second, so that there is a middle.
const SLOW: Fault = Fault::Delay(Duration::from_millis(5));

pub(crate) async fn a_slow_network_costs_time_and_nothing_else(backend: &Backend) -> TestResult {
    let world = World::new(backend, |_| ()).await?;
    let first = world.encrypt("first").await?;
    world.proxy.set(Fault::Delay(Duration::from_millis(50)));
    let (mut records, late) = world.crowd(CROWD).end(&world, is_late).await?;
    // Five connections have not got the time for all of them.
    assert!(records.len() >= CROWD / 20, "only {} were in time", records.len());
    world.proxy.set(Fault::None);
    records.extend(world.recover(late).await?);
    assert_eq!(records.len(), CROWD);
    records.push(("first".to_owned(), first));
    world.check(&records).await?;
    world.close().await
}

pub(crate) async fn a_server_that_refuses_for_a_second_is_back_afterwards(backend: &Backend) -> TestResult {
    let world = World::new(backend, |_| ()).await?;
    let first = world.encrypt("first").await?;
    world.proxy.set(SLOW);
    let crowd = world.crowd(CROWD);
    crowd.middle().await?;
    world.proxy.set(Fault::Refuse);
    world.proxy.cut_all();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.proxy.set(Fault::None);
    let (mut records, failed) = crowd.end(&world, may_pass).await?;
    assert!(world.number("keyward_metastore_failures_total{store=\"primary\",class=\"transient\"}") >= 1.0);
    records.extend(world.recover(failed).await?);
    assert_eq!(records.len(), CROWD);
    records.push(("first".to_owned(), first));
    world.check(&records).await?;
    world.close().await
}

pub(crate) async fn a_network_that_goes_silent_delays_nobody_beyond_the_deadline(backend: &Backend) -> TestResult {
    let world = World::new(backend, |setup| {
        setup.retries.attempt_timeout = Duration::from_millis(300);
        setup.operation_timeout = Duration::from_secs(2);
    })
    .await?;
    let first = world.encrypt("first").await?;
    world.proxy.set(SLOW);
    let crowd = world.crowd(CROWD);
    crowd.middle().await?;
    world.proxy.set(Fault::HalfOpen);
    let (mut records, failed) = crowd.end(&world, may_pass).await?;
    assert!(!failed.is_empty(), "the silence came too late");
    assert!(world.number("keyward_metastore_failures_total{store=\"primary\",class=\"timeout\"}") >= 1.0);
    world.proxy.set(Fault::None);
    records.extend(world.recover(failed).await?);
    assert_eq!(records.len(), CROWD);
    records.push(("first".to_owned(), first));
    world.check(&records).await?;
    world.close().await
}

fn is_late(error: &Error) -> bool {
    match error {
        Error::Timeout { .. } => true,
        // While the first calls are late, others are not made for a moment.
        Error::Metastore(source) => {
            matches!(**source, StoreError::Timeout { .. } | StoreError::PoolTimeout { .. } | StoreError::Open { .. })
        }
        _ => false,
    }
}

fn may_pass(error: &Error) -> bool {
    matches!(error, Error::Timeout { .. } | Error::Metastore(_)) && error.is_transient()
}
