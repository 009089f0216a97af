//! What `--store` and `--kms` name.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Bytes of a master key.
const KEY: usize = 32;

/// Where keys are stored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum StoreAddress {
    /// In this process, for as long as it runs.
    Memory,
    /// In a SQLite file.
    Sqlite(PathBuf),
}

/// Who holds the master key. Has no `Debug`: it may be the key itself.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum KmsAddress {
    /// A file of 32 bytes.
    Local(PathBuf),
    /// The key itself.
    Static(Zeroizing<[u8; KEY]>),
}

/// Why a text names no store or key management service. Never repeats what may be a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    #[error("the store {0:?} is not in this build, which knows `sqlite:PATH` and `memory`")]
    StoreNotBuilt(&'static str),
    #[error("not the name of a store; this build knows `sqlite:PATH` and `memory`")]
    UnknownStore,
    #[error("the key management service {0:?} is not in this build, which knows `local:PATH` and `static:HEX`")]
    KmsNotBuilt(&'static str),
    #[error("not the name of a key management service; this build knows `local:PATH` and `static:HEX`")]
    UnknownKms,
    #[error("`{0}:` must be followed by the path of a file")]
    NoPath(&'static str),
    #[error("a static master key has 64 hex digits, not {0}")]
    KeyDigits(usize),
    #[error("a static master key consists of hex digits")]
    KeyNotHex,
}

/// What other builds store keys in, to tell it from a mistake.
const OTHER_STORES: [&str; 4] = ["postgres", "postgresql", "mysql", "dynamodb"];

/// What other builds ask for master keys.
const OTHER_SERVICES: [&str; 2] = ["aws", "vault"];

impl std::str::FromStr for StoreAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        match scheme {
            "memory" if scheme == text => Ok(Self::Memory),
            "sqlite" if rest.is_empty() => Err(AddressError::NoPath("sqlite")),
            "sqlite" => Ok(Self::Sqlite(rest.into())),
            other => Err(match OTHER_STORES.into_iter().find(|known| *known == other) {
                Some(known) => AddressError::StoreNotBuilt(known),
                None => AddressError::UnknownStore,
            }),
        }
    }
}

/// Without anything that may be a password; paths are absolute.
impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Sqlite(path) => {
                write!(f, "sqlite:{}", std::path::absolute(path).as_deref().unwrap_or(path).display())
            }
        }
    }
}

impl TryFrom<String> for StoreAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl std::str::FromStr for KmsAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        match scheme {
            "local" if rest.is_empty() => Err(AddressError::NoPath("local")),
            "local" => Ok(Self::Local(rest.into())),
            "static" => Ok(Self::Static(hex_key(rest)?)),
            other => Err(match OTHER_SERVICES.into_iter().find(|known| *known == other) {
                Some(known) => AddressError::KmsNotBuilt(known),
                None => AddressError::UnknownKms,
            }),
        }
    }
}

impl TryFrom<String> for KmsAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        Zeroizing::new(text).parse()
    }
}

fn hex_key(text: &str) -> Result<Zeroizing<[u8; KEY]>, AddressError> {
    if text.chars().count() != 2 * KEY {
        return Err(AddressError::KeyDigits(text.chars().count()));
    }
    let mut key = Zeroizing::new([0; KEY]);
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(AddressError::KeyNotHex) };
        *byte = high << 4 | low;
    }
    Ok(key)
}

/// Parses `--kms` for clap, whose own words for a bad value would repeat it.
#[derive(Clone)]
pub(super) struct KmsParser;

impl TypedValueParser for KmsParser {
    type Value = KmsAddress;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<KmsAddress, clap::Error> {
        let parsed = value.to_str().map_or(Err(AddressError::UnknownKms), str::parse);
        parsed.map_err(|error| {
            clap::Error::raw(ErrorKind::ValueValidation, format!("invalid value for '--kms': {error}\n"))
                .with_cmd(command)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_by_scheme() {
        let cases = [
            ("memory", Ok(StoreAddress::Memory)),
            ("sqlite:a:b.db", Ok(StoreAddress::Sqlite("a:b.db".into()))),
            ("sqlite:", Err(AddressError::NoPath("sqlite"))),
            ("postgres://host/db", Err(AddressError::StoreNotBuilt("postgres"))),
            ("dynamodb:table", Err(AddressError::StoreNotBuilt("dynamodb"))),
            ("memory:x", Err(AddressError::UnknownStore)),
            ("keys.db", Err(AddressError::UnknownStore)),
            ("", Err(AddressError::UnknownStore)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<StoreAddress>(), expected, "{text}");
        }
    }

    #[test]
    fn static_keys_are_64_hex_digits() {
        let key = "00fF".repeat(16);
        let parsed = format!("static:{key}").parse::<KmsAddress>();
        assert!(matches!(parsed, Ok(KmsAddress::Static(bytes)) if bytes[..2] == [0, 255]));
        let error = |text: &str| text.parse::<KmsAddress>().err();
        assert_eq!(error("static:00"), Some(AddressError::KeyDigits(2)));
        assert_eq!(error(&format!("static:{}", "é".repeat(64))), Some(AddressError::KeyNotHex));
        assert_eq!(error(&format!("static:{}", "+0".repeat(32))), Some(AddressError::KeyNotHex));
        assert_eq!(error(&key), Some(AddressError::UnknownKms));
        assert_eq!(error("aws:us-west-2=arn"), Some(AddressError::KmsNotBuilt("aws")));
        assert_eq!(error("local:"), Some(AddressError::NoPath("local")));
    }
}
