//! What `--kms` names.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use zeroize::Zeroizing;

/// Bytes of a master key.
const KEY: usize = 32;

/// Who holds the master key. Has no `Debug`: it may be the key itself.
#[derive(Clone)]
pub(super) enum KmsAddress {
    /// A file of 32 bytes.
    Local(PathBuf),
    /// Keys of AWS KMS, in one region or several.
    #[cfg(feature = "aws-kms")]
    Aws(Box<keyward::kms::AwsKmsOptions>),
    /// A Transit key of Vault or OpenBao.
    #[cfg(feature = "vault")]
    Vault(Box<keyward::kms::VaultOptions>),
    /// A file that holds it sealed, and the passphrase that opens it, once that is known.
    #[cfg(feature = "passphrase")]
    Sealed(PathBuf, Option<secrecy::SecretString>),
    /// The key itself.
    Static(Zeroizing<[u8; KEY]>),
}

/// Why a text names no key management service. Never repeats what may be a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KmsAddressError {
    #[error("the key management service {0:?} is not in this build")]
    NotBuilt(&'static str),
    #[error(
        "not the name of a key management service, which is local:PATH, aws:REGION=ARN,…, vault:https://HOST:PORT/KEY, \
         sealed:PATH or static:HEX"
    )]
    Unknown,
    #[cfg(feature = "aws-kms")]
    #[error("{0}")]
    Aws(String),
    #[cfg(feature = "vault")]
    #[error(transparent)]
    Address(#[from] keyward::stores::AddressError),
    #[error("`{0}:` must be followed by the path of a file")]
    NoPath(&'static str),
    #[error("there is one table of options, kms.aws; other services are named by a text")]
    NoTable,
    #[error("a static master key has 64 hex digits, not {0}")]
    KeyDigits(usize),
    #[error("a static master key consists of hex digits")]
    KeyNotHex,
}

/// What other builds ask for master keys.
const OTHER_SERVICES: [&str; 3] = ["aws", "sealed", "vault"];

impl std::str::FromStr for KmsAddress {
    type Err = KmsAddressError;

    fn from_str(text: &str) -> Result<Self, KmsAddressError> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        match scheme {
            "local" if rest.is_empty() => Err(KmsAddressError::NoPath("local")),
            "local" => Ok(Self::Local(rest.into())),
            #[cfg(feature = "aws-kms")]
            "aws" => {
                let options =
                    rest.parse().map_err(|error: keyward::kms::KmsError| KmsAddressError::Aws(error.to_string()))?;
                Ok(Self::Aws(Box::new(options)))
            }
            #[cfg(feature = "vault")]
            "vault" => Ok(Self::Vault(Box::new(text.parse()?))),
            #[cfg(feature = "passphrase")]
            "sealed" if rest.is_empty() => Err(KmsAddressError::NoPath("sealed")),
            #[cfg(feature = "passphrase")]
            "sealed" => Ok(Self::Sealed(rest.into(), None)),
            "static" => Ok(Self::Static(hex_key(rest)?)),
            other => Err(match OTHER_SERVICES.into_iter().find(|known| *known == other) {
                Some(known) => KmsAddressError::NotBuilt(known),
                None => KmsAddressError::Unknown,
            }),
        }
    }
}

impl KmsAddress {
    /// Returns the file that holds the master key, where one does.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::Local(path) => Some(path),
            #[cfg(feature = "passphrase")]
            Self::Sealed(path, _) => Some(path),
            _ => None,
        }
    }
}

/// A text, or in a table, `[kms.aws]`, what the text says in one line.
impl<'de> Deserialize<'de> for KmsAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = KmsAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a key management service, or a table of its options")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<KmsAddress, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<KmsAddress, E> {
                Zeroizing::new(text).parse().map_err(E::custom)
            }

            fn visit_map<M: MapAccess<'de>>(self, mut services: M) -> Result<KmsAddress, M::Error> {
                if services.next_key::<String>()?.as_deref() != Some("aws") {
                    return Err(M::Error::custom(KmsAddressError::NoTable));
                }
                #[cfg(feature = "aws-kms")]
                let address: Result<_, KmsAddressError> = Ok(KmsAddress::Aws(services.next_value()?));
                #[cfg(not(feature = "aws-kms"))]
                let address = services.next_value::<IgnoredAny>().map(|_| Err(KmsAddressError::NotBuilt("aws")))?;
                match services.next_key::<IgnoredAny>()? {
                    Some(_) => Err(M::Error::custom(KmsAddressError::NoTable)),
                    None => address.map_err(M::Error::custom),
                }
            }
        }

        deserializer.deserialize_any(Read)
    }
}

fn hex_key(text: &str) -> Result<Zeroizing<[u8; KEY]>, KmsAddressError> {
    if text.chars().count() != 2 * KEY {
        return Err(KmsAddressError::KeyDigits(text.chars().count()));
    }
    let mut key = Zeroizing::new([0; KEY]);
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(KmsAddressError::KeyNotHex) };
        *byte = high << 4 | low;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_keys_are_64_hex_digits() {
        let key = "00fF".repeat(16);
        let parsed = format!("static:{key}").parse::<KmsAddress>();
        assert!(matches!(parsed, Ok(KmsAddress::Static(bytes)) if bytes[..2] == [0, 255]));
        let error = |text: &str| text.parse::<KmsAddress>().err();
        assert_eq!(error("static:00"), Some(KmsAddressError::KeyDigits(2)));
        assert_eq!(error(&format!("static:{}", "é".repeat(64))), Some(KmsAddressError::KeyNotHex));
        assert_eq!(error(&format!("static:{}", "+0".repeat(32))), Some(KmsAddressError::KeyNotHex));
        assert_eq!(error(&key), Some(KmsAddressError::Unknown));
        #[cfg(not(feature = "aws-kms"))]
        assert_eq!(error("aws:us-west-2=arn"), Some(KmsAddressError::NotBuilt("aws")));
        assert_eq!(error("local:"), Some(KmsAddressError::NoPath("local")));
        #[cfg(feature = "passphrase")]
        assert_eq!(error("sealed:"), Some(KmsAddressError::NoPath("sealed")));
        #[cfg(feature = "vault")]
        {
            let address = "vault:https://vault.example:8200/keyward?namespace=team".parse::<KmsAddress>();
            assert!(matches!(address, Ok(KmsAddress::Vault(options)) if options.key == "keyward"));
            assert!(matches!(error("vault:"), Some(KmsAddressError::Address(_))));
        }
    }
}
