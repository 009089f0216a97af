//! Where errors of the SDK come from, and what helps.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::Plaintext;

/// How long credentials may take where none are at hand; as long as the SDK waits for them.
pub(crate) const CREDENTIALS_TIME: Duration = Duration::from_secs(5);

const NO_CREDENTIALS: &str = "give the process AWS credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a \
    role of the machine or container";
const ODD_CREDENTIALS: &str = "check what the process takes its AWS credentials from";
const CLOCK: &str = "set the clock of this machine: requests are signed with the time";
const UNREACHED: &str = "look at the name of the endpoint and the network between";
const CERTIFICATE: &str = "check the certificate of the endpoint, and the authorities that this machine trusts";
const STRANGER: &str =
    "something else than the service answered: check the endpoint, and the proxies between (HTTPS_PROXY, NO_PROXY)";

/// How far a clock may be off; [as signatures allow](https://docs.aws.amazon.com/IAM/latest/UserGuide/signing-elements.html).
const SKEW: Duration = Duration::from_secs(5 * 60);

/// The words of a service that are kept: signature errors repeat the whole request from the second line on, with its session
/// token.
const WORDS: usize = 400;

/// An error of the SDK, as far as it matters.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) origin: Origin,
    pub(crate) advice: Option<&'static str>,
    /// In one line.
    pub(crate) words: String,
}

/// Where an error comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The service has a code for it.
    Service {
        code: String,
        status: u16,
    },
    /// What answered is not the service, or has no words.
    Stranger {
        status: u16,
    },
    /// This machine's clock is wrong; the SDK signs the next request with the service's time.
    Clock,
    Timeout,
    Network,
    /// The other end is not trusted.
    Certificate,
    /// There are no credentials.
    NoCredentials,
    /// There may be credentials later.
    LateCredentials,
    /// No request could be made.
    Unmade,
}

/// Tells where an error comes from; `advice` says what helps, where that does not depend on the service.
pub(crate) fn judge<E>(error: &SdkError<E, HttpResponse>) -> Told
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let told = |origin, advice, words| Told { origin, advice, words };
    match error {
        SdkError::ServiceError(service) => {
            let (status, meta) = (service.raw().status().as_u16(), service.err().meta());
            let Some(code) = meta.code().filter(|code| is_code(code)) else {
                return told(Origin::Stranger { status }, Some(STRANGER), format!("HTTP status {status}"));
            };
            // As the SDK's own `RequestId` trait, whose crate is no dependency otherwise.
            let words = words(code, meta.message(), meta.extra("aws_request_id"));
            if code == "RequestTimeTooSkewed" || clock_is_off(code, service.raw()) {
                return told(Origin::Clock, Some(CLOCK), words);
            }
            told(Origin::Service { code: code.to_owned(), status }, None, words)
        }
        // The connection ended within the answer: what was asked for may have been done.
        SdkError::ResponseError(response) if response.raw().body().bytes().is_none() => {
            told(Origin::Network, Some(UNREACHED), chain(error))
        }
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            told(Origin::Stranger { status }, Some(STRANGER), format!("no answer of the service, HTTP status {status}"))
        }
        SdkError::TimeoutError(_) => told(Origin::Timeout, Some(UNREACHED), chain(error)),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            told(Origin::Timeout, Some(UNREACHED), chain(error))
        }
        SdkError::DispatchFailure(_) => {
            let (origin, advice) = cause(error);
            told(origin, Some(advice), chain(error))
        }
        _ => told(Origin::Unmade, Some("check region, endpoint and profile"), chain(error)),
    }
}

/// What a code means that all services share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Common {
    Throttled,
    Unavailable,
    AccessDenied,
    Credentials,
}

/// Tells what an [error that all services share](https://docs.aws.amazon.com/general/latest/gr/api-error-codes.html) means, and
/// what helps; `None` where the code is of no meaning here.
pub(crate) fn common(code: &str) -> Option<(Common, Option<&'static str>)> {
    Some(match code {
        "RequestLimitExceeded"
        | "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "SlowDown"
        | "TooManyRequestsException" => (
            Common::Throttled,
            Some("the rate of requests is limited: ask for a higher quota, or find who sends so many"),
        ),
        "InternalServerError"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "RequestTimeout"
        | "RequestTimeoutException" => (Common::Unavailable, None),
        "AccessDeniedException" | "AccessDenied" => (Common::AccessDenied, None),
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "MissingAuthenticationTokenException"
        | "MissingAuthenticationToken"
        | "IncompleteSignature"
        | "IncompleteSignatureException" => (
            Common::Credentials,
            Some("AWS does not know these credentials: check access key, session token and region"),
        ),
        "InvalidSignatureException" | "SignatureDoesNotMatch" => (
            Common::Credentials,
            Some("check the secret access key, the region, and what changes requests on their way"),
        ),
        "ExpiredTokenException" | "ExpiredToken" | "RequestExpired" => {
            (Common::Credentials, Some("the session credentials have expired: get new ones"))
        }
        "OptInRequired" | "SubscriptionRequiredException" => {
            (Common::AccessDenied, Some("enable the region or the service in the account"))
        }
        _ => return None,
    })
}

/// Tells where an error comes from that no server said.
fn cause(error: &(dyn Error + 'static)) -> (Origin, &'static str) {
    let (mut cause, mut otherwise) = (Some(error), (Origin::Network, UNREACHED));
    while let Some(error) = cause {
        if error.is::<Plaintext>() {
            return (Origin::Unmade, Plaintext::ADVICE);
        }
        match error.downcast_ref::<CredentialsError>() {
            Some(CredentialsError::CredentialsNotLoaded(_)) => return (Origin::NoCredentials, NO_CREDENTIALS),
            Some(CredentialsError::InvalidConfiguration(_)) => return (Origin::NoCredentials, ODD_CREDENTIALS),
            // Those of a role may be wanting for lack of others.
            Some(_) => otherwise = (Origin::LateCredentials, ODD_CREDENTIALS),
            None => {}
        }
        if let Some(error) = error.downcast_ref::<io::Error>().filter(|_| otherwise.0 == Origin::Network) {
            return match innermost(error).kind() {
                io::ErrorKind::ConnectionRefused => (Origin::Network, "is the endpoint right, and the server running?"),
                // What is no TLS, or a certificate that is not trusted.
                io::ErrorKind::InvalidData => (Origin::Certificate, CERTIFICATE),
                _ => (Origin::Network, UNREACHED),
            };
        }
        cause = error.source();
    }
    otherwise
}

/// Returns the error that others of its type are wrapped around; as sources they pass it over.
fn innermost(error: &io::Error) -> &io::Error {
    error.get_ref().and_then(|inner| inner.downcast_ref()).map_or(error, innermost)
}

/// Whether a signature was refused because the service's clock shows another time; it is in every answer.
fn clock_is_off(code: &str, answer: &HttpResponse) -> bool {
    let is_about_signature = ["InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure"].contains(&code);
    let theirs = answer.headers().get("date").and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
    let theirs = theirs.and_then(|date| SystemTime::try_from(date).ok());
    let off = |theirs: SystemTime| {
        let ours = SystemTime::now();
        ours.duration_since(theirs).or_else(|_| theirs.duration_since(ours)).is_ok_and(|off| off > SKEW)
    };
    is_about_signature && theirs.is_some_and(off)
}

/// Whether it is a word of a service; a proxy's page may stand in its place.
fn is_code(text: &str) -> bool {
    text.len() <= 80 && text.chars().all(|character| character.is_ascii_alphanumeric() || "_.:".contains(character))
}

/// Returns the service's own words.
fn words(code: &str, message: Option<&str>, request: Option<&str>) -> String {
    let mut text = code.to_owned();
    if let Some(line) = message.and_then(|message| message.lines().next()) {
        text.push_str(": ");
        text.extend(line.chars().take(WORDS));
    }
    if let Some(request) = request {
        text.push_str(&format!(" (request {request})"));
    }
    text
}

/// Returns an error of the SDK in one line; its causes tell more than it does, and what tells the same is left out.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string().replace('\n', " ");
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_line_of_a_service_is_kept() {
        let message = "The signature does not match.\n\nThe Canonical String: x-amz-security-token:hunter2";
        let text = words("InvalidSignatureException", Some(message), Some("4711"));
        assert_eq!(text, "InvalidSignatureException: The signature does not match. (request 4711)");
        assert!(words("X", Some(&"é".repeat(1000)), None).chars().count() < 500);
    }
}
