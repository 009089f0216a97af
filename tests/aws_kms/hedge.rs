//! Regions that are slow: the next one is asked too, and who is first wins.

use std::time::{Duration, Instant};

use keyward::kms::{AwsKms, Hedge, KeyManagementService, KmsState};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::kms_support::{ORDER, Stage, TestResult, wrap};
use crate::quorum::base64;
use crate::servers::AwsFault;

/// Longer than anything else may take.
const SLOW: Duration = Duration::from_secs(12);
/// What is far from it.
const SOON: Duration = Duration::from_secs(8);

/// Regions, a service that hedges so, and a key that is wrapped for all.
async fn stage(hedge: Hedge) -> TestResult<Option<(Stage, AwsKms, Vec<u8>, [u8; 32])>> {
    let Some(stage) = Stage::new(&ORDER).await? else { return Ok(None) };
    let kms = stage.kms(|options| {
        options.hedge = hedge;
        options.retries.attempt_timeout = 2 * SLOW;
    })?;
    let wrapped = wrap(&kms).await?;
    stage.forget();
    Ok(Some((stage, kms, wrapped.outcome?, wrapped.key)))
}

fn decrypts(stage: &Stage) -> Vec<usize> {
    stage.places.iter().map(|place| place.proxy.count("Decrypt")).collect()
}

/// Opens a key, and returns how long that took.
async fn open(kms: &AwsKms, wrapped: &[u8], key: &[u8; 32]) -> TestResult<Duration> {
    let began = Instant::now();
    assert_eq!(kms.decrypt_key(wrapped).await?.expose_secret(), key);
    Ok(began.elapsed())
}

#[tokio::test]
async fn a_region_that_takes_too_long_is_left_behind() -> TestResult {
    let patience = Duration::from_secs(1);
    for fault in [AwsFault::Delay(SLOW), AwsFault::Swallow] {
        let Some((stage, kms, wrapped, key)) = stage(Hedge::After(patience)).await? else { return Ok(()) };
        stage.places[0].proxy.set(fault.clone());
        let took = open(&kms, &wrapped, &key).await?;
        assert!(took >= patience && took < SOON, "{took:?}");
        assert_eq!(decrypts(&stage), [1, 1, 0], "{fault:?}");
        stage.forget();
        stage.places[1].proxy.set(fault);
        let took = open(&kms, &wrapped, &key).await?;
        assert!(took >= 2 * patience && took < SOON, "{took:?}");
        assert_eq!(decrypts(&stage), [1, 1, 1]);
    }
    Ok(())
}

#[tokio::test]
async fn whoever_is_slow_still_wins_when_the_others_fail() -> TestResult {
    let Some((stage, kms, wrapped, key)) = stage(Hedge::After(Duration::from_millis(100))).await? else {
        return Ok(());
    };
    let slow = Duration::from_secs(2);
    stage.places[0].proxy.set(AwsFault::Delay(slow));
    for place in &stage.places[1..] {
        place.proxy.set(AwsFault::error(400, "AccessDeniedException"));
    }
    assert!(open(&kms, &wrapped, &key).await? >= slow);
    assert_eq!(decrypts(&stage), [1, 1, 1]);
    Ok(())
}

#[tokio::test]
async fn without_hedging_a_slow_region_is_waited_for() -> TestResult {
    let Some((stage, kms, wrapped, key)) = stage(Hedge::Off).await? else { return Ok(()) };
    let slow = Duration::from_secs(1);
    stage.places[0].proxy.set(AwsFault::Delay(slow));
    assert!(open(&kms, &wrapped, &key).await? >= slow);
    assert_eq!(decrypts(&stage), [1, 0, 0]);
    Ok(())
}

/// The patience begins with half a second, and ends near what answers take.
#[tokio::test]
async fn patience_is_learned_from_answers() -> TestResult {
    let Some((stage, kms, wrapped, key)) = stage(Hedge::Auto).await? else { return Ok(()) };
    stage.places[0].proxy.set(AwsFault::Delay(SLOW));
    let took = open(&kms, &wrapped, &key).await?;
    assert!(took >= Duration::from_millis(500) && took < SOON, "{took:?}");

    // Answers of the proxy's own, so that nobody else's load shows.
    let row: serde_json::Value = serde_json::from_slice(&wrapped)?;
    let kek = decode(row["kmsKeks"][0]["encryptedKek"].as_str().ok_or("text")?)?;
    let answer = stage.places[0].direct.decrypt().ciphertext_blob(aws_sdk_kms::primitives::Blob::new(kek));
    let plain = base64(answer.send().await?.plaintext.ok_or("no key")?.as_ref());
    stage.places[0].proxy.set(AwsFault::Answer(json!({"Plaintext": plain, "KeyId": stage.places[0].arn})));
    for _ in 0..64 {
        open(&kms, &wrapped, &key).await?;
    }
    stage.forget();
    stage.places[0].proxy.set(AwsFault::Delay(SLOW));
    let mut fastest = SLOW;
    for _ in 0..3 {
        fastest = fastest.min(open(&kms, &wrapped, &key).await?);
    }
    assert!(fastest >= Duration::from_millis(50) && fastest < Duration::from_millis(450), "{fastest:?}");
    assert_eq!(decrypts(&stage), [3, 3, 0]);
    Ok(())
}

/// A region that is asked as the second, and is not waited for as the first one answers after all, has not failed.
#[tokio::test]
async fn a_region_that_loses_a_race_is_not_taken_for_one_that_fails() -> TestResult {
    let Some((stage, kms, wrapped, key)) = stage(Hedge::After(Duration::from_secs(1))).await? else { return Ok(()) };
    stage.places[0].proxy.set(AwsFault::Delay(Duration::from_millis(1100)));
    stage.places[1].proxy.set(AwsFault::Delay(SLOW));
    for _ in 0..3 {
        open(&kms, &wrapped, &key).await?;
    }
    let health = kms.health();
    assert!(health[1].state.is_usable(), "{health:?}");
    stage.forget();
    stage.places[0].proxy.set(AwsFault::error(400, "DisabledException"));
    stage.places[1].proxy.set(AwsFault::None);
    open(&kms, &wrapped, &key).await?;
    assert_eq!(decrypts(&stage), [1, 1, 0], "it is asked when it is needed");
    Ok(())
}

/// One that is left behind each time has failed as good as one that says so.
#[tokio::test]
async fn a_region_that_always_takes_too_long_is_not_asked_for_a_while() -> TestResult {
    let patience = Duration::from_millis(500);
    let Some((stage, kms, wrapped, key)) = stage(Hedge::After(patience)).await? else { return Ok(()) };
    stage.places[0].proxy.set(AwsFault::Swallow);
    for _ in 0..5 {
        open(&kms, &wrapped, &key).await?;
    }
    assert_eq!(kms.health()[0].state, KmsState::Paused, "{:?}", kms.health());
    stage.forget();
    open(&kms, &wrapped, &key).await?;
    assert_eq!(decrypts(&stage), [0, 1, 0]);
    Ok(())
}

fn decode(text: &str) -> TestResult<Vec<u8>> {
    use base64::Engine;
    Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
}
