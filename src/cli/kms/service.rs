//! Calls of operators to a key management service end, however it is: inside a session factory they have its deadlines.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use keyward::kms::{KmsAdmin, KmsError, PlaceCheck, WrapFinding};
use tokio::time::timeout;

use crate::cli::config::Config;
use crate::cli::error::Failure;
use crate::cli::open_kms::Kms;

/// How long one call may take: every step in every place, each with its own repetitions.
const CALL: Duration = Duration::from_secs(30);

/// A key management service whose calls end.
pub(super) struct Service(Arc<dyn KmsAdmin>);

impl Service {
    /// Opens the service of the configuration, never making a master key.
    ///
    /// # Errors
    /// [`Failure::MasterKey`].
    pub(super) async fn open(config: &Config) -> Result<Self, Failure> {
        Ok(Self::new(Kms::open(&config.kms, false).await?.admin))
    }

    pub(super) fn new(kms: Arc<dyn KmsAdmin>) -> Self {
        Self(kms)
    }

    /// Has each place do what encrypting and decrypting will ask of it; each of its requests has a deadline of its own.
    ///
    /// # Errors
    /// [`KmsError::Timeout`].
    pub(super) async fn check(&self) -> Result<Vec<PlaceCheck>, KmsError> {
        within("check the master key", async { Ok(self.0.check().await) }).await
    }

    /// Tells how a wrapped system key differs from what would be made of it now.
    ///
    /// # Errors
    /// [`KmsError`].
    pub(super) async fn inspect(&self, encrypted: &[u8]) -> Result<Vec<WrapFinding>, KmsError> {
        within("look at a system key", self.0.inspect_key(encrypted)).await
    }

    /// Wraps a system key anew; `None` when there is nothing to do.
    ///
    /// # Errors
    /// [`KmsError`].
    pub(super) async fn repair(&self, encrypted: &[u8]) -> Result<Option<Vec<u8>>, KmsError> {
        within("wrap a system key anew", self.0.repair_key(encrypted)).await
    }
}

async fn within<R>(operation: &'static str, call: impl Future<Output = Result<R, KmsError>>) -> Result<R, KmsError> {
    timeout(CALL, call).await.unwrap_or(Err(KmsError::Timeout { operation, after: CALL }))
}
