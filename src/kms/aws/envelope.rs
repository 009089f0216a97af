//! What stands in the row of a system key: the key under a data key, and that under the master key of each region.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::KmsError;
use crate::record::{base64, base64_text};

/// A wrapped system key.
///
/// Shape: `{"encryptedKey":"…","kmsKeks":[{"region":"…","arn":"…","encryptedKek":"…"},…]}`, as all implementations have it.
pub(super) struct Envelope {
    pub(super) encrypted_key: Vec<u8>,
    pub(super) keks: Vec<Kek>,
    /// Fields that are not known; they stay.
    rest: Map<String, Value>,
}

/// The data key, wrapped under the master key of one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kek {
    pub(super) region: String,
    pub(super) arn: String,
    pub(super) encrypted: Vec<u8>,
    rest: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct EnvelopeText {
    #[serde(rename = "encryptedKey")]
    encrypted_key: String,
    #[serde(rename = "kmsKeks")]
    keks: Option<Vec<KekText>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct KekText {
    region: String,
    arn: String,
    #[serde(rename = "encryptedKek")]
    encrypted: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Kek {
    pub(super) fn new(region: &str, arn: &str, encrypted: Vec<u8>) -> Self {
        Self { region: region.to_owned(), arn: arn.to_owned(), encrypted, rest: Map::new() }
    }
}

impl Envelope {
    pub(super) fn new(encrypted_key: Vec<u8>, keks: Vec<Kek>) -> Self {
        Self { encrypted_key, keks, rest: Map::new() }
    }

    /// Reads what any implementation has written.
    ///
    /// # Errors
    /// [`KmsError::Undecryptable`] when it is no envelope.
    pub(super) fn parse(text: &[u8]) -> Result<Self, KmsError> {
        let bytes = |text: &str| base64("envelope", text).map_err(|_| KmsError::undecryptable());
        let envelope: EnvelopeText = serde_json::from_slice(text).map_err(|_| KmsError::undecryptable())?;
        let kek = |KekText { region, arn, encrypted, rest }: KekText| {
            Ok(Kek { region, arn, encrypted: bytes(&encrypted)?, rest })
        };
        let keks: Result<Vec<Kek>, KmsError> = envelope.keks.unwrap_or_default().into_iter().map(kek).collect();
        Ok(Self { encrypted_key: bytes(&envelope.encrypted_key)?, keks: keks?, rest: envelope.rest })
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let kek = |kek: &Kek| KekText {
            region: kek.region.clone(),
            arn: kek.arn.clone(),
            encrypted: base64_text(&kek.encrypted),
            rest: kek.rest.clone(),
        };
        let text = EnvelopeText {
            encrypted_key: base64_text(&self.encrypted_key),
            keks: Some(self.keks.iter().map(kek).collect()),
            rest: self.rest.clone(),
        };
        serde_json::to_vec(&text).expect("texts and lists of them can be written")
    }

    /// Returns the data keys of a region. Implementations differ in how they write its name.
    pub(super) fn of_region(&self, region: &str) -> impl Iterator<Item = &Kek> {
        self.keks.iter().filter(move |kek| kek.region.eq_ignore_ascii_case(region))
    }
}

/// What is read of any bytes is written and read again the same.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(envelope) = Envelope::parse(bytes) {
        let again = Envelope::parse(&envelope.to_json()).expect("what is written is read");
        assert_eq!((again.encrypted_key, again.keks), (envelope.encrypted_key, envelope.keks));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_that_of_all_implementations() {
        let kek = |region| Kek::new(region, "arn", vec![1, 2]);
        let envelope = Envelope::new(vec![0, 255], vec![kek("a"), kek("b")]);
        let text = r#"{"encryptedKey":"AP8=","kmsKeks":[{"region":"a","arn":"arn","encryptedKek":"AQI="},{"region":"b","arn":"arn","encryptedKek":"AQI="}]}"#;
        assert_eq!(String::from_utf8(envelope.to_json()).unwrap(), text);
        let read = Envelope::parse(text.as_bytes()).unwrap();
        assert_eq!((read.encrypted_key, read.keks), (envelope.encrypted_key, envelope.keks));
    }

    #[test]
    fn fields_stand_in_any_order_and_others_stay() {
        let text = r#" {"v":{"x":[1]},"kmsKeks":[{"encryptedKek":"AQI=","more":null,"arn":"x","region":"US-East-1"}],
            "encryptedKey":"AP8="} "#;
        let read = Envelope::parse(text.as_bytes()).unwrap();
        assert_eq!(read.of_region("us-east-1").count(), 1);
        assert_eq!(read.of_region("us-east-2").count(), 0);
        let text = r#"{"encryptedKey":"AP8=","kmsKeks":[{"region":"US-East-1","arn":"x","encryptedKek":"AQI=","more":null}],"v":{"x":[1]}}"#;
        assert_eq!(String::from_utf8(read.to_json()).unwrap(), text);
        let none = Envelope::parse(br#"{"kmsKeks":null,"encryptedKey":"AP8="}"#).unwrap();
        assert!(none.keks.is_empty());
    }

    #[test]
    fn what_is_no_envelope_is_told_so() {
        for text in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"encryptedKey":"AP8=","kmsKeks":[{}]}"#,
            r#"{"encryptedKey":"AP8=","kmsKeks":{}}"#,
            r#"{"encryptedKey":[0,255],"kmsKeks":[]}"#,
            r#"{"encryptedKey":"A","kmsKeks":[]}"#,
            r#"{"encryptedKey":"AP8=","encryptedKey":"AP8=","kmsKeks":[]}"#,
            r#"{"encryptedKey":"AP8=","kmsKeks":[],"kmsKeks":[]}"#,
            r#"{"kmsKeks":[]}"#,
            r#"{"encryptedKey":"AP8=","kmsKeks":[]} x"#,
        ] {
            assert!(matches!(Envelope::parse(text.as_bytes()), Err(KmsError::Undecryptable { .. })), "{text}");
        }
    }
}
