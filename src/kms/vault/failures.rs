//! What answers mean, and what to do about them.

use std::error::Error;
use std::io;
use std::time::Duration;

use hyper::StatusCode;

use super::http::Answer;
use super::wire::{one_line, refusal};
use crate::error::{KmsError, KmsFailure, KmsFailureKind};

/// What the server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Login,
    LookUpSelf,
    RenewSelf,
    ReadKey,
    Encrypt,
    Decrypt,
    Rewrap,
}

impl Request {
    /// Returns what is being done, for errors.
    pub(super) fn operation(self) -> &'static str {
        match self {
            Self::Login | Self::LookUpSelf | Self::RenewSelf => "log in to Vault",
            Self::ReadKey => "look at the Transit key",
            Self::Encrypt => "wrap a system key",
            Self::Decrypt => "unwrap a system key",
            Self::Rewrap => "wrap a system key anew",
        }
    }

    /// Returns the right that it takes.
    fn right(self) -> &'static str {
        match self {
            Self::Login => "check auth_mount and namespace, and what the role is bound to: names, networks, secret ids",
            Self::LookUpSelf => "allow `read` on auth/token/lookup-self, as the policy `default` does",
            Self::RenewSelf => "allow `update` on auth/token/renew-self, as the policy `default` does",
            Self::ReadKey => "allow `read` on that path in a policy of the token",
            Self::Encrypt => "allow `update` on that path in a policy of the token; is there such a key?",
            Self::Decrypt | Self::Rewrap => "allow `update` on that path in a policy of the token",
        }
    }

    fn is_login(self) -> bool {
        matches!(self, Self::Login | Self::LookUpSelf | Self::RenewSelf)
    }
}

/// Why a request was not answered as it was meant to be.
#[derive(Debug)]
pub(super) enum Refused {
    /// What was to be unwrapped was changed, or wrapped under another key.
    Undecryptable,
    /// Anything else.
    Failure(KmsFailure),
}

impl From<KmsFailure> for Refused {
    fn from(failure: KmsFailure) -> Self {
        Self::Failure(failure)
    }
}

impl Refused {
    pub(super) fn into_error(self, operation: &'static str) -> KmsError {
        match self {
            Self::Undecryptable => KmsError::undecryptable(),
            Self::Failure(failure) => KmsError::Failed { operation, failures: vec![failure] },
        }
    }

    pub(super) fn into_failure(self, place: &str) -> KmsFailure {
        match self {
            Self::Undecryptable => {
                KmsFailure::new(place, KmsFailureKind::Tampered, "what was wrapped a moment ago does not open")
            }
            Self::Failure(failure) => failure,
        }
    }
}

const NO_MOUNT: &str =
    "check mount, auth_mount and namespace: `vault secrets list` and `vault auth list` show what there is";
const NOT_VAULT: &str = "something else than Vault answered: check the URL, and what stands between";
const NO_KEY: &str = "check the name of the key and its mount, or make it: `vault write -f transit/keys/KEY`";
const NO_LOGIN: &str = "check role, secret id, service account or certificate, whichever the auth method wants";
const NO_TOKEN: &str =
    "give a token that is valid: this one has expired, was revoked, or is of another server or namespace";
const CA: &str = "name the authority that signed the server's certificate, ca=FILE, or trust it on this system";

/// Tells what an answer means that is no success.
pub(super) fn refused(place: &str, request: Request, answer: &Answer) -> Refused {
    let status = answer.status;
    let failure = |kind, reason: &str, advice: Option<&'static str>| {
        Refused::Failure(KmsFailure::new(place, kind, format!("{}: {reason}", status.as_u16())).advise(advice))
    };
    let Some(words) = refusal(&answer.body) else {
        return match status.as_u16() {
            307 => failure(
                KmsFailureKind::Unavailable,
                "a standby that passes nothing on redirects to the active server, which is not followed",
                Some("give the URL of the active server, or of what finds it"),
            ),
            404 | 405 => failure(KmsFailureKind::Refused, "no answer of Vault", Some(NOT_VAULT)),
            429 => failure(KmsFailureKind::Throttled, "no answer of Vault", Some(NOT_VAULT)),
            500.. => failure(KmsFailureKind::Unavailable, "no answer of Vault", Some(NOT_VAULT)),
            _ => failure(KmsFailureKind::Refused, "no answer of Vault", Some(NOT_VAULT)),
        };
    };
    match (status.as_u16(), words.as_str()) {
        (403, words) if is_bad_token(words) && request != Request::Login => {
            failure(KmsFailureKind::Credentials, words, Some(NO_TOKEN))
        }
        (403, words) => failure(KmsFailureKind::AccessDenied, words, Some(request.right())),
        (404, words) if words.contains("no handler for route") => {
            failure(KmsFailureKind::Refused, "nothing is mounted there", Some(NO_MOUNT))
        }
        (404, _) if request == Request::ReadKey => {
            failure(KmsFailureKind::KeyNotFound, "there is no such key", Some(NO_KEY))
        }
        (404, words) => failure(KmsFailureKind::Refused, words, Some(NO_MOUNT)),
        (405, words) => failure(KmsFailureKind::Refused, words, Some(NO_MOUNT)),
        // A quota, or a standby that answers nobody.
        (429, words) => {
            failure(KmsFailureKind::Throttled, words, Some("raise the rate limit quota, or ask less often"))
        }
        (412 | 472 | 473, words) => failure(KmsFailureKind::Unavailable, words, None),
        (503, words) if words.contains("sealed") => {
            failure(KmsFailureKind::Unavailable, words, Some("it is sealed: unseal it"))
        }
        // An RSA key says so as if the server were at fault.
        (500, words) if request == Request::Decrypt && words.contains("rsa: decryption error") => {
            Refused::Undecryptable
        }
        (500.., words) => failure(KmsFailureKind::Unavailable, words, Some("see the log of the server")),
        (400, words) => bad_request(request, words, failure),
        (_, words) => failure(KmsFailureKind::Refused, words, None),
    }
}

fn bad_request(
    request: Request,
    words: &str,
    failure: impl Fn(KmsFailureKind, &str, Option<&'static str>) -> Refused,
) -> Refused {
    let says = |part: &str| words.contains(part);
    if says("encryption key not found") {
        failure(KmsFailureKind::KeyNotFound, words, Some(NO_KEY))
    } else if says("disallowed by policy") {
        let advice =
            "the version is shut off: lower min_decryption_version of the key, rewrap what is old, raise it again";
        failure(KmsFailureKind::KeyDisabled, words, Some(advice))
    } else if says("soft deleted") || says("soft-deleted") {
        failure(KmsFailureKind::KeyDisabled, words, Some("restore the key: it is marked as deleted"))
    } else if matches!(request, Request::Decrypt | Request::Rewrap)
        && (says("invalid ciphertext") || says("authentication failed"))
    {
        Refused::Undecryptable
    } else if request.is_login() {
        failure(KmsFailureKind::Credentials, words, Some(NO_LOGIN))
    } else {
        failure(KmsFailureKind::Refused, words, None)
    }
}

/// Tells that a token which is valid may not do that.
pub(super) fn denied(place: &str, request: Request) -> KmsFailure {
    KmsFailure::new(place, KmsFailureKind::AccessDenied, "403: permission denied").advise(request.right())
}

/// Whether a refusal is one of the token itself; what a policy does not allow is told in other words.
fn is_bad_token(words: &str) -> bool {
    words == "permission denied" || words.contains("invalid token") || words.contains("bad token")
}

/// Tells that an answer is a success and not what was asked for.
pub(super) fn unexpected(place: &str, status: StatusCode) -> KmsFailure {
    let reason = format!("{}: an answer that cannot be read", status.as_u16());
    KmsFailure::new(place, KmsFailureKind::Refused, reason).advise(NOT_VAULT)
}

/// Tells that there was no answer in time.
pub(super) fn late(place: &str, after: Duration) -> KmsFailure {
    KmsFailure::new(place, KmsFailureKind::Timeout, format!("no answer within {after:?}"))
        .advise("check that the server runs and the network leads there")
}

/// Tells why a file with a secret cannot be used.
pub(super) fn file(place: &str, reason: String) -> KmsFailure {
    KmsFailure::new(place, KmsFailureKind::Credentials, reason)
        .advise("let the file hold the secret, readable by this user")
}

/// Tells why an answer could not be read to its end.
pub(super) fn unread(place: &str, error: &(dyn Error + 'static)) -> KmsFailure {
    if error.is::<http_body_util::LengthLimitError>() {
        return KmsFailure::new(place, KmsFailureKind::Refused, "an answer of more than a megabyte").advise(NOT_VAULT);
    }
    unsent(place, error)
}

/// Tells why a request got no answer.
pub(super) fn unsent(place: &str, error: &(dyn Error + 'static)) -> KmsFailure {
    let failure = |kind, reason: &dyn std::fmt::Display| KmsFailure::new(place, kind, one_line(&reason.to_string()));
    let mut last = error;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = tls_error(error) {
            return failure(KmsFailureKind::Refused, tls).advise(tls_advice(tls));
        }
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return failure(KmsFailureKind::Timeout, &"no connection in time")
                .advise("check that the server runs and the network leads there");
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return failure(KmsFailureKind::Refused, error).advise("does it speak TLS? say https://");
        }
        last = error;
        next = error.source();
    }
    failure(KmsFailureKind::Network, last).advise("check that the server runs and the network leads there")
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    // An `io::Error` names the source of what it holds, not what it holds.
    let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error.downcast_ref().or_else(|| tls_error(held?))
}

fn tls_advice(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError;
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "name the host as its certificate does",
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the server's certificate has expired: renew it, or check the clock"
        }
        rustls::Error::InvalidCertificate(_) => CA,
        rustls::Error::AlertReceived(_) => {
            "the server refused the TLS connection: does it take the client certificate?"
        }
        rustls::Error::InvalidMessage(_) => "does the server speak TLS, and Vault behind it? check the URL",
        _ => "check which versions of TLS the server speaks",
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn kind(status: u16, body: &str, request: Request) -> Option<KmsFailureKind> {
        let answer =
            Answer { status: StatusCode::from_u16(status).unwrap(), body: Zeroizing::new(body.as_bytes().to_vec()) };
        match refused("https://vault", request, &answer) {
            Refused::Undecryptable => None,
            Refused::Failure(failure) => {
                assert!(failure.reason.starts_with(&status.to_string()), "{failure}");
                Some(failure.kind)
            }
        }
    }

    #[test]
    fn answers_that_a_single_server_never_gives_are_told_apart() {
        use KmsFailureKind::{AccessDenied, Credentials, Refused, Throttled, Unavailable};
        let cases = [
            (307, "", Unavailable),
            (301, "<html>", Refused),
            (404, "<html>", Refused),
            (502, "<html>", Unavailable),
            (429, r#"{"errors":["rate limit quota exceeded"]}"#, Throttled),
            (412, r#"{"errors":["required index state not present"]}"#, Unavailable),
            (472, r#"{"errors":["standby"]}"#, Unavailable),
            (503, r#"{"errors":["Vault is in standby mode"]}"#, Unavailable),
            (500, r#"{"errors":["local node not active but active cluster node not found"]}"#, Unavailable),
            (403, r#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#, Credentials),
            (403, r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#, AccessDenied),
            (405, r#"{"errors":["unsupported operation"]}"#, Refused),
        ];
        for (status, body, expected) in cases {
            assert_eq!(kind(status, body, Request::Decrypt), Some(expected), "{status} {body}");
        }
    }

    #[test]
    fn only_what_was_to_be_unwrapped_is_undecryptable() {
        let body = r#"{"errors":["invalid ciphertext: version is too new"]}"#;
        assert_eq!(kind(400, body, Request::Decrypt), None);
        assert_eq!(kind(400, body, Request::Encrypt), Some(KmsFailureKind::Refused));
        let body = r#"{"errors":["1 error occurred:\n\t* failed: crypto/rsa: decryption error\n\n"]}"#;
        assert_eq!(kind(500, body, Request::Decrypt), None);
        assert_eq!(kind(500, body, Request::Encrypt), Some(KmsFailureKind::Unavailable));
        assert_eq!(kind(400, r#"{"errors":["invalid role"]}"#, Request::Login), Some(KmsFailureKind::Credentials));
    }
}
