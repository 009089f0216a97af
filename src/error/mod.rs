//! Every error of the crate, in the words of the operation that failed.
//!
//! Errors that travel to several waiters of one load are cheap to clone. No error holds or prints a secret, and
//! all failed authentications are the same [`Error::Undecryptable`].

mod class;
mod input;
mod kms;
mod lifecycle;
mod stores;

use std::sync::Arc;
use std::time::Duration;

pub use input::{IdError, PolicyError, RecordError};
pub use kms::{KmsError, KmsFailure, KmsFailureKind};
pub use lifecycle::{BuildError, CloseError, CloseFailure, MemoryError, RandomError};
pub(crate) use lifecycle::{HIDDEN_MAP, is_about_the_lock_limit};
pub use stores::StoreError;

/// A cause supplied by an application or a driver.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a session could not encrypt, decrypt, store or load.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Authentication failed somewhere between the master key and the payload; which step is not told.
    #[error("the record could not be decrypted")]
    Undecryptable,
    /// The cipher refused the payload, which no payload within the size limit should make it do.
    #[error("the payload could not be encrypted")]
    Unencryptable,
    /// The record names an intermediate key of another partition.
    #[error("the record belongs to another partition")]
    WrongPartition,
    /// The bytes are not a data row record.
    #[error("malformed data row record")]
    Record(#[from] RecordError),
    /// The partition id is not usable.
    #[error("unusable partition id")]
    Partition(#[from] IdError),
    /// The record names a key that the metastore does not hold.
    #[error("the metastore has no key {id} created {created}")]
    KeyNotFound {
        /// Key id.
        id: String,
        /// Unix seconds.
        created: i64,
    },
    /// A key row cannot be used: its own bytes or its parent are damaged or absent.
    #[error("key {id} created {created} is unusable: {reason}")]
    KeyCorrupt {
        /// Key id.
        id: String,
        /// Unix seconds.
        created: i64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Other writers kept replacing the latest key by invalid ones.
    #[error("no valid latest key of {id} after {attempts} attempts; check clocks and key lifetime")]
    KeyContention {
        /// Key id.
        id: String,
        /// Attempts made.
        attempts: u32,
    },
    /// All keys of the partition were destroyed for good; it can have no new ones.
    #[error("the keys of the partition were destroyed: {id}")]
    Shredded {
        /// Key id.
        id: String,
    },
    /// Too many records of this partition named keys that do not exist; the metastore is not asked for more of them now.
    #[error("too many records name keys of {id} that do not exist; try again in a moment")]
    Throttled {
        /// Key id.
        id: String,
    },
    /// The metastore failed.
    #[error("metastore failed")]
    Metastore(#[source] Arc<StoreError>),
    /// The key management service failed.
    #[error("key management service failed")]
    Kms(#[source] Arc<KmsError>),
    /// Locked memory could not serve the operation.
    #[error("secret memory failed")]
    Memory(#[source] MemoryError),
    /// The random number generator failed; nothing was encrypted.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The deadline passed; a load that was under way goes on for others.
    #[error("{operation} took longer than {after:?}")]
    Timeout {
        /// What was being done.
        operation: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The payload or record is larger than the configured limit.
    #[error("{size} bytes exceed the limit of {limit}; raise the session factory's max_payload to allow it")]
    TooLarge {
        /// Bytes given.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The session, or its factory, is closed.
    #[error("the session is closed")]
    Closed,
    /// A component failed while it worked on this request and was started again; the request may be repeated.
    #[error("{component} failed and was restarted; try again")]
    Restarted {
        /// The component.
        component: &'static str,
    },
    /// The application's `Loader` has no record under the key.
    #[error("the loader has no record under this key")]
    RecordNotFound,
    /// The application's `Loader` or `Storer` failed.
    #[error("the application's {operation} failed")]
    Persistence {
        /// `loader` or `storer`.
        operation: &'static str,
        /// Its error.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Whether the same call may succeed later without any change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Restarted { .. } | Self::KeyContention { .. } | Self::Throttled { .. } => true,
            Self::Metastore(source) => source.is_transient(),
            Self::Kms(source) => source.is_transient(),
            Self::Memory(source) => matches!(source, MemoryError::Exhausted { .. }),
            _ => false,
        }
    }
}

impl From<MemoryError> for Error {
    fn from(source: MemoryError) -> Self {
        match source {
            MemoryError::Closed => Self::Closed,
            MemoryError::Random(error) => Self::Random(error),
            other => Self::Memory(other),
        }
    }
}

impl From<StoreError> for Error {
    fn from(source: StoreError) -> Self {
        Self::Metastore(Arc::new(source))
    }
}

impl From<KmsError> for Error {
    fn from(source: KmsError) -> Self {
        Self::Kms(Arc::new(source))
    }
}
