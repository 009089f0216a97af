//! What the service refuses, what others say in its place, and what helps.

use keyward::kms::{AwsKms, KeyManagementService, KmsError, KmsFailure, KmsFailureKind as Kind};
use serde_json::json;

use crate::kms_support::{ORDER, SECRET, Stage, TestResult, client, text, wrap};
use crate::servers::{AwsError, AwsFault};

/// Codes of the service, with their status, what they mean, and what helps. `#` is the operation.
#[rustfmt::skip]
const CODES: [(u16, &str, Kind, &str); 22] = [
    (400, "AccessDeniedException", Kind::AccessDenied, "allow kms:# on the key, to this principal and in the key's policy"),
    (400, "OptInRequired", Kind::AccessDenied, "enable the region or the service in the account"),
    (400, "DisabledException", Kind::KeyDisabled, "enable the key in this region"),
    (400, "KMSInvalidStateException", Kind::KeyDisabled, "cancel its deletion, or enable it"),
    (400, "NotFoundException", Kind::KeyNotFound, "check the ARN, its account and its region"),
    (400, "UnrecognizedClientException", Kind::Credentials, "check access key, session token and region"),
    (403, "InvalidClientTokenId", Kind::Credentials, "check access key"),
    (400, "MissingAuthenticationTokenException", Kind::Credentials, "check access key"),
    (400, "InvalidSignatureException", Kind::Credentials, "check the secret access key"),
    (400, "ExpiredTokenException", Kind::Credentials, "get new ones"),
    (400, "RequestTimeTooSkewed", Kind::Credentials, "set the clock of this machine"),
    (400, "ThrottlingException", Kind::Throttled, "ask for a higher quota"),
    (400, "LimitExceededException", Kind::Throttled, "ask for a higher quota"),
    (500, "KMSInternalException", Kind::Unavailable, ""),
    (500, "DependencyTimeoutException", Kind::Unavailable, ""),
    (500, "KeyUnavailableException", Kind::Unavailable, ""),
    (503, "ServiceUnavailable", Kind::Unavailable, ""),
    (500, "NobodyKnowsThis", Kind::Unavailable, ""),
    (400, "InvalidArnException", Kind::Refused, "check the ARN"),
    (400, "ValidationException", Kind::Refused, "check the ARN"),
    (400, "InvalidKeyUsageException", Kind::Refused, "a symmetric one for encryption"),
    (400, "NobodyKnowsThis", Kind::Refused, ""),
];

/// A region whose requests are sent once.
async fn stage() -> TestResult<Option<(Stage, AwsKms)>> {
    let Some(stage) = Stage::new(&ORDER[..1]).await? else { return Ok(None) };
    let kms = once(&stage)?;
    Ok(Some((stage, kms)))
}

fn once(stage: &Stage) -> TestResult<AwsKms> {
    stage.kms(|options| {
        options.retries.attempts = 1;
        options.retries.breaker = None;
    })
}

/// The one failure of an error.
fn failure(error: &KmsError) -> TestResult<&KmsFailure> {
    match error {
        KmsError::Failed { failures, .. } if failures.len() == 1 => Ok(&failures[0]),
        _ => Err(format!("{error:?}").into()),
    }
}

#[tokio::test]
async fn each_refusal_says_what_helps() -> TestResult {
    let Some((stage, kms)) = stage().await? else { return Ok(()) };
    let place = &stage.places[0];
    let wrapped = wrap(&kms).await?.outcome?;
    for (status, code, kind, advice) in CODES {
        // As the service words it: ARNs in the first line; a signature that is wrong repeats the request in others.
        let message = format!(
            "User: arn:aws:sts::111122223333:assumed-role/app/i-0 is not authorized on resource: {}\\n\\n{SECRET}",
            place.arn
        );
        place.proxy.set(AwsFault::Error(AwsError { status, code, message, date: None }));
        for (operation, begins) in [("GenerateDataKey", "wrapping"), ("Decrypt", "opening")] {
            if (code, operation) == ("ValidationException", "Decrypt") {
                continue;
            }
            stage.forget();
            let refused = match operation {
                "GenerateDataKey" => wrap(&kms).await?.outcome.map(drop),
                _ => kms.decrypt_key(&wrapped).await.map(drop),
            };
            let refused = refused.expect_err(code);
            let text = text(&refused);
            let told = failure(&refused)?;
            assert_eq!((told.kind, told.place.as_str()), (kind, ORDER[0]), "{text}");
            assert_eq!(refused.is_transient(), kind.is_transient(), "{text}");
            assert!(text.starts_with(&format!("{begins} a system key with AWS KMS: {}: {kind} (", ORDER[0])), "{text}");
            assert!(text.contains(code) && text.contains("is not authorized on resource: arn:…"), "{text}");
            assert!(text.contains(&advice.replace('#', operation)), "{text}");
            assert!(!text.contains("111122223333"), "{text}");
            assert_eq!(place.proxy.seen().len(), 1, "it is sent once");
        }
    }
    // Those that are about what was wrapped say that it does not open.
    for code in ["InvalidCiphertextException", "IncorrectKeyException", "ValidationException"] {
        place.proxy.set(AwsFault::error(400, code));
        let refused = kms.decrypt_key(&wrapped).await;
        assert!(matches!(refused, Err(KmsError::Undecryptable { .. })), "{refused:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_something_else_says_is_told_from_the_service() -> TestResult {
    let Some((stage, kms)) = stage().await? else { return Ok(()) };
    let wrapped = wrap(&kms).await?.outcome?;
    for (status, page, kind) in [
        (200, "<html>Please log in</html>", Kind::Refused),
        (403, "<html>The proxy forbids this</html>", Kind::Refused),
        (404, "", Kind::Refused),
        (502, "<html>Bad gateway</html>", Kind::Unavailable),
        (503, "", Kind::Unavailable),
        (429, "slow down", Kind::Throttled),
    ] {
        stage.places[0].proxy.set(AwsFault::Page(status, page));
        let failed = kms.decrypt_key(&wrapped).await.expect_err(page);
        let text = text(&failed);
        assert_eq!(failure(&failed)?.kind, kind, "{text}");
        assert!(text.contains("check the endpoint") && text.contains(&status.to_string()), "{text}");
    }
    for answer in [
        json!({}),
        json!({"Plaintext": "AAAA", "KeyId": "x"}),
        json!({"Plaintext": "", "CiphertextBlob": "AAAA"}),
        json!({"Plaintext": crate::quorum::base64(&[7; 33]), "CiphertextBlob": "AAAA"}),
    ] {
        stage.places[0].proxy.set(AwsFault::Answer(answer));
        for failed in [kms.decrypt_key(&wrapped).await.map(drop), wrap(&kms).await?.outcome.map(drop)] {
            let failed = failed.expect_err("that is no key");
            let text = text(&failed);
            assert_eq!(failure(&failed)?.kind, Kind::Refused, "{text}");
            assert!(text.contains("check the endpoint"), "{text}");
        }
    }
    Ok(())
}

/// A key that opens nothing must not be stored.
#[tokio::test]
async fn an_answer_without_the_wrapped_key_wraps_nothing() -> TestResult {
    let Some(stage) = Stage::new(&ORDER[..2]).await? else { return Ok(()) };
    let kms = stage.kms(|options| options.min_regions = Some(1))?;
    stage.places[0].proxy.set(AwsFault::Answer(json!({"Plaintext": crate::quorum::base64(&[7; 32]), "KeyId": "x"})));
    stage.places[1].proxy.set(AwsFault::Answer(json!({"CiphertextBlob": "AAAA"})));
    let failed = wrap(&kms).await?.outcome.expect_err("nobody has wrapped a key");
    let text = text(&failed);
    assert!(text.contains("holds no wrapped key") && text.contains("holds no key of 32 bytes"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_from_a_wrong_key() -> TestResult {
    let Some((stage, kms)) = stage().await? else { return Ok(()) };
    let wrapped = wrap(&kms).await?.outcome?;
    for (code, message) in [
        ("InvalidSignatureException", "Signature expired: 20010101T000000Z is now earlier"),
        ("RequestTimeTooSkewed", "The difference is too large."),
    ] {
        let date = Some("Mon, 01 Jan 2001 00:00:00 GMT");
        let error = AwsError { status: 400, code, message: message.to_owned(), date };
        stage.places[0].proxy.set(AwsFault::Error(error));
        let failed = kms.decrypt_key(&wrapped).await.expect_err("the clock is off");
        let text = text(&failed);
        assert!(text.contains("set the clock of this machine"), "{text}");
        assert_eq!(failure(&failed)?.kind, Kind::Credentials, "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_region_that_is_not_there_is_told_by_its_endpoint() -> TestResult {
    let Some(stage) = Stage::new(&ORDER[..1]).await? else { return Ok(()) };
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let nowhere = format!("http://{}", listener.local_addr()?);
    drop(listener);
    let clients = [client(&nowhere, ORDER[0])];
    let kms = AwsKms::from_clients(clients, stage.options()?)?;
    let failed = wrap(&kms).await?.outcome.expect_err("nobody is there");
    let text = text(&failed);
    assert_eq!(failure(&failed)?.kind, Kind::Network, "{text}");
    assert!(text.contains("is the endpoint right, and the server running?"), "{text}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_is_sent() -> TestResult {
    let Some(stage) = Stage::new(&ORDER[..2]).await? else { return Ok(()) };
    let one = AwsKms::from_clients([stage.places[0].client.clone()], stage.options()?);
    let text = text(&one.expect_err("a region has no client"));
    assert!(text.contains("no client is given for the region us-west-2"), "{text}");
    let mut options = stage.options()?;
    options.preferred = None;
    let clients = stage.places.iter().map(|place| place.client.clone());
    let refused = AwsKms::from_clients(clients, options).expect_err("none is preferred");
    assert!(refused.to_string().contains("none is preferred"), "{refused}");
    assert!(stage.places.iter().all(|place| place.proxy.seen().is_empty()));
    Ok(())
}

/// Whole ARNs are for whoever looks for an error of the service, at debug level.
#[cfg(feature = "cli")]
#[tokio::test]
async fn arns_are_logged_at_debug_level_alone() -> TestResult {
    use keyward::kms::KmsAdmin;
    use tracing_subscriber::filter::LevelFilter;

    let Some(stage) = Stage::new(&ORDER[..2]).await? else { return Ok(()) };
    let row = wrap(&stage.kms_of(&[0], |_| {})?).await?.outcome?;
    let kms = stage.kms(|options| options.min_regions = Some(1))?;
    let message = format!("may not use {}", stage.places[1].arn);
    stage.places[1].proxy.set(AwsFault::Error(AwsError {
        status: 400,
        code: "AccessDeniedException",
        message,
        date: None,
    }));
    for (level, is_whole) in [(LevelFilter::INFO, false), (LevelFilter::DEBUG, true)] {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(level);
        let subscriber = subscriber.with_writer(move || writer.clone()).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        assert!(kms.repair_key(&row).await.is_err());
        drop(guard);
        let log = String::from_utf8(log.0.lock().map_err(|_| "a writer panicked")?.clone())?;
        let ours: Vec<&str> = log.lines().filter(|line| line.contains("keyward")).collect();
        assert_eq!(ours.iter().any(|line| line.contains(&stage.places[1].arn)), is_whole, "{ours:?}");
        assert!(is_whole || !log.contains("arn:aws"), "{log}");
        assert!(!ours.iter().any(|line| line.contains(SECRET)), "{ours:?}");
    }
    Ok(())
}

/// Collects what is logged.
#[cfg(feature = "cli")]
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

#[cfg(feature = "cli")]
impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().map_or(Ok(0), |mut log| log.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
