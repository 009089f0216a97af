//! Where requests are sent instead of to AWS.

#[cfg(feature = "aws-kms")]
use crate::clients::is_this_machine;

/// Whether requests can be sent there, and errors may name it.
pub(crate) fn is_endpoint(url: &str) -> bool {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let is_plain = |character: char| character.is_ascii_graphic() && !"@'\"\\".contains(character);
    host.is_some_and(|host| !host.is_empty() && !host.starts_with(['/', ':']) && host.chars().all(is_plain))
}

/// Whether what is sent there crosses no network, or crosses it encrypted; of what is an endpoint.
#[cfg(feature = "aws-kms")]
pub(crate) fn is_private(endpoint: &str) -> bool {
    let Some(rest) = endpoint.strip_prefix("http://") else { return true };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(inner) => inner.split(']').next(),
        None => authority.split(':').next(),
    };
    host.is_some_and(is_this_machine)
}

/// Why a request is not sent.
#[derive(Debug, thiserror::Error)]
#[error("data keys would cross the network unencrypted: an endpoint is http:// and not of this machine")]
pub(crate) struct Plaintext;

impl Plaintext {
    pub(crate) const ADVICE: &str = "use https://, or say plaintext=allow";
}
