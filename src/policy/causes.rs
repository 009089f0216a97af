//! Why a key was made.

use std::fmt;

/// Why a key was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RotationCause {
    /// There was none.
    First,
    /// The latest one was too old.
    Expired,
    /// The latest one was revoked.
    Revoked,
    /// The system key of the latest one was missing, too old or revoked.
    Parent,
    /// The latest one had encrypted as many keys as it may.
    Budget,
    /// The latest one was going to be too old, or to have encrypted too many keys, soon.
    Ahead,
    /// An operator asked for it.
    Requested,
}

impl RotationCause {
    pub(crate) const ALL: [Self; 7] =
        [Self::First, Self::Expired, Self::Revoked, Self::Parent, Self::Budget, Self::Ahead, Self::Requested];

    /// Returns the cause in one lowercase word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Parent => "parent",
            Self::Budget => "budget",
            Self::Ahead => "ahead",
            Self::Requested => "requested",
        }
    }
}

impl fmt::Display for RotationCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
