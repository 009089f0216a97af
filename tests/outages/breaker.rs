//! Servers that keep failing.

use std::time::{Duration, Instant};

use keyward::stores::StoreError;
use keyward::{BreakerPolicy, Error, RetryPolicy};

use crate::stage::{Backend, Fault, TestResult, World, eventually};

pub(crate) async fn a_store_that_keeps_failing_is_not_asked_for_a_while(backend: &Backend) -> TestResult {
    let pause = Duration::from_millis(700);
    let world = World::new(backend, |setup| {
        setup.retries = RetryPolicy::none();
        let mut breaker = BreakerPolicy::default();
        (breaker.failures, breaker.first_pause, breaker.most_pause) = (3, pause, pause);
        setup.retries.breaker = Some(breaker);
    })
    .await?;
    let mut records = vec![("first".to_owned(), world.encrypt("first").await?)];
    world.proxy.set(Fault::Refuse);
    world.proxy.cut_all();
    for number in 0..3 {
        let error = world.encrypt(&format!("p{number}")).await.expect_err("nobody is there");
        let Error::Metastore(source) = &error else { return Err(error.into()) };
        assert!(matches!(**source, StoreError::Transient { .. }), "{source:?}");
    }
    let (began, connections) = (Instant::now(), world.proxy.connections());
    for number in 0..20 {
        let error = world.encrypt(&format!("q{number}")).await.expect_err("it is not asked");
        let Error::Metastore(source) = &error else { return Err(error.into()) };
        let StoreError::Open { place, failures: 3, retry_in, .. } = &**source else { return Err(error.into()) };
        assert_eq!(place, world.store.place());
        assert!(*retry_in <= pause, "{retry_in:?}");
        assert!(source.to_string().contains(place.as_str()) && source.to_string().contains("asked again in"));
    }
    assert!(began.elapsed() < pause, "calls that are not made take no time: {:?}", began.elapsed());
    assert_eq!(world.proxy.connections(), connections, "it was asked all the same");
    assert_eq!(world.number("keyward_metastore_breaker_open{store=\"primary\"}"), 1.0);

    world.proxy.set(Fault::None);
    eventually("it is asked again", async || match world.encrypt("alice").await {
        Ok(record) => {
            records.push(("alice".to_owned(), record));
            true
        }
        Err(_) => false,
    })
    .await?;
    assert!(began.elapsed() < pause + Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(world.number("keyward_metastore_breaker_open{store=\"primary\"}"), 0.0);
    records.extend(world.recover((0..20).map(|number| format!("q{number}")).collect()).await?);
    world.check(&records).await?;
    world.close().await
}
