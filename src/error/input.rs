//! Errors of what was given: ids, records, policies.

use std::time::Duration;

/// Why an id cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Nothing was given.
    #[error("a {what} must not be empty")]
    Empty {
        /// Kind of id.
        what: &'static str,
    },
    /// Control characters do not survive every store and log.
    #[error("a {what} must not hold control characters (byte {position})")]
    ControlCharacter {
        /// Kind of id.
        what: &'static str,
        /// Where the first one stands.
        position: usize,
    },
    /// The key ids made of it exceed the metastore's column.
    #[error("a {what} makes a key id of {size} bytes; metastores hold {limit}")]
    TooLong {
        /// Kind of id.
        what: &'static str,
        /// Bytes of the longest key id.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Not JSON, a field is missing, of the wrong type or given twice.
    #[error("not a record at line {line}, column {column}: {reason}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the reader expected.
        reason: String,
    },
    /// A field is not standard base64 with padding.
    #[error("field {field} is not base64")]
    Base64 {
        /// Name of the field.
        field: &'static str,
    },
    /// A data row record must say which intermediate key wraps its key.
    #[error("field ParentKeyMeta is missing")]
    NoParent,
    /// Too short for a tag and a nonce.
    #[error("field {field} has {size} bytes, fewer than {least}")]
    TooShort {
        /// Name of the field.
        field: &'static str,
        /// Bytes found.
        size: usize,
        /// Bytes needed.
        least: usize,
    },
}

/// Why a crypto policy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Keys must live at least a second, the resolution of their creation time.
    #[error("expire_after is {0:?}; keys live at least one second")]
    Lifetime(Duration),
    /// A cache that holds nothing is switched off by its own option.
    #[error("{option} is 0; to do without the cache switch it off instead")]
    Capacity {
        /// The option.
        option: &'static str,
    },
    /// More entries than a cache can have.
    #[error("{option} is {given}; a cache has {limit} entries at most")]
    TooMany {
        /// The option.
        option: &'static str,
        /// Value given.
        given: usize,
        /// Value allowed.
        limit: usize,
    },
    /// Longer than creation times can tell.
    #[error("{option} is {given:?}, more than the {limit:?} that key times can hold")]
    TooLong {
        /// The option.
        option: &'static str,
        /// Value given.
        given: Duration,
        /// Value allowed.
        limit: Duration,
    },
    /// Nonces of 96 random bits repeat with a probability that matters beyond this.
    #[error("max_wraps is {given}; a key may encrypt 1 to {limit} others")]
    Wraps {
        /// Value given.
        given: u64,
        /// Value allowed.
        limit: u64,
    },
}
