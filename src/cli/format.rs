//! How records look outside: JSON text, that text in base64, and the protobuf message of Asherah's server.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::ValueEnum;
use keyward::{DataRowRecord, KeyId, KeyMeta};
use prost::Message;

/// How a record is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One line of JSON
    #[default]
    Json,
    /// The JSON text, in base64 (RFC 4648)
    Base64,
    /// The protobuf message DataRowRecord of Asherah's server
    Binary,
}

/// Why bytes are no record in the expected format.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormatError {
    #[error("the input is empty")]
    Empty,
    #[error("it is not base64")]
    Base64(#[source] base64::DecodeError),
    #[error("it is not a protobuf message")]
    Protobuf(#[source] prost::DecodeError),
    #[error("the message has no {0}")]
    Absent(&'static str),
}

impl FormatError {
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Empty => None,
            _ => Some("give the --format that it was written in: json, base64 or binary"),
        }
    }
}

/// A record as it came: as text it is parsed by the library, in one pass with decrypting it.
pub(super) enum Incoming {
    Json(Vec<u8>),
    Record(DataRowRecord),
}

impl Format {
    /// Tells in which format a record is written, which no record leaves open.
    ///
    /// # Errors
    /// [`FormatError::Empty`].
    pub(super) fn detect(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut visible = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
        match visible.next() {
            None => Err(FormatError::Empty),
            // A line feed and a brace also begin a protobuf message; what follows there is never text.
            Some(b'{') if matches!(visible.next(), None | Some(b'"' | b'}')) => Ok(Self::Json),
            Some(_) if bytes.iter().all(|&byte| is_base64(byte)) => Ok(Self::Base64),
            Some(_) => Ok(Self::Binary),
        }
    }

    /// Reads a record; blanks around it, and inside base64, are passed over.
    ///
    /// # Errors
    /// [`FormatError`]; JSON is not looked into.
    pub(super) fn read(self, bytes: Vec<u8>) -> Result<Incoming, FormatError> {
        if bytes.is_empty() {
            return Err(FormatError::Empty);
        }
        match self {
            Self::Json => Ok(Incoming::Json(bytes)),
            Self::Base64 => {
                let mut text = bytes;
                text.retain(|byte| !byte.is_ascii_whitespace());
                Ok(Incoming::Json(BASE64.decode(text).map_err(FormatError::Base64)?))
            }
            Self::Binary => Ok(Incoming::Record(from_binary(&bytes)?)),
        }
    }

    /// Returns an upper bound of the bytes of a record whose payload has `payload` bytes; ids have 255 at most.
    pub(super) fn largest_record(payload: usize) -> usize {
        const FRAME: usize = 16 * 1024;
        let base64 = |bytes: usize| bytes.div_ceil(3).saturating_mul(4).saturating_add(FRAME);
        // Base64 of base64, broken into lines.
        let text = base64(base64(payload.saturating_add(FRAME)));
        text.saturating_add(text / 32)
    }
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=') || byte.is_ascii_whitespace()
}

/// Writes JSON text of a record as base64.
pub(super) fn to_base64(json: &[u8]) -> Vec<u8> {
    BASE64.encode(json).into_bytes()
}

/// Writes a record as a protobuf message.
pub(super) fn to_binary(record: &DataRowRecord) -> Vec<u8> {
    let parent = record.parent_key();
    proto::DataRowRecord {
        key: Some(proto::EnvelopeKeyRecord {
            created: record.created(),
            key: record.encrypted_key().to_vec(),
            parent_key_meta: Some(proto::KeyMeta { created: parent.created, key_id: parent.id.to_string() }),
        }),
        data: record.data().to_vec(),
    }
    .encode_to_vec()
}

fn from_binary(bytes: &[u8]) -> Result<DataRowRecord, FormatError> {
    let record = proto::DataRowRecord::decode(bytes).map_err(FormatError::Protobuf)?;
    let key = record.key.ok_or(FormatError::Absent("key"))?;
    let parent = key.parent_key_meta.ok_or(FormatError::Absent("parent_key_meta"))?;
    let parent = KeyMeta { id: KeyId::new(&parent.key_id), created: parent.created };
    Ok(DataRowRecord::from_parts(key.created, key.key, parent, record.data))
}

/// The messages of package `asherah.apps.server`, as far as they make a record.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct DataRowRecord {
        #[prost(message, optional, tag = "1")]
        pub(super) key: Option<EnvelopeKeyRecord>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) data: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct EnvelopeKeyRecord {
        #[prost(int64, tag = "1")]
        pub(super) created: i64,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) key: Vec<u8>,
        #[prost(message, optional, tag = "3")]
        pub(super) parent_key_meta: Option<KeyMeta>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct KeyMeta {
        #[prost(int64, tag = "1")]
        pub(super) created: i64,
        #[prost(string, tag = "2")]
        pub(super) key_id: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, created: i64) -> DataRowRecord {
        let parent = KeyMeta { id: KeyId::new(id), created };
        DataRowRecord::from_parts(created, vec![7; 60], parent, vec![9; 28])
    }

    #[test]
    fn each_format_is_detected_whatever_the_length_of_ids() {
        for length in 0..300 {
            for created in [0, 1_700_000_000, -1] {
                let record = record(&"x".repeat(length), created);
                let json = record.to_json();
                assert!(matches!(Format::detect(&json), Ok(Format::Json)), "{length}");
                assert!(matches!(Format::detect(&to_base64(&json)), Ok(Format::Base64)), "{length}");
                assert!(matches!(Format::detect(&to_binary(&record)), Ok(Format::Binary)), "{length} {created}");
            }
        }
        assert!(matches!(Format::detect(b" \n{ \"Data\""), Ok(Format::Json)));
        assert!(matches!(Format::detect(b" \n"), Err(FormatError::Empty)));
    }

    #[test]
    fn the_binary_format_has_the_field_numbers_of_the_server() -> Result<(), FormatError> {
        let parent = KeyMeta { id: KeyId::new("_IK_p"), created: 3 };
        let record = DataRowRecord::from_parts(2, vec![1], parent, vec![4, 5]);
        let bytes = b"\x0a\x10\x08\x02\x12\x01\x01\x1a\x09\x08\x03\x12\x05_IK_p\x12\x02\x04\x05";
        assert_eq!(to_binary(&record), bytes);
        assert_eq!(from_binary(bytes)?, record);
        assert!(matches!(from_binary(b"\x12\x02\x04\x05"), Err(FormatError::Absent("key"))));
        assert!(matches!(from_binary(&bytes[..9]), Err(FormatError::Protobuf(_))));
        Ok(())
    }
}
