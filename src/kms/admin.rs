//! What operators need beyond what encryption needs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{KmsError, KmsFailure};

/// What operators ask of a key management service.
///
/// Nothing here changes a metastore: [`KeyAdmin::replace_wrapped_key`](crate::stores::KeyAdmin::replace_wrapped_key) does.
#[async_trait]
pub trait KmsAdmin: Send + Sync + 'static {
    /// Has each place that keeps the master key do what encrypting and decrypting will ask of it, with a key made for this.
    ///
    /// Places are tried one beside the other, steps of a place one after the other, as far as those before make them possible.
    async fn check(&self) -> Vec<PlaceCheck>;

    /// Tells how a wrapped system key differs from what would be made of it now; nothing when it does not.
    ///
    /// # Errors
    /// [`KmsError::Undecryptable`] when the bytes are nothing that this service has wrapped; those of asking the service.
    async fn inspect_key(&self, encrypted: &[u8]) -> Result<Vec<WrapFinding>, KmsError>;

    /// Wraps a system key anew for what [`inspect_key`](Self::inspect_key) finds missing; `None` when that is nothing.
    ///
    /// Whoever can open the key now can open what is returned too. The plain key is not looked at.
    ///
    /// # Errors
    /// [`KmsError`]; nothing is lost then.
    async fn repair_key(&self, encrypted: &[u8]) -> Result<Option<Vec<u8>>, KmsError>;
}

/// How one place that keeps the master key did in a [`check`](KmsAdmin::check).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PlaceCheck {
    /// Which place: a region, a server, a file.
    pub place: String,
    /// What was tried, in this order.
    pub steps: Vec<CheckStep>,
}

impl PlaceCheck {
    /// Tells what was tried in `place`.
    #[must_use]
    pub fn new(place: &str, steps: Vec<CheckStep>) -> Self {
        Self { place: place.to_owned(), steps }
    }

    /// Whether every step succeeded.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.steps.iter().all(|step| step.outcome.is_ok())
    }
}

/// One step of a check.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CheckStep {
    /// What was asked for, by the service's own name: `GenerateDataKey`, `Decrypt`.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub outcome: Result<(), KmsFailure>,
}

impl CheckStep {
    /// Tells how a step went.
    #[must_use]
    pub fn new(name: &'static str, took: Duration, outcome: Result<(), KmsFailure>) -> Self {
        Self { name, took, outcome }
    }
}

/// How a wrapped system key differs from what would be made of it now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WrapFinding {
    /// It is not wrapped for a place that is configured, which cannot open it.
    Missing {
        /// Which place.
        place: String,
    },
    /// It is wrapped for a place under a former master key alone, which is still needed therefore.
    Former {
        /// Which place.
        place: String,
        /// The end of the name of that master key.
        key: String,
    },
    /// It is wrapped under a master key that is not configured, or not any more: nobody here asks for that.
    Unconfigured {
        /// Which place.
        place: String,
        /// The end of the name of that master key.
        key: String,
    },
    /// It is wrapped under an older version of the master key.
    Outdated {
        /// That version.
        version: u64,
        /// The latest one.
        latest: u64,
    },
}

impl WrapFinding {
    /// Whether [`repair_key`](KmsAdmin::repair_key) does something about it.
    #[must_use]
    pub fn is_repairable(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Former { .. } | Self::Outdated { .. })
    }
}

impl fmt::Display for WrapFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { place } => write!(f, "{place} cannot open it"),
            Self::Former { place, key } => write!(f, "wrapped in {place} under {key} alone, a former key"),
            Self::Unconfigured { place, key } => write!(f, "wrapped under {key} in {place}, which is not configured"),
            Self::Outdated { version, latest } => write!(f, "wrapped under version {version}, the latest is {latest}"),
        }
    }
}

#[async_trait]
impl<K: KmsAdmin + ?Sized> KmsAdmin for Arc<K> {
    async fn check(&self) -> Vec<PlaceCheck> {
        (**self).check().await
    }

    async fn inspect_key(&self, encrypted: &[u8]) -> Result<Vec<WrapFinding>, KmsError> {
        (**self).inspect_key(encrypted).await
    }

    async fn repair_key(&self, encrypted: &[u8]) -> Result<Option<Vec<u8>>, KmsError> {
        (**self).repair_key(encrypted).await
    }
}
