//! What addresses of stores and of key management services have in common: their options, and why a text is none.

use std::time::Duration;

/// Why a text is no address of a store or of a key management service. Never repeats what may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Not of the form `scheme://…`, or of another scheme.
    #[error("an address has the form scheme://user:password@host:port/database?option=value")]
    Scheme,
    /// Not of the form `dynamodb:TABLE…`.
    #[error(
        "an address has the form dynamodb:TABLE?option=value; a table is named by 3 to 255 letters, digits, `_`, `-` and \
         `.`, or by its ARN"
    )]
    Table,
    /// Not of the form `vault:https://…`.
    #[error(
        "an address has the form vault:https://HOST:PORT/KEY?option=value; a key is named by letters, digits, `_`, `-` and \
         `.`, and there are no user and password"
    )]
    Vault,
    /// A `@` where an option stands.
    #[error("an @ in an option is written %40, and so is one in a password that looks like a host with options")]
    Ambiguous,
    /// Not a host.
    #[error("a host is a name, an IPv4 address or, in brackets, an IPv6 address")]
    Host,
    /// Not a port.
    #[error("a port is a number from 1 to 65535; is a `@` missing behind the password?")]
    Port,
    /// `%` sequences that stand for no text.
    #[error("what % and hex digits stand for is not UTF-8")]
    Encoding,
    /// An option that nobody knows.
    #[error("there is no option {name:?} here; it may be one of {known}")]
    UnknownOption {
        /// Its name.
        name: String,
        /// Those that are.
        known: &'static str,
    },
    /// The value of an option.
    #[error("the option {name} must be {expected}")]
    Value {
        /// Its name.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
    },
}

/// Splits what follows the `?` of an address into names and values, decoded.
pub(crate) fn options(text: &str) -> Result<Vec<(String, String)>, AddressError> {
    let option = |text: &str| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        Ok((decode(name)?, decode(value)?))
    };
    text.split('&').filter(|option| !option.is_empty()).map(option).collect()
}

/// Reads the value of an option that is a time.
pub(crate) fn seconds(name: &'static str, value: &str) -> Result<Duration, AddressError> {
    let expected = "a number of seconds from 0.001 to 86400";
    let seconds = value.parse().ok().filter(|seconds| (0.001..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or(AddressError::Value { name, expected })
}

/// Decodes `%` and two hex digits; any other `%` stands for itself.
pub(super) fn decode(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high << 4 | low).expect("two hex digits are a byte"));
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    // The bytes may be a password: they are not kept in the error.
    String::from_utf8(bytes).map_err(|_| AddressError::Encoding)
}
