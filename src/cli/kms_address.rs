//! What `--kms` names.

use std::path::PathBuf;

use serde::Deserialize;
use zeroize::Zeroizing;

/// Bytes of a master key.
const KEY: usize = 32;

/// Who holds the master key. Has no `Debug`: it may be the key itself.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum KmsAddress {
    /// A file of 32 bytes.
    Local(PathBuf),
    /// A Transit key of Vault or OpenBao.
    #[cfg(feature = "vault")]
    Vault(Box<keyward::kms::VaultOptions>),
    /// The key itself.
    Static(Zeroizing<[u8; KEY]>),
}

/// Why a text names no key management service. Never repeats what may be a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KmsAddressError {
    #[error("the key management service {0:?} is not in this build")]
    NotBuilt(&'static str),
    #[error("not the name of a key management service, which is local:PATH, vault:https://HOST:PORT/KEY or static:HEX")]
    Unknown,
    #[cfg(feature = "vault")]
    #[error(transparent)]
    Address(#[from] keyward::stores::AddressError),
    #[error("`local:` must be followed by the path of a file")]
    NoPath,
    #[error("a static master key has 64 hex digits, not {0}")]
    KeyDigits(usize),
    #[error("a static master key consists of hex digits")]
    KeyNotHex,
}

/// What other builds ask for master keys.
const OTHER_SERVICES: [&str; 2] = ["aws", "vault"];

impl std::str::FromStr for KmsAddress {
    type Err = KmsAddressError;

    fn from_str(text: &str) -> Result<Self, KmsAddressError> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        match scheme {
            "local" if rest.is_empty() => Err(KmsAddressError::NoPath),
            "local" => Ok(Self::Local(rest.into())),
            #[cfg(feature = "vault")]
            "vault" => Ok(Self::Vault(Box::new(text.parse()?))),
            "static" => Ok(Self::Static(hex_key(rest)?)),
            other => Err(match OTHER_SERVICES.into_iter().find(|known| *known == other) {
                Some(known) => KmsAddressError::NotBuilt(known),
                None => KmsAddressError::Unknown,
            }),
        }
    }
}

impl TryFrom<String> for KmsAddress {
    type Error = KmsAddressError;

    fn try_from(text: String) -> Result<Self, KmsAddressError> {
        Zeroizing::new(text).parse()
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
        assert_eq!(error("aws:us-west-2=arn"), Some(KmsAddressError::NotBuilt("aws")));
        assert_eq!(error("local:"), Some(KmsAddressError::NoPath));
        #[cfg(feature = "vault")]
        {
            let address = "vault:https://vault.example:8200/keyward?namespace=team".parse::<KmsAddress>();
            assert!(matches!(address, Ok(KmsAddress::Vault(options)) if options.key == "keyward"));
            assert!(matches!(error("vault:"), Some(KmsAddressError::Address(_))));
        }
    }
}
