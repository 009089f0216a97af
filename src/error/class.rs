//! Classes of errors: the words that metrics and audit events use.

use super::{Error, KmsError, StoreError};

impl Error {
    /// All that [`class`](Self::class) may return.
    pub(crate) const CLASSES: [&'static str; 22] = [
        "undecryptable",
        "unencryptable",
        "wrong_partition",
        "record",
        "partition",
        "key_not_found",
        "key_corrupt",
        "key_contention",
        "shredded",
        "throttled",
        "metastore_transient",
        "metastore",
        "kms_transient",
        "kms",
        "memory",
        "random",
        "timeout",
        "too_large",
        "closed",
        "restarted",
        "record_not_found",
        "persistence",
    ];

    /// Returns what kind of error this is, in one word of a fixed set.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Undecryptable => "undecryptable",
            Self::Unencryptable => "unencryptable",
            Self::WrongPartition => "wrong_partition",
            Self::Record(_) => "record",
            Self::Partition(_) => "partition",
            Self::KeyNotFound { .. } => "key_not_found",
            Self::KeyCorrupt { .. } => "key_corrupt",
            Self::KeyContention { .. } => "key_contention",
            Self::Shredded { .. } => "shredded",
            Self::Throttled { .. } => "throttled",
            Self::Metastore(source) if source.is_transient() => "metastore_transient",
            Self::Metastore(source) if matches!(**source, StoreError::Corrupt { .. }) => "key_corrupt",
            Self::Metastore(_) => "metastore",
            Self::Kms(source) if source.is_transient() => "kms_transient",
            Self::Kms(source) if matches!(**source, KmsError::Memory(_)) => "memory",
            Self::Kms(_) => "kms",
            Self::Memory(_) => "memory",
            Self::Random(_) => "random",
            Self::Timeout { .. } => "timeout",
            Self::TooLarge { .. } => "too_large",
            Self::Closed => "closed",
            Self::Restarted { .. } => "restarted",
            Self::RecordNotFound => "record_not_found",
            Self::Persistence { .. } => "persistence",
        }
    }
}

impl StoreError {
    /// All that [`class`](Self::class) may return.
    pub(crate) const CLASSES: [&'static str; 6] =
        ["transient", "permanent", "corrupt", "timeout", "pool_timeout", "open"];

    /// Returns what kind of error this is, in one word of a fixed set.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Transient { .. } => "transient",
            Self::Permanent { .. } => "permanent",
            Self::Corrupt { .. } => "corrupt",
            Self::Timeout { .. } => "timeout",
            Self::PoolTimeout { .. } => "pool_timeout",
            Self::Open { .. } => "open",
        }
    }
}
