//! Errors of metastores.

use std::fmt;
use std::time::Duration;

use super::BoxError;

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
    #[error("key row {id}{} is corrupt and is left as it is; restore it from a backup", Created(.created))]
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
    #[error("{operation}: no answer from {place} within {after:?}; look at its load and at the network between")]
    Timeout {
        /// What was being done.
        operation: &'static str,
        /// Which store, see [`Metastore::place`](crate::stores::Metastore::place).
        place: String,
        /// The deadline.
        after: Duration,
    },
    /// All connections to the store stayed in use.
    #[error(
        "{operation}: no connection to {place} was free within {after:?}; allow more of them, or find the slow calls"
    )]
    PoolTimeout {
        /// What was being done.
        operation: &'static str,
        /// Which store.
        place: String,
        /// How long a free one was waited for.
        after: Duration,
    },
    /// The store was not asked, because its last answers were failures.
    #[error("{operation}: {place} failed {failures} times in a row and is asked again in {retry_in:?}")]
    Open {
        /// What was being done.
        operation: &'static str,
        /// Which store.
        place: String,
        /// How often it failed.
        failures: u32,
        /// When the next call may try it.
        retry_in: Duration,
    },
}

impl StoreError {
    /// Whether the same call may succeed later without any change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. } | Self::Timeout { .. } | Self::PoolTimeout { .. } | Self::Open { .. })
    }
}

struct Created<'a>(&'a Option<i64>);

impl fmt::Display for Created<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |created| write!(f, " created {created}"))
    }
}

pub(super) struct Advice<'a>(pub(super) &'a Option<&'static str>);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}
