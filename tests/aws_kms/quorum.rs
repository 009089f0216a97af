//! How many regions are enough, and how the others are added.

use std::time::{Duration, Instant};

use keyward::kms::{KeyManagementService, KmsAdmin, KmsError, KmsFailureKind, WrapFinding};
use secrecy::ExposeSecret;

use crate::kms_support::{ORDER, Stage, TestResult, envelope, new_key, regions, text, wrap};
use crate::servers::AwsFault;

fn denied() -> AwsFault {
    AwsFault::error(400, "AccessDeniedException")
}

#[tokio::test]
async fn a_region_that_was_missed_is_counted_and_added_later() -> TestResult {
    let Some(stage) = Stage::new(&ORDER).await? else { return Ok(()) };
    let kms = stage.kms(|options| options.min_regions = Some(2))?;
    stage.places[1].proxy.set(denied());
    let wrapped = wrap(&kms).await?;
    let (key, old) = (wrapped.key, wrapped.outcome?);
    assert_eq!(regions(&old)?, [ORDER[0], ORDER[2]]);
    assert_eq!(kms.health().iter().map(|health| health.missed_wraps).collect::<Vec<_>>(), [0, 1, 0]);
    let missing = WrapFinding::Missing { place: ORDER[1].to_owned() };
    assert_eq!(kms.inspect_key(&old).await?, [missing]);
    let alone = stage.kms_of(&[1], |_| {})?;
    let failed = alone.decrypt_key(&old).await.expect_err("it is not wrapped for this region");
    let KmsError::Failed { failures, .. } = &failed else { return Err(format!("{failed:?}").into()) };
    assert_eq!(failures.iter().map(|failure| failure.kind).collect::<Vec<_>>(), [KmsFailureKind::NotWrapped]);
    assert!(text(&failed).contains("configure a region that it is wrapped for"), "{}", text(&failed));

    stage.places[1].proxy.set(AwsFault::None);
    stage.forget();
    let new = kms.repair_key(&old).await?.ok_or("a region was missing")?;
    let asked: Vec<_> = stage.places.iter().map(|place| place.asked()).collect();
    assert_eq!(
        asked,
        [[0, 0, 1], [0, 1, 0], [0, 0, 0]],
        "it is opened where it can be, and wrapped where it could not"
    );
    assert_eq!(regions(&new)?, [ORDER[0], ORDER[2], ORDER[1]]);
    let (before, after) = (envelope(&old)?, envelope(&new)?);
    assert_eq!(after["encryptedKey"], before["encryptedKey"]);
    for at in 0..2 {
        assert_eq!(after["kmsKeks"][at], before["kmsKeks"][at], "what is there stays");
    }
    assert_eq!(alone.decrypt_key(&new).await?.expose_secret(), key);
    assert_eq!((kms.inspect_key(&new).await?, kms.repair_key(&new).await?), (vec![], None));
    Ok(())
}

#[tokio::test]
async fn a_repair_adds_what_can_be_had_and_fails_where_nothing_can() -> TestResult {
    let Some(stage) = Stage::new(&ORDER).await? else { return Ok(()) };
    let kms = stage.kms(|options| options.min_regions = Some(1))?;
    stage.places[1].proxy.set(denied());
    stage.places[2].proxy.set(denied());
    let wrapped = wrap(&kms).await?;
    let old = wrapped.outcome?;
    assert_eq!(regions(&old)?, [ORDER[0]]);
    let failed = kms.repair_key(&old).await.expect_err("both others are down");
    let KmsError::Failed { failures, .. } = &failed else { return Err(format!("{failed:?}").into()) };
    let places: Vec<&str> = failures.iter().map(|failure| failure.place.as_str()).collect();
    assert_eq!(places, ORDER[1..]);
    assert!(text(&failed).contains("allow kms:Encrypt on the key"), "{}", text(&failed));

    stage.places[2].proxy.set(AwsFault::None);
    let half = kms.repair_key(&old).await?.ok_or("one can be added")?;
    assert_eq!(regions(&half)?, [ORDER[0], ORDER[2]]);
    // The key is opened by a region that could not before.
    stage.places[0].proxy.set(denied());
    stage.places[1].proxy.set(AwsFault::None);
    let whole = kms.repair_key(&half).await?.ok_or("the last one can be added")?;
    assert_eq!(regions(&whole)?, [ORDER[0], ORDER[2], ORDER[1]]);
    assert_eq!(stage.kms_of(&[1], |_| {})?.decrypt_key(&whole).await?.expose_secret(), wrapped.key);
    Ok(())
}

/// Whoever changed the row would otherwise have another key of theirs wrapped for regions that they cannot ask.
#[tokio::test]
async fn a_data_key_that_does_not_open_the_system_key_is_given_to_nobody() -> TestResult {
    let Some(stage) = Stage::new(&ORDER).await? else { return Ok(()) };
    let kms = stage.kms_of(&[0], |_| {})?;
    let (one, other) = (wrap(&kms).await?.outcome?, wrap(&kms).await?.outcome?);
    let mut mixed = envelope(&one)?;
    mixed["encryptedKey"] = envelope(&other)?["encryptedKey"].clone();
    stage.forget();
    let refused = stage.kms(|_| {})?.repair_key(mixed.to_string().as_bytes()).await;
    assert!(matches!(refused, Err(KmsError::Undecryptable { .. })), "{refused:?}");
    let encrypts: usize = stage.places.iter().map(|place| place.proxy.count("Encrypt")).sum();
    assert_eq!(encrypts, 0);
    Ok(())
}

/// One that takes its time is still in; one that says nothing is left out.
#[tokio::test]
async fn regions_beyond_those_that_are_enough_have_the_time_of_one_request() -> TestResult {
    let Some(stage) = Stage::new(&ORDER).await? else { return Ok(()) };
    let kms = stage.kms(|options| {
        options.min_regions = Some(1);
        options.request_timeout = Duration::from_secs(2);
        options.retries.attempt_timeout = Duration::from_secs(30);
    })?;
    stage.places[1].proxy.set(AwsFault::Delay(Duration::from_millis(500)));
    stage.places[2].proxy.set(AwsFault::Swallow);
    let began = Instant::now();
    let wrapped = wrap(&kms).await?.outcome?;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(regions(&wrapped)?, [ORDER[0], ORDER[1]]);
    assert_eq!(kms.health().iter().map(|health| health.missed_wraps).collect::<Vec<_>>(), [0, 0, 1]);
    Ok(())
}

#[tokio::test]
async fn a_key_that_was_replaced_still_opens_what_it_wrapped_where_it_is_named() -> TestResult {
    let Some(mut stage) = Stage::new(&ORDER[..1]).await? else { return Ok(()) };
    let former = stage.places[0].arn.clone();
    let wrapped = wrap(&stage.kms(|_| {})?).await?;
    let old = wrapped.outcome?;
    stage.places[0].arn = new_key(&stage.places[0].direct).await?;

    let without = stage.kms(|_| {})?;
    let refused = without.decrypt_key(&old).await;
    let refused = refused.expect_err("it is another key");
    assert!(matches!(refused, KmsError::Undecryptable { .. }), "{refused:?}");
    assert!(
        text(&refused).contains("eu-west-1: tampered") && text(&refused).contains("`former`"),
        "{}",
        text(&refused)
    );
    let (place, key) = (ORDER[0].to_owned(), format!("…{}", &former[former.len() - 4..]));
    let strange = WrapFinding::Unconfigured { place: place.clone(), key: key.clone() };
    assert_eq!(without.inspect_key(&old).await?, [WrapFinding::Missing { place: place.clone() }, strange.clone()]);
    assert!(without.repair_key(&old).await.is_err(), "nobody opens it");

    let former_key = former.parse()?;
    let with = stage.kms(|options| options.former = vec![former_key])?;
    stage.forget();
    assert_eq!(with.decrypt_key(&old).await?.expose_secret(), wrapped.key);
    let seen = stage.places[0].proxy.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(envelope(&seen[0].body)?["KeyId"], former, "the request names the key that is expected to open");
    let new = wrap(&with).await?.outcome?;
    assert_eq!(envelope(&new)?["kmsKeks"][0]["arn"], stage.places[0].arn, "what is new is wrapped under the new key");

    // Once it is wrapped under the new one too, the old one is needed no more.
    assert_eq!(with.inspect_key(&old).await?, [WrapFinding::Former { place, key }]);
    let both = with.repair_key(&old).await?.ok_or("it was wrapped under the old key alone")?;
    assert_eq!((with.inspect_key(&both).await?, with.repair_key(&both).await?), (vec![], None));
    assert_eq!(envelope(&both)?["kmsKeks"][0], envelope(&old)?["kmsKeks"][0], "what is there stays");
    stage.forget();
    assert_eq!(without.decrypt_key(&both).await?.expose_secret(), wrapped.key);
    assert_eq!(stage.places[0].proxy.count("Decrypt"), 1, "the data key that opens is asked for first");
    assert_eq!(without.inspect_key(&both).await?, [strange]);
    Ok(())
}

/// A row that names a key of somebody else's opens as little as one that does not.
#[tokio::test]
async fn a_key_that_is_not_configured_is_never_asked_for() -> TestResult {
    let Some(stage) = Stage::new(&ORDER[..1]).await? else { return Ok(()) };
    let theirs = new_key(&stage.places[0].direct).await?;
    let mut row = envelope(&wrap(&stage.kms(|_| {})?).await?.outcome?)?;
    let kek = stage.places[0].direct.encrypt().key_id(&theirs).plaintext(aws_sdk_kms::primitives::Blob::new([7; 32]));
    let kek = kek.send().await?.ciphertext_blob.ok_or("no wrapped key")?;
    row["kmsKeks"][0]["encryptedKek"] = base64(kek.as_ref()).into();
    for arn in [&theirs, &stage.places[0].arn] {
        row["kmsKeks"][0]["arn"] = arn.as_str().into();
        stage.forget();
        let refused = stage.kms(|_| {})?.decrypt_key(row.to_string().as_bytes()).await;
        assert!(matches!(refused, Err(KmsError::Undecryptable { .. })), "{refused:?}");
        let seen = stage.places[0].proxy.seen();
        assert!(seen.iter().all(|exchange| !String::from_utf8_lossy(&exchange.body).contains(&theirs)));
        assert_eq!(seen.len(), 1);
    }
    Ok(())
}

#[tokio::test]
async fn each_region_is_checked_by_doing_what_will_be_asked_of_it() -> TestResult {
    let Some(stage) = Stage::new(&ORDER).await? else { return Ok(()) };
    stage.places[1].proxy.set_for("Encrypt", denied());
    stage.places[2].proxy.set_for("Decrypt", denied());
    let checks = stage.kms(|_| {})?.check().await;
    let good: Vec<(&str, bool)> = checks.iter().map(|check| (check.place.as_str(), check.is_good())).collect();
    assert_eq!(good, [(ORDER[0], true), (ORDER[1], false), (ORDER[2], false)]);
    for (check, failing) in checks[1..].iter().zip(["Encrypt", "Decrypt"]) {
        for step in &check.steps {
            assert_eq!(step.outcome.is_err(), step.name == failing, "{step:?}");
            if let Err(failure) = &step.outcome {
                assert!(failure.to_string().contains(&format!("allow kms:{failing} on the key")), "{failure}");
            }
        }
        assert_eq!(check.steps.len(), 3);
    }
    Ok(())
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
