//! Copies of a table that are behind, or dead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward::BreakerPolicy;
use keyward::stores::StoreOutcome;

use crate::stage::{Backend, Fault, Proxy, Records, Store, TestResult, World, builder, encrypt};

const SECOND: Duration = Duration::from_secs(1);

/// Encrypts for so many partitions, with a factory of its own.
async fn written(backend: &Backend, count: usize) -> TestResult<Records> {
    let factory = builder(backend.store().await?)?.build().await?;
    let mut records = Records::new();
    for number in 0..count {
        let partition = format!("p{number}");
        let record = encrypt(&factory, &partition).await?;
        records.push((partition, record));
    }
    factory.close().await?;
    Ok(records)
}

/// Decrypts, and returns how long that took.
async fn read(world: &World<'_>, records: &Records) -> TestResult<Duration> {
    let began = Instant::now();
    for (partition, record) in records {
        assert_eq!(world.factory.session(partition).await?.decrypt(record).await?, partition.as_bytes());
    }
    Ok(began.elapsed())
}

pub(crate) async fn rows_that_a_replica_lacks_come_from_the_primary(backend: &Backend) -> TestResult {
    let records = written(backend, 3).await?;
    let replica: Arc<dyn Store> = backend.another().await?.store().await?;
    let world = World::new(backend, |setup| setup.replica = Some(Arc::clone(&replica))).await?;
    read(&world, &records).await?;
    // Each of three intermediate keys and the system key, asked of both.
    let loads = format!("ael_metastore_{}_load_seconds_count", world.store.kind());
    assert_eq!(world.number(&loads), 8.0);
    world.encrypt("new").await?;
    assert!(replica.list(None, 10).await?.is_empty(), "nothing is stored in a replica");
    world.close().await
}

pub(crate) async fn rows_that_a_replica_has_are_not_asked_of_the_primary(backend: &Backend) -> TestResult {
    let records = written(backend, 3).await?;
    let replica = backend.another().await?.store().await?;
    for row in backend.store().await?.list(None, 100).await? {
        assert_eq!(replica.store(&row.key.id, &row.record?).await?, StoreOutcome::Stored);
    }
    let world = World::new(backend, |setup| setup.replica = Some(replica)).await?;
    world.proxy.set(Fault::Refuse);
    world.proxy.cut_all();
    read(&world, &records).await?;
    world.proxy.set(Fault::None);
    world.close().await
}

pub(crate) async fn a_dead_replica_costs_its_attempts_and_then_nothing(backend: &Backend) -> TestResult {
    let records = written(backend, 12).await?;
    let copy = backend.another().await?;
    let proxy = Proxy::start(copy.port)?;
    for fault in [Fault::HalfOpen, Fault::Refuse] {
        let replica = copy.store_at(proxy.port(), 2, SECOND).await?;
        let attempt = Duration::from_millis(300);
        let world = World::new(backend, |setup| {
            setup.replica = Some(replica);
            setup.retries.attempt_timeout = attempt;
            let mut breaker = BreakerPolicy::default();
            (breaker.failures, breaker.first_pause, breaker.most_pause) = (3, 60 * SECOND, 60 * SECOND);
            setup.retries.breaker = Some(breaker);
        })
        .await?;
        proxy.set(fault);
        proxy.cut_all();
        let (first, others) = (records[..4].to_vec(), records[4..].to_vec());
        let after = read(&world, &first).await?;
        assert!(after < 3 * attempt + SECOND, "{fault:?}: each failure costs an attempt at most, not {after:?}");
        let after = read(&world, &others).await?;
        assert!(after < 6 * attempt, "{fault:?}: it is not waited for eight times more, but {after:?}");
        let failures = |class: &str| {
            world.number(&format!("keyward_metastore_failures_total{{store=\"replica\",class=\"{class}\"}}"))
        };
        assert_eq!(failures("timeout") + failures("transient"), 3.0, "{fault:?}");
        assert!(failures("open") >= 8.0, "{fault:?}");
        assert_eq!(world.number("keyward_metastore_breaker_open{store=\"replica\"}"), 1.0);
        assert_eq!(world.number("keyward_metastore_breaker_open{store=\"primary\"}"), 0.0);
        proxy.set(Fault::None);
        world.close().await?;
    }
    Ok(())
}
