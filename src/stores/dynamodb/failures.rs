//! What errors mean, and what helps.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::RequestId;
use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat};

use crate::error::StoreError;
use crate::stores::place::{permanent, transient};

pub(super) const CONNECTING: &str = "connecting to DynamoDB";
pub(super) const LOADING: &str = "loading a key from DynamoDB";
pub(super) const STORING: &str = "storing a key in DynamoDB";
pub(super) const LISTING: &str = "listing keys in DynamoDB";
pub(super) const REVOKING: &str = "revoking a key in DynamoDB";
pub(super) const SHREDDING: &str = "shredding a key in DynamoDB";
pub(super) const REPLACING: &str = "replacing a wrapped key in DynamoDB";
pub(super) const INSPECTING: &str = "looking at the key table in DynamoDB";
pub(super) const MIGRATING: &str = "changing the key table in DynamoDB";

pub(super) const NO_TABLE: &str = "check the name and the region, or make the table: keyward migrate --store … --apply";
pub(super) const NO_REGION: &str =
    "name the region: region=… in the address of the store, AWS_REGION, or the profile's own";
const NO_CREDENTIALS: &str = "give the process AWS credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a \
    role of the machine or container";
const ODD_CREDENTIALS: &str = "check what the process takes its AWS credentials from";
const CLOCK: &str = "set the clock of this machine: requests are signed with the time";
const UNREACHED: &str = "look at the name of the endpoint and the network between";
const NOT_DYNAMODB: &str =
    "something else than DynamoDB answered: check the endpoint, and the proxies between (HTTPS_PROXY, NO_PROXY)";

/// How far a clock may be off; [as signatures allow](https://docs.aws.amazon.com/IAM/latest/UserGuide/signing-elements.html).
const SKEW: Duration = Duration::from_secs(5 * 60);

/// The words of a service that are kept: signature errors repeat the whole request from the second line on, with its session
/// token.
const WORDS: usize = 400;

/// Whether the service hides something: the credentials may not see it, or it does not know the question.
pub(super) fn is_hidden<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let codes = ["AccessDeniedException", "AccessDenied", "UnknownOperationException", "UnsupportedOperationException"];
    error.code().is_some_and(|code| codes.contains(&code))
}

/// Sorts an error into transient and permanent, and says what helps.
pub(super) fn failure<E>(operation: &'static str, place: &str, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let sort = |is_transient| if is_transient { transient } else { permanent };
    match error {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let Some(code) = service.err().code().filter(|code| is_code(code)) else {
                let (is_transient, advice) = advice_on_status(status);
                return sort(is_transient)(operation, place, advice, format!("HTTP status {status}"));
            };
            let (is_transient, advice) = if clock_is_off(code, service.raw()) {
                (true, Some(CLOCK))
            } else {
                advice(operation, code).unwrap_or((status >= 500 || status == 429, None))
            };
            sort(is_transient)(operation, place, advice, words(code, service.err().message(), error.request_id()))
        }
        // The connection ended within the answer: what was asked for may have been done.
        SdkError::ResponseError(response) if response.raw().body().bytes().is_none() => {
            transient(operation, place, UNREACHED, chain(error))
        }
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            let (is_transient, advice) = advice_on_status(status);
            sort(is_transient)(operation, place, advice, format!("no answer of DynamoDB, HTTP status {status}"))
        }
        SdkError::TimeoutError(_) => transient(operation, place, UNREACHED, chain(error)),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            transient(operation, place, UNREACHED, chain(error))
        }
        SdkError::DispatchFailure(_) => {
            let (is_transient, advice) = advice_on_cause(error);
            sort(is_transient)(operation, place, advice, chain(error))
        }
        // No request could be made.
        _ => permanent(operation, place, "check region, endpoint and profile", chain(error)),
    }
}

/// Tells whether an [error](https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html) may pass,
/// and what helps; `None` where the code is of no meaning here.
fn advice(operation: &'static str, code: &str) -> Option<(bool, Option<&'static str>)> {
    Some(match code {
        "ProvisionedThroughputExceededException" => {
            (true, Some("more is asked of the table than is provisioned: raise its capacity, or make it on-demand"))
        }
        "RequestLimitExceeded" | "ThrottlingException" | "Throttling" | "ThrottledException" | "SlowDown" => {
            (true, Some("the rate of requests is limited: ask for a higher quota, or find who sends so many"))
        }
        "InternalServerError"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "LimitExceededException"
        | "ResourceInUseException"
        | "TransactionConflictException"
        | "TransactionInProgressException"
        | "ReplicatedWriteConflictException" => (true, None),
        "ResourceNotFoundException" | "TableNotFoundException" => (false, Some(NO_TABLE)),
        "AccessDeniedException" | "AccessDenied" => (false, Some(rights(operation))),
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "MissingAuthenticationTokenException"
        | "MissingAuthenticationToken"
        | "IncompleteSignature"
        | "IncompleteSignatureException" => {
            (false, Some("AWS does not know these credentials: check access key, session token and region"))
        }
        "InvalidSignatureException" | "SignatureDoesNotMatch" => {
            (false, Some("check the secret access key, the region, and what changes requests on their way"))
        }
        "ExpiredTokenException" | "ExpiredToken" | "RequestExpired" => {
            (false, Some("the session credentials have expired: get new ones"))
        }
        "RequestTimeTooSkewed" => (true, Some(CLOCK)),
        "ValidationException" | "SerializationException" => {
            (false, Some("is the table made for keys? keyward migrate --store … shows how it should be"))
        }
        "UnknownOperationException" => (false, Some("what is at the endpoint lacks this operation of DynamoDB")),
        "OptInRequired" | "SubscriptionRequiredException" => {
            (false, Some("enable the region or the service in the account"))
        }
        _ => return None,
    })
}

/// Names the rights that an operation needs.
fn rights(operation: &'static str) -> &'static str {
    match operation {
        LISTING => "allow dynamodb:Scan and dynamodb:Query on the table",
        REVOKING | REPLACING => "allow dynamodb:GetItem and dynamodb:UpdateItem on the table",
        SHREDDING => "allow dynamodb:Query, dynamodb:PutItem and dynamodb:DeleteItem on the table",
        INSPECTING => "allow dynamodb:DescribeTable on the table",
        MIGRATING => "allow dynamodb:CreateTable, DescribeTable, UpdateTable and UpdateContinuousBackups on the table",
        _ => "allow dynamodb:GetItem, dynamodb:Query and dynamodb:PutItem on the table",
    }
}

fn advice_on_status(status: u16) -> (bool, Option<&'static str>) {
    (status >= 500 || status == 408 || status == 429, Some(NOT_DYNAMODB))
}

/// The same for what no server said.
fn advice_on_cause(error: &(dyn Error + 'static)) -> (bool, Option<&'static str>) {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<CredentialsError>() {
            return match error {
                CredentialsError::CredentialsNotLoaded(_) => (false, Some(NO_CREDENTIALS)),
                CredentialsError::InvalidConfiguration(_) => (false, Some(ODD_CREDENTIALS)),
                _ => (true, Some(ODD_CREDENTIALS)),
            };
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match innermost(error).kind() {
                io::ErrorKind::ConnectionRefused => (true, Some("is the endpoint right, and the server running?")),
                // What is no TLS, or a certificate that is not trusted.
                io::ErrorKind::InvalidData => {
                    (false, Some("check the certificate of the endpoint, and the authorities that this machine trusts"))
                }
                _ => (true, Some(UNREACHED)),
            };
        }
        cause = error.source();
    }
    (true, Some(UNREACHED))
}

/// Returns the error that others of its type are wrapped around; as sources they pass it over.
fn innermost(error: &io::Error) -> &io::Error {
    error.get_ref().and_then(|inner| inner.downcast_ref()).map_or(error, innermost)
}

/// Whether a signature was refused because the service's clock shows another time; it is in every answer.
///
/// Such an error may pass: the SDK signs the next request with that time.
fn clock_is_off(code: &str, answer: &HttpResponse) -> bool {
    let is_about_signature = ["InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure"].contains(&code);
    let theirs = answer.headers().get("date").and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
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
        let words = error.to_string();
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
    fn what_passes_by_itself_is_transient() {
        for code in ["ProvisionedThroughputExceededException", "ThrottlingException", "InternalServerError"] {
            assert!(advice(LOADING, code).is_some_and(|(is_transient, _)| is_transient), "{code}");
        }
        for code in
            ["AccessDeniedException", "ResourceNotFoundException", "ExpiredTokenException", "ValidationException"]
        {
            let known = advice(LOADING, code).unwrap();
            assert!(!known.0 && known.1.is_some(), "{code}");
        }
        assert_eq!(advice(LOADING, "Unheard"), None);
    }

    #[test]
    fn each_operation_names_its_rights() {
        for (operation, right) in [
            (LOADING, "GetItem"),
            (STORING, "PutItem"),
            (LISTING, "Scan"),
            (REVOKING, "UpdateItem"),
            (REPLACING, "UpdateItem"),
            (SHREDDING, "DeleteItem"),
            (INSPECTING, "DescribeTable"),
            (MIGRATING, "UpdateContinuousBackups"),
        ] {
            assert!(rights(operation).contains(right), "{operation}");
        }
    }

    #[test]
    fn only_the_first_line_of_a_service_is_kept() {
        let message = "The signature does not match.\n\nThe Canonical String: x-amz-security-token:hunter2";
        let text = words("InvalidSignatureException", Some(message), Some("4711"));
        assert_eq!(text, "InvalidSignatureException: The signature does not match. (request 4711)");
        assert!(words("X", Some(&"é".repeat(1000)), None).chars().count() < 500);
    }
}
