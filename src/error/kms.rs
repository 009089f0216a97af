//! Errors of key management services.

use std::fmt;
use std::io;
use std::time::Duration;

use super::stores::Advice;
use super::{BoxError, MemoryError, RandomError};

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
    /// Of the places that keep the master key, none did what was asked for, or too few.
    #[error("{operation}: {}", All(.failures))]
    Failed {
        /// What was being done.
        operation: &'static str,
        /// What each that was asked failed with, in the order in which they were asked.
        failures: Vec<KmsFailure>,
    },
    /// The service is not set up in a way that can work.
    #[error("{what}; {advice}")]
    Settings {
        /// What is wrong.
        what: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// The wrapped system key does not open under this master key.
    #[error("the system key does not open under this master key; was it made with another one?{}", Because(.failures))]
    Undecryptable {
        /// What each place says that was asked; none where nobody had to be.
        failures: Vec<KmsFailure>,
    },
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
    /// Says that a wrapped system key does not open, where no place had to be asked.
    #[must_use]
    pub fn undecryptable() -> Self {
        Self::Undecryptable { failures: Vec::new() }
    }

    /// Whether the same call may succeed later without any change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transient { .. } | Self::Timeout { .. } => true,
            Self::Failed { failures, .. } => failures.iter().any(|failure| failure.kind.is_transient()),
            _ => false,
        }
    }

    /// Returns what kind of failure of the service this is; of several one that may pass, if there is one.
    pub(crate) fn kind(&self) -> Option<KmsFailureKind> {
        match self {
            Self::Transient { .. } => Some(KmsFailureKind::Unavailable),
            Self::Permanent { .. } => Some(KmsFailureKind::Refused),
            Self::Timeout { .. } => Some(KmsFailureKind::Timeout),
            Self::Undecryptable { .. } => Some(KmsFailureKind::Tampered),
            Self::Failed { failures, .. } => {
                let mut kinds = failures.iter().map(|failure| failure.kind);
                kinds.clone().find(|kind| kind.is_transient()).or_else(|| kinds.next())
            }
            _ => None,
        }
    }
}

/// What one place that keeps the master key, a region or a server, failed with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {kind} ({reason}){}", Advice(.advice))]
#[non_exhaustive]
pub struct KmsFailure {
    /// Which place: `eu-west-1`, `https://vault.example:8200`.
    pub place: String,
    /// What kind of failure it is.
    pub kind: KmsFailureKind,
    /// The service's own words or the driver's, in one line, without tokens and ARNs.
    pub reason: String,
    /// What to do about it.
    pub advice: Option<&'static str>,
}

impl KmsFailure {
    /// Names a failure of `place`.
    #[must_use]
    pub fn new(place: &str, kind: KmsFailureKind, reason: impl Into<String>) -> Self {
        Self { place: place.to_owned(), kind, reason: reason.into(), advice: None }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<Option<&'static str>>) -> Self {
        self.advice = advice.into();
        self
    }
}

/// What a place that keeps the master key failed with; the words are those of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KmsFailureKind {
    /// The caller lacks a right.
    AccessDenied,
    /// The master key is disabled, or about to be deleted.
    KeyDisabled,
    /// There is no such master key.
    KeyNotFound,
    /// The caller has no credentials, or such as are not taken.
    Credentials,
    /// Too much is asked of the service.
    Throttled,
    /// No answer in time.
    Timeout,
    /// No connection, or one that broke.
    Network,
    /// The service works, but cannot answer now: it is sealed, or has an error of its own.
    Unavailable,
    /// It was not asked, because its last answers were failures.
    Paused,
    /// What was wrapped was changed, or wrapped under another master key.
    Tampered,
    /// The key was not wrapped for this place.
    NotWrapped,
    /// Any other refusal.
    Refused,
}

impl KmsFailureKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::AccessDenied,
        Self::KeyDisabled,
        Self::KeyNotFound,
        Self::Credentials,
        Self::Throttled,
        Self::Timeout,
        Self::Network,
        Self::Unavailable,
        Self::Paused,
        Self::Tampered,
        Self::NotWrapped,
        Self::Refused,
    ];

    /// Returns its word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessDenied => "access_denied",
            Self::KeyDisabled => "key_disabled",
            Self::KeyNotFound => "key_not_found",
            Self::Credentials => "credentials",
            Self::Throttled => "throttled",
            Self::Timeout => "timeout",
            Self::Network => "network",
            Self::Unavailable => "unavailable",
            Self::Paused => "paused",
            Self::Tampered => "tampered",
            Self::NotWrapped => "not_wrapped",
            Self::Refused => "refused",
        }
    }

    /// Whether the same call may succeed later without any change.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Throttled | Self::Timeout | Self::Network | Self::Unavailable | Self::Paused)
    }
}

impl fmt::Display for KmsFailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_str().replace('_', " "))
    }
}

struct Because<'a>(&'a [KmsFailure]);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " {}", All(self.0)) }
    }
}

struct All<'a>(&'a [KmsFailure]);

impl fmt::Display for All<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, failure) in self.0.iter().enumerate() {
            write!(f, "{}{failure}", if at == 0 { "" } else { " | " })?;
        }
        Ok(())
    }
}
