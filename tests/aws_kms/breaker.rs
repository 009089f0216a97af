//! Regions that keep failing: they are left alone for a while, and then tried again.

use std::time::Duration;

use keyward::BreakerPolicy;
use keyward::kms::{AwsKms, Hedge, KeyManagementService, KmsError, KmsFailureKind as Kind, KmsHealth, KmsState};

use crate::kms_support::{ORDER, Stage, TestResult, text, wrap};
use crate::servers::AwsFault;

const PAUSE: Duration = Duration::from_secs(2);

/// Regions, a service that sends each request once, and a key that is wrapped for all.
async fn stage(count: usize) -> TestResult<Option<(Stage, AwsKms, Vec<u8>)>> {
    let Some(stage) = Stage::new(&ORDER[..count]).await? else { return Ok(None) };
    let mut breaker = BreakerPolicy::default();
    (breaker.failures, breaker.first_pause, breaker.most_pause) = (5, PAUSE, 4 * PAUSE);
    let kms = stage.kms(|options| {
        options.hedge = Hedge::Off;
        options.retries.attempts = 1;
        options.retries.breaker = Some(breaker);
    })?;
    let wrapped = wrap(&kms).await?.outcome?;
    stage.forget();
    Ok(Some((stage, kms, wrapped)))
}

fn first(kms: &AwsKms) -> KmsHealth {
    kms.health().swap_remove(0)
}

fn count(health: &KmsHealth, kind: Kind) -> u64 {
    health.failures.iter().find(|(known, _)| *known == kind).map_or(0, |(_, count)| *count)
}

#[tokio::test]
async fn a_region_that_keeps_failing_is_left_alone_and_tried_again() -> TestResult {
    let Some((stage, kms, wrapped)) = stage(2).await? else { return Ok(()) };
    let proxy = &stage.places[0].proxy;
    proxy.set(AwsFault::error(500, "KMSInternalException"));
    for failures in 1..=5 {
        kms.decrypt_key(&wrapped).await?;
        let state = if failures < 5 { KmsState::Failing } else { KmsState::Paused };
        assert_eq!(first(&kms).state, state);
    }
    for _ in 0..3 {
        kms.decrypt_key(&wrapped).await?;
    }
    assert_eq!(proxy.count("Decrypt"), 5, "it is not asked");
    let health = first(&kms);
    assert_eq!((count(&health, Kind::Unavailable), count(&health, Kind::Paused)), (5, 3));
    assert_eq!(kms.health()[1].state, KmsState::Up);

    // A trial that fails makes the pause longer.
    tokio::time::sleep(PAUSE).await;
    kms.decrypt_key(&wrapped).await?;
    kms.decrypt_key(&wrapped).await?;
    assert_eq!((proxy.count("Decrypt"), first(&kms).state), (6, KmsState::Paused));

    proxy.set(AwsFault::None);
    tokio::time::sleep(2 * PAUSE).await;
    kms.decrypt_key(&wrapped).await?;
    kms.decrypt_key(&wrapped).await?;
    assert_eq!((proxy.count("Decrypt"), first(&kms).state), (8, KmsState::Up));
    assert_eq!(stage.places[1].proxy.count("Decrypt"), 10);
    Ok(())
}

#[tokio::test]
async fn one_at_a_time_tries_and_the_others_go_elsewhere() -> TestResult {
    let Some((stage, kms, wrapped)) = stage(2).await? else { return Ok(()) };
    let proxy = &stage.places[0].proxy;
    proxy.set(AwsFault::error(500, "KMSInternalException"));
    for _ in 0..5 {
        kms.decrypt_key(&wrapped).await?;
    }
    proxy.set(AwsFault::Delay(Duration::from_millis(500)));
    tokio::time::sleep(PAUSE).await;
    stage.forget();
    let calls = futures_util::future::join_all((0..8).map(|_| kms.decrypt_key(&wrapped))).await;
    assert!(calls.iter().all(Result::is_ok));
    assert_eq!((proxy.count("Decrypt"), stage.places[1].proxy.count("Decrypt")), (1, 7));
    Ok(())
}

#[tokio::test]
async fn when_all_are_left_alone_the_error_says_for_how_long() -> TestResult {
    let Some((stage, kms, wrapped)) = stage(1).await? else { return Ok(()) };
    stage.places[0].proxy.set(AwsFault::Cut);
    for _ in 0..5 {
        assert!(kms.decrypt_key(&wrapped).await.is_err());
    }
    let failed = kms.decrypt_key(&wrapped).await.expect_err("it is not asked");
    let text = text(&failed);
    let KmsError::Failed { failures, .. } = &failed else { return Err(text.into()) };
    assert_eq!(failures.iter().map(|failure| failure.kind).collect::<Vec<_>>(), [Kind::Paused]);
    assert!(
        text.contains("5 failures in a row, the last one: network; asked again in") && failed.is_transient(),
        "{text}"
    );
    assert_eq!(stage.places[0].proxy.count("Decrypt"), 5);
    Ok(())
}

#[tokio::test]
async fn a_region_that_refuses_is_asked_each_time() -> TestResult {
    let Some((stage, kms, wrapped)) = stage(2).await? else { return Ok(()) };
    stage.places[0].proxy.set(AwsFault::error(400, "AccessDeniedException"));
    for _ in 0..10 {
        kms.decrypt_key(&wrapped).await?;
    }
    let health = first(&kms);
    assert_eq!((health.state, count(&health, Kind::AccessDenied)), (KmsState::Refusing, 10));
    assert_eq!(stage.places[0].proxy.count("Decrypt"), 10);
    Ok(())
}
