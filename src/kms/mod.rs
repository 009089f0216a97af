//! Key management services: who holds the master key.

mod admin;
#[cfg(any(feature = "aws-kms", fuzzing))]
mod aws;
mod gate;
mod key_file;
mod local;
#[cfg(feature = "passphrase")]
mod sealed;
#[cfg(feature = "passphrase")]
mod sealed_file;
mod static_key;
#[cfg(feature = "vault")]
mod vault;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretSlice;

pub use crate::error::{KmsError, KmsFailure, KmsFailureKind};
use crate::memory::LockedKey;
pub use admin::{CheckStep, KmsAdmin, PlaceCheck, WrapFinding};
#[cfg(feature = "aws-kms")]
pub use aws::{AwsKms, AwsKmsOptions, Hedge};
#[cfg(any(feature = "aws-kms", fuzzing))]
pub use aws::{KeyArn, RegionMap};
pub(crate) use gate::{Entry, Gate};
pub use gate::{KmsHealth, KmsState};
pub use local::LocalKms;
#[cfg(feature = "passphrase")]
pub use sealed_file::SealSettings;
pub use static_key::StaticKms;
/// What the fuzz targets reach that is not public.
#[cfg(fuzzing)]
pub mod fuzz {
    pub use super::aws::fuzz_envelope as aws_envelope;
    #[cfg(feature = "vault")]
    pub use super::vault::fuzz_answers as vault_answers;

    /// Reads a sealed key file.
    #[cfg(feature = "passphrase")]
    pub fn sealed_key_file(bytes: &[u8]) {
        super::sealed_file::check_parts(bytes);
    }
}
#[cfg(feature = "vault")]
pub use vault::{VaultAuth, VaultKms, VaultOptions, VaultSecret};

/// Wraps and unwraps system keys under a master key.
///
/// Calls may be made from any thread, many at once; each is given a deadline by its caller.
#[async_trait]
pub trait KeyManagementService: Send + Sync + 'static {
    /// Wraps a system key; the result is stored as it is.
    ///
    /// # Errors
    /// [`KmsError`]; nothing is stored then.
    async fn encrypt_key(&self, key: SystemKey<'_>) -> Result<Vec<u8>, KmsError>;

    /// Unwraps what [`encrypt_key`](Self::encrypt_key) returned: 32 bytes, wiped when dropped.
    ///
    /// # Errors
    /// [`KmsError`]; one that says the bytes do not open is [`KmsError::undecryptable`].
    async fn decrypt_key(&self, encrypted: &[u8]) -> Result<SecretSlice<u8>, KmsError>;

    /// Returns the word that stands for this kind of service in the names of metrics, of lowercase letters alone.
    fn kind(&self) -> &'static str {
        "custom"
    }

    /// Returns how each place that keeps the master key has answered lately, in a fixed order; none where the service does
    /// not tell.
    fn health(&self) -> Vec<KmsHealth> {
        Vec::new()
    }

    /// Whether the service repeats calls that fail by itself, and does not call places that keep failing; otherwise its
    /// caller does both.
    fn repeats_calls(&self) -> bool {
        false
    }

    /// Does what is due without being asked for a key, such as renewing a token, and returns after what time something is due
    /// again; [`Duration::MAX`] where nothing ever is.
    ///
    /// A factory calls it every 10 to 20 seconds, and earlier when it is due. System keys are asked for so seldom that a
    /// token would end in between.
    ///
    /// # Errors
    /// [`KmsError`]; it is called again.
    ///
    /// # Cancel safety
    /// It may be dropped when it takes longer than an attempt.
    async fn upkeep(&self) -> Result<Duration, KmsError> {
        Ok(Duration::MAX)
    }

    /// Tries whether the service is of use again; called as often as [`upkeep`](Self::upkeep) while some [`KmsState`] is not
    /// usable, so that who is ready again is seen to be.
    ///
    /// `None` where it cannot tell, which is so unless this is implemented: it then counts as not tried. A service that has
    /// a [`health`](Self::health) of its own puts there what comes of it.
    ///
    /// # Errors
    /// Why it is of no use; as those of calls they say whether that may pass.
    ///
    /// # Cancel safety
    /// It may be dropped when it takes longer than an attempt.
    async fn probe(&self) -> Option<Result<(), KmsError>> {
        None
    }
}

/// A system key that a key management service is asked to wrap; it stays in locked memory.
#[derive(Clone, Copy, Debug)]
pub struct SystemKey<'a>(&'a LockedKey);

impl<'a> SystemKey<'a> {
    pub(crate) fn new(key: &'a LockedKey) -> Self {
        Self(key)
    }

    /// Lends the 32 bytes to `wrap` for the time of one call; they must not be copied anywhere that is not wiped.
    ///
    /// # Errors
    /// [`KmsError::Memory`] when locked memory is closed or out of scratch slots.
    pub fn with_bytes<R>(&self, wrap: impl FnOnce(&[u8; 32]) -> R) -> Result<R, KmsError> {
        Ok(self.0.with_bytes(wrap)?)
    }
}

#[async_trait]
impl<K: KeyManagementService + ?Sized> KeyManagementService for Arc<K> {
    async fn encrypt_key(&self, key: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
        (**self).encrypt_key(key).await
    }

    async fn decrypt_key(&self, encrypted: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
        (**self).decrypt_key(encrypted).await
    }

    fn kind(&self) -> &'static str {
        (**self).kind()
    }

    fn health(&self) -> Vec<KmsHealth> {
        (**self).health()
    }

    fn repeats_calls(&self) -> bool {
        (**self).repeats_calls()
    }

    async fn upkeep(&self) -> Result<Duration, KmsError> {
        (**self).upkeep().await
    }

    async fn probe(&self) -> Option<Result<(), KmsError>> {
        (**self).probe().await
    }
}
