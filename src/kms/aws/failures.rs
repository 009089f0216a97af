//! What errors of AWS KMS mean, and what helps.

use std::error::Error;

use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};

use super::arn::redact;
use crate::aws::{Common, Origin, common, judge};
use crate::error::{KmsFailure, KmsFailureKind};

/// What is asked of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    GenerateDataKey,
    Encrypt,
    Decrypt,
}

impl Request {
    /// Returns the service's own name for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::GenerateDataKey => "GenerateDataKey",
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
        }
    }

    /// Names the right that it needs.
    fn right(self) -> &'static str {
        match self {
            Self::GenerateDataKey => "allow kms:GenerateDataKey on the key, to this principal and in the key's policy",
            Self::Encrypt => "allow kms:Encrypt on the key, to this principal and in the key's policy",
            Self::Decrypt => "allow kms:Decrypt on the key, to this principal and in the key's policy",
        }
    }
}

/// Sorts an error, and says what helps. The whole text, with its ARNs, goes to the log at debug level alone.
pub(super) fn failure<E>(region: &str, request: Request, error: &SdkError<E, HttpResponse>) -> KmsFailure
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let told = judge(error);
    tracing::debug!(region, request = request.name(), words = told.words, "AWS KMS failed");
    let (kind, advice) = match &told.origin {
        Origin::Service { code, status } => meaning(request, code).unwrap_or_else(|| by_status(*status)),
        Origin::Stranger { status } => (by_status(*status).0, told.advice),
        Origin::Clock | Origin::NoCredentials => (KmsFailureKind::Credentials, told.advice),
        Origin::Timeout => (KmsFailureKind::Timeout, told.advice),
        Origin::Network => (KmsFailureKind::Network, told.advice),
        Origin::LateCredentials => (KmsFailureKind::Unavailable, told.advice),
        Origin::Certificate | Origin::Unmade => (KmsFailureKind::Refused, told.advice),
    };
    KmsFailure::new(region, kind, redact(&told.words)).advise(advice)
}

/// Tells what an [error of KMS](https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html#API_Decrypt_Errors) means;
/// `None` where the code is of no meaning here.
fn meaning(request: Request, code: &str) -> Option<(KmsFailureKind, Option<&'static str>)> {
    use KmsFailureKind as Kind;
    Some(match code {
        "DisabledException" => (Kind::KeyDisabled, Some("enable the key in this region, or configure another one")),
        "KMSInvalidStateException" => (
            Kind::KeyDisabled,
            Some("the key is disabled, being made or about to be deleted: cancel its deletion, or enable it"),
        ),
        "NotFoundException" => (Kind::KeyNotFound, Some("check the ARN, its account and its region")),
        "KeyUnavailableException"
        | "KMSInternalException"
        | "DependencyTimeoutException"
        | "CloudHsmClusterNotActiveException"
        | "XksKeyNotFoundException" => (Kind::Unavailable, None),
        "LimitExceededException" => (Kind::Throttled, Some("ask for a higher quota of KMS requests")),
        "InvalidCiphertextException" => (Kind::Tampered, None),
        // Of what was wrapped: the ARN has been looked at.
        "ValidationException" if request == Request::Decrypt => (Kind::Tampered, None),
        "IncorrectKeyException" => (
            Kind::Tampered,
            Some("it was wrapped under another key: name that one in `former`, if it was configured before"),
        ),
        "InvalidKeyUsageException" => {
            (Kind::Refused, Some("the key must be a symmetric one for encryption: SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT"))
        }
        "InvalidArnException" | "ValidationException" => (Kind::Refused, Some("check the ARN")),
        _ => {
            let (meaning, advice) = common(code)?;
            match meaning {
                Common::Throttled => (Kind::Throttled, advice),
                Common::Unavailable => (Kind::Unavailable, advice),
                Common::AccessDenied => (Kind::AccessDenied, advice.or(Some(request.right()))),
                Common::Credentials => (Kind::Credentials, advice),
            }
        }
    })
}

fn by_status(status: u16) -> (KmsFailureKind, Option<&'static str>) {
    let kind = match status {
        429 => KmsFailureKind::Throttled,
        // Whoever has not even an idea of what is asked is somebody else.
        501 | 505 => KmsFailureKind::Refused,
        408 | 500.. => KmsFailureKind::Unavailable,
        _ => KmsFailureKind::Refused,
    };
    (kind, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_by_whether_another_try_may_help() {
        use KmsFailureKind as Kind;
        for (code, kind) in [
            ("AccessDeniedException", Kind::AccessDenied),
            ("DisabledException", Kind::KeyDisabled),
            ("KMSInvalidStateException", Kind::KeyDisabled),
            ("NotFoundException", Kind::KeyNotFound),
            ("ThrottlingException", Kind::Throttled),
            ("KMSInternalException", Kind::Unavailable),
            ("InvalidCiphertextException", Kind::Tampered),
            ("IncorrectKeyException", Kind::Tampered),
            ("ExpiredTokenException", Kind::Credentials),
        ] {
            assert_eq!(meaning(Request::Decrypt, code).map(|(kind, _)| kind), Some(kind), "{code}");
        }
        assert_eq!(meaning(Request::Decrypt, "Unheard"), None);
        assert_eq!((by_status(503).0, by_status(400).0), (Kind::Unavailable, Kind::Refused));
    }

    #[test]
    fn each_request_names_its_right() {
        for request in [Request::GenerateDataKey, Request::Encrypt, Request::Decrypt] {
            let (_, advice) = meaning(request, "AccessDeniedException").unwrap();
            assert!(advice.unwrap().contains(request.name()), "{request:?}");
        }
    }
}
