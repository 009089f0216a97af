//! Every error of the crate, in the words of the operation that failed.
//!
//! Errors that travel to several waiters of one load are cheap to clone. No error holds or prints a secret, and
//! all failed authentications are the same [`Error::Undecryptable`].

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A cause supplied by an application or a driver.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a session could not encrypt, decrypt, store or load.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Authentication failed somewhere between the master key and the payload; which step is not told.
    #[error("the record could not be decrypted")]
    Undecryptable,
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
            Self::Timeout { .. } | Self::Restarted { .. } | Self::KeyContention { .. } => true,
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

/// Why a metastore call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store may answer later: locked, unreachable, overloaded.
    #[error("{operation}: the metastore is unavailable{}", Advice(.advice))]
    Transient {
        /// What was being done.
        operation: &'static str,
        /// What to do about it.
        advice: Option<&'static str>,
        /// The driver's error.
        #[source]
        source: BoxError,
    },
    /// The store will refuse again until someone changes something.
    #[error("{operation}: the metastore refused{}", Advice(.advice))]
    Permanent {
        /// What was being done.
        operation: &'static str,
        /// What to do about it.
        advice: Option<&'static str>,
        /// The driver's error.
        #[source]
        source: BoxError,
    },
    /// The row exists and is not a key record; never the same as absent.
    #[error("key row {id} created {created:?} is corrupt")]
    Corrupt {
        /// Key id.
        id: String,
        /// Unix seconds, where the row tells.
        created: Option<i64>,
        /// What is wrong with it.
        #[source]
        source: BoxError,
    },
    /// The call did not end in time.
    #[error("{operation}: no answer from the metastore within {after:?}")]
    Timeout {
        /// What was being done.
        operation: &'static str,
        /// The deadline.
        after: Duration,
    },
}

impl StoreError {
    /// Whether the same call may succeed later without any change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. } | Self::Timeout { .. })
    }
}

/// Why a key management service call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KmsError {
    /// The service may answer later.
    #[error("{operation}: the key management service is unavailable")]
    Transient {
        /// What was being done.
        operation: &'static str,
        /// Its error.
        #[source]
        source: BoxError,
    },
    /// The service will refuse again until someone changes something.
    #[error("{operation}: the key management service refused")]
    Permanent {
        /// What was being done.
        operation: &'static str,
        /// Its error.
        #[source]
        source: BoxError,
    },
    /// The wrapped system key does not open under this master key.
    #[error("the system key does not open under this master key; was it made with another one?")]
    Undecryptable,
    /// A master key of the wrong size.
    #[error("a master key has 32 bytes, not {0}")]
    KeySize(usize),
    /// The master key file is not fit for use.
    #[error("master key file {path}: {reason}")]
    KeyFile {
        /// Path of the file.
        path: String,
        /// What is wrong and what to do.
        reason: &'static str,
        /// The system's error, if one was given.
        #[source]
        source: Option<io::Error>,
    },
    /// Locked memory could not hold the key.
    #[error("secret memory failed")]
    Memory(#[from] MemoryError),
    /// The random number generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The call did not end in time.
    #[error("{operation}: no answer from the key management service within {after:?}")]
    Timeout {
        /// What was being done.
        operation: &'static str,
        /// The deadline.
        after: Duration,
    },
}

impl KmsError {
    /// Whether the same call may succeed later without any change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. } | Self::Timeout { .. })
    }
}

/// Why locked memory could not be had or used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The lock limit leaves no room for the smallest arena.
    #[error(
        "need {needed} bytes of locked memory, limit {soft} soft / {hard} hard, {locked} locked already; raise it with \
         `ulimit -l`, LimitMEMLOCK= (systemd) or --ulimit memlock= (docker)"
    )]
    Budget {
        /// Bytes wanted.
        needed: u64,
        /// Soft RLIMIT_MEMLOCK in bytes.
        soft: u64,
        /// Hard RLIMIT_MEMLOCK in bytes.
        hard: u64,
        /// Bytes that the process has locked.
        locked: u64,
    },
    /// A system call failed.
    #[error("{operation} failed")]
    System {
        /// The call and what it was for.
        operation: &'static str,
        /// Its errno.
        #[source]
        source: Arc<io::Error>,
    },
    /// Every scratch slot was in use at this moment.
    #[error("all {slots} scratch slots are in use")]
    Exhausted {
        /// How many there are.
        slots: usize,
    },
    /// The memory is being wiped or has been.
    #[error("secret memory is closed")]
    Closed,
    /// This process is a fork of the one that holds the keys.
    #[error("keys do not survive fork(); build a session factory in the child")]
    Forked,
    /// A sealed key does not open: the process's own memory was damaged.
    #[error("a sealed key in memory is damaged")]
    Damaged,
}

/// The random number generator failed.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the random number generator failed")]
pub struct RandomError;

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
}

/// Why a session factory could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A required part was not given.
    #[error("a session factory needs a {0}; give it to the builder")]
    Missing(&'static str),
    /// Service, product or region suffix is not usable.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The crypto policy is not usable.
    #[error("unusable crypto policy")]
    Policy(#[from] PolicyError),
    /// Locked memory is not to be had.
    #[error("secret memory failed")]
    Memory(#[from] MemoryError),
    /// The actors' threads did not start.
    #[error("starting the actors failed")]
    Actors(#[source] io::Error),
}

/// What went wrong while a session factory closed; everything else was closed all the same.
#[derive(Debug, Clone)]
pub struct CloseError {
    /// One entry per component that did not close cleanly.
    pub failures: Vec<CloseFailure>,
}

/// A component that did not close cleanly.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{component}: {reason}")]
pub struct CloseFailure {
    /// The component.
    pub component: &'static str,
    /// What happened.
    pub reason: String,
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closing the session factory failed")?;
        for failure in &self.failures {
            write!(f, "; {failure}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CloseError {}

struct Advice<'a>(&'a Option<&'static str>);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}
