//! Wire formats: data row records and envelope key records, as JSON text and as their parts.
//!
//! * [`DataRowRecord`] is what an encrypt returns and the application stores.
//! * [`EnvelopeKeyRecord`] is what a metastore row holds.
//!
//! `canonical.rs` writes the shape that every implementation reads, and parses that shape without allocating;
//! `tolerant.rs` reads whatever else is legal; `edit.rs` changes fields of a text and keeps the others.

mod canonical;
mod edit;
mod tolerant;

use crate::error::RecordError;
use crate::ids::KeyMeta;

#[cfg(any(feature = "aws", fuzzing))]
pub(crate) use canonical::base64_text;
pub(crate) use canonical::{RecordParts, RecordView, decode_base64_into};
pub(crate) use edit::with_parent;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(crate) use edit::{with_revoked, with_wrapped_key};
#[cfg(any(feature = "aws", fuzzing))]
pub(crate) use tolerant::base64;

/// Bytes that encryption adds to a payload or key: a 16-byte tag and a 12-byte nonce.
pub(crate) const OVERHEAD: usize = 28;

/// When tombstones say that they were created: 2038-01-18T00:00:00Z.
///
/// Later than every key, so that a tombstone is the latest of its id, and within what a `TIMESTAMP` of MySQL holds in
/// [every time zone](https://dev.mysql.com/doc/refman/8.4/en/datetime.html).
pub const TOMBSTONE_CREATED: i64 = 2_147_385_600;

/// An encrypted payload with everything needed to decrypt it, but for the keys above its own.
///
/// Shape in JSON: `{"Key":{"Created":…,"Key":"…","ParentKeyMeta":{"KeyId":"…","Created":…}},"Data":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataRowRecord {
    created: i64,
    encrypted_key: Vec<u8>,
    parent_key: KeyMeta,
    data: Vec<u8>,
}

impl DataRowRecord {
    /// Assembles a record from its parts, as another transport carried them.
    ///
    /// `created` is in Unix seconds, `encrypted_key` the wrapped data row key (60 bytes), `parent_key` the
    /// intermediate key that wraps it, `data` the encrypted payload (28 bytes longer than the payload). Nothing is
    /// checked here: decryption refuses what does not fit.
    #[must_use]
    pub fn from_parts(created: i64, encrypted_key: Vec<u8>, parent_key: KeyMeta, data: Vec<u8>) -> Self {
        Self { created, encrypted_key, parent_key, data }
    }

    /// Returns when the record was encrypted, in Unix seconds.
    #[must_use]
    pub fn created(&self) -> i64 {
        self.created
    }

    /// Returns the data row key, wrapped by the intermediate key: ciphertext, tag, nonce.
    #[must_use]
    pub fn encrypted_key(&self) -> &[u8] {
        &self.encrypted_key
    }

    /// Returns which intermediate key wraps the data row key.
    #[must_use]
    pub fn parent_key(&self) -> &KeyMeta {
        &self.parent_key
    }

    /// Returns the encrypted payload: ciphertext, tag, nonce.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Returns the same record around another copy of its data.
    pub(crate) fn with_data(&self, data: Vec<u8>) -> Self {
        Self::from_parts(self.created, self.encrypted_key.clone(), self.parent_key.clone(), data)
    }

    /// Returns the same record with its key wrapped by another intermediate key.
    pub(crate) fn with_key(&self, encrypted_key: Vec<u8>, parent_key: KeyMeta) -> Self {
        Self::from_parts(self.created, encrypted_key, parent_key, self.data.clone())
    }

    /// Writes the record as JSON in the canonical shape, in one allocation.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        RecordParts {
            created: self.created,
            encrypted_key: &self.encrypted_key,
            parent_id: self.parent_key.id.as_str(),
            parent_created: self.parent_key.created,
            data: &self.data,
        }
        .to_json()
    }

    /// Reads a record from JSON: any field order, white space, unknown fields and escapes.
    ///
    /// # Errors
    /// [`RecordError`] when the text is not JSON, a field is missing, given twice or of the wrong type.
    pub fn from_json(json: &[u8]) -> Result<Self, RecordError> {
        // A view takes all that stands between the quotes around the data for base64; if it is not, there may be escapes
        // or more fields in it.
        match RecordView::parse(json).map(|view| view.to_record()) {
            Some(Ok(record)) => Ok(record),
            _ => tolerant::data_row_record(json),
        }
    }
}

/// A wrapped system or intermediate key, as a metastore row holds it. The id is not part of it.
///
/// Shape in JSON: `{"Revoked":true?,"Created":…,"Key":"…","ParentKeyMeta":{…}?}`; fields that say nothing are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeKeyRecord {
    /// Unix seconds.
    pub created: i64,
    /// The key, wrapped: by its parent (60 bytes) or by the key management service (any size).
    pub encrypted_key: Vec<u8>,
    /// The system key that wraps an intermediate key; a system key has none.
    pub parent_key: Option<KeyMeta>,
    /// Whether the key must not encrypt any more.
    pub revoked: bool,
}

impl EnvelopeKeyRecord {
    /// Makes the record that stands in place of a shredded key: revoked, without key bytes, created at
    /// [`TOMBSTONE_CREATED`].
    ///
    /// Other implementations of the format see a latest key that is revoked. `parent_key` is what the shredded key had:
    /// some of them refuse an intermediate key without one.
    #[must_use]
    pub fn tombstone(parent_key: Option<KeyMeta>) -> Self {
        Self { created: TOMBSTONE_CREATED, encrypted_key: Vec::new(), parent_key, revoked: true }
    }

    /// Tells whether the key was shredded: the record is revoked and holds no key.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.revoked && self.encrypted_key.is_empty()
    }

    /// Writes the record as JSON in the canonical shape.
    #[must_use]
    pub fn to_json(&self) -> String {
        canonical::envelope_key_record(self)
    }

    /// Reads a record from JSON: any field order, white space, unknown fields, escapes; a missing or null `Revoked` is
    /// false, a missing or null `ParentKeyMeta` none.
    ///
    /// # Errors
    /// [`RecordError`] when the text is not JSON, a field is missing, given twice or of the wrong type.
    pub fn from_json(json: &[u8]) -> Result<Self, RecordError> {
        tolerant::envelope_key_record(json)
    }
}

#[cfg(test)]
mod tests;
