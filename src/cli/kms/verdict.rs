//! What became of one system key, in words that people and programs read.

use std::error::Error;

use keyward::KeyMeta;
use keyward::kms::{KmsError, WrapFinding};
use keyward::stores::StoreError;

use crate::cli::table::chain;

/// What is to be said about one version of a system key.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) key: KeyMeta,
    pub(super) is_revoked: bool,
    pub(super) outcome: Outcome,
    /// How it differs from what would be made of it now.
    pub(super) findings: Vec<WrapFinding>,
    /// How it differed before it was repaired.
    pub(super) mended: Vec<WrapFinding>,
    /// Why it could not be looked at, or not be repaired.
    pub(super) fault: Option<Fault>,
}

/// Words in the order in which they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Good,
    Repaired,
    WouldBeRepaired,
    ToBeRepaired,
    PartlyRepaired,
    NotRepaired,
    /// Wrapped by another service, under another master key, or damaged.
    Foreign,
    Corrupt,
    NotLookedAt,
    /// Somebody deleted it meanwhile.
    Gone,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) text: String,
    /// Whether the same may succeed later without any change.
    pub(super) is_transient: bool,
}

impl Outcome {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Repaired => "repaired",
            Self::WouldBeRepaired => "would be repaired",
            Self::ToBeRepaired => "to be repaired",
            Self::PartlyRepaired => "partly repaired",
            Self::NotRepaired => "not repaired",
            Self::Foreign => "not of this master key",
            Self::Corrupt => "corrupt",
            Self::NotLookedAt => "not looked at",
            Self::Gone => "gone",
        }
    }

    /// Whether somebody has to do something about it.
    pub(super) fn is_bad(self) -> bool {
        match self {
            Self::Good | Self::Repaired | Self::WouldBeRepaired | Self::Gone => false,
            Self::ToBeRepaired
            | Self::PartlyRepaired
            | Self::NotRepaired
            | Self::Foreign
            | Self::Corrupt
            | Self::NotLookedAt => true,
        }
    }
}

impl Verdict {
    pub(super) fn new(key: KeyMeta, is_revoked: bool, outcome: Outcome) -> Self {
        Self { key, is_revoked, outcome, findings: Vec::new(), mended: Vec::new(), fault: None }
    }

    /// Whether there is something that the service can mend.
    pub(super) fn is_repairable(&self) -> bool {
        self.findings.iter().any(WrapFinding::is_repairable)
    }
}

impl From<&KmsError> for Fault {
    fn from(error: &KmsError) -> Self {
        Self::new(error, error.is_transient())
    }
}

impl From<&StoreError> for Fault {
    fn from(error: &StoreError) -> Self {
        Self::new(error, error.is_transient())
    }
}

impl Fault {
    fn new(error: &dyn Error, is_transient: bool) -> Self {
        Self { text: chain(error), is_transient }
    }
}
