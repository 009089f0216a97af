//! A master key given by the program itself.

use std::sync::Once;
use std::time::Instant;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretSlice};
use zeroize::Zeroizing;

use super::{CheckStep, KeyManagementService, KmsError, KmsFailure, KmsFailureKind, PlaceCheck, SystemKey};
use crate::crypto::system_random;
use crate::memory::{MasterKey, RandomFill, WRAPPED_KEY};

/// A key management service around a fixed master key of 32 bytes, compatible with the static one of Asherah.
///
/// # Security
/// Whoever has the program or its configuration has the master key. It is meant for tests and trials, says so once per
/// process in the log, and is never chosen by default.
///
/// ```
/// use keyward::kms::StaticKms;
///
/// assert!(StaticKms::new(b"thisIsAStaticMasterKeyForTesting").is_ok());
/// assert!(StaticKms::new(b"too short").is_err());
/// ```
pub struct StaticKms {
    wrapper: LocalWrapper,
}

impl StaticKms {
    /// Takes the master key; the copy that the service keeps stays in locked memory.
    ///
    /// # Errors
    /// [`KmsError::KeySize`] unless there are 32 bytes, [`KmsError::Memory`] without locked memory.
    pub fn new(master_key: &[u8]) -> Result<Self, KmsError> {
        static WARN: Once = Once::new();
        let mut copy: [u8; 32] = master_key.try_into().map_err(|_| KmsError::KeySize(master_key.len()))?;
        let wrapper = LocalWrapper::new(&mut copy)?;
        WARN.call_once(|| {
            tracing::warn!("a static master key protects nothing from whoever can read the configuration");
        });
        Ok(Self { wrapper })
    }
}

#[async_trait]
impl KeyManagementService for StaticKms {
    async fn encrypt_key(&self, key: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
        self.wrapper.encrypt_key(key)
    }

    async fn decrypt_key(&self, encrypted: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
        self.wrapper.decrypt_key(encrypted)
    }

    fn kind(&self) -> &'static str {
        "static"
    }
}

impl std::fmt::Debug for StaticKms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StaticKms")
    }
}

/// Wraps system keys under a master key of this process, in the layout that static master keys have.
pub(super) struct LocalWrapper {
    master: MasterKey,
    random: RandomFill,
}

impl LocalWrapper {
    /// Takes a master key and wipes it at its source.
    pub(super) fn new(master_key: &mut [u8; 32]) -> Result<Self, KmsError> {
        Ok(Self { master: MasterKey::import(master_key)?, random: system_random() })
    }

    pub(super) fn encrypt_key(&self, key: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
        let mut nonce = [0; 12];
        (self.random)(&mut nonce)?;
        let wrapped = key.with_bytes(|bytes| self.master.wrap(bytes, &nonce))??;
        Ok(wrapped.to_vec())
    }

    pub(super) fn decrypt_key(&self, encrypted: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
        let sealed: &[u8; WRAPPED_KEY] = encrypted.try_into().map_err(|_| KmsError::undecryptable())?;
        let mut key = Box::new([0; 32]);
        let opened = self.master.unwrap(sealed, &mut key);
        let secret = SecretSlice::from(key as Box<[u8]>);
        match opened? {
            Ok(()) => Ok(secret),
            Err(_) => Err(KmsError::undecryptable()),
        }
    }
}

impl LocalWrapper {
    /// Wraps a key made for this and opens it again.
    pub(super) fn check(&self, place: &str) -> PlaceCheck {
        let began = Instant::now();
        let trip = || {
            let mut key = Zeroizing::new([0; 32]);
            (self.random)(&mut *key)?;
            let mut nonce = [0; 12];
            (self.random)(&mut nonce)?;
            let opened = self.decrypt_key(&self.master.wrap(&key, &nonce)?)?;
            if opened.expose_secret() == *key { Ok(()) } else { Err(KmsError::undecryptable()) }
        };
        let failed = |error: KmsError| KmsFailure::new(place, KmsFailureKind::Refused, error.to_string());
        let outcome = trip().map_err(failed);
        PlaceCheck::new(place, vec![CheckStep::new("wrap and unwrap", began.elapsed(), outcome)])
    }
}

/// Makes operators' view of a service whose master key is in this process: it has one place, which opens all keys or none.
/// `$place` names it.
macro_rules! administer_locally {
    ($service:ty, $place:expr) => {
        #[async_trait::async_trait]
        impl $crate::kms::KmsAdmin for $service {
            async fn check(&self) -> Vec<$crate::kms::PlaceCheck> {
                let place: fn(&Self) -> String = $place;
                vec![self.wrapper.check(&place(self))]
            }

            async fn inspect_key(
                &self,
                encrypted: &[u8],
            ) -> Result<Vec<$crate::kms::WrapFinding>, $crate::kms::KmsError> {
                self.wrapper.decrypt_key(encrypted).map(|_| Vec::new())
            }

            async fn repair_key(&self, _: &[u8]) -> Result<Option<Vec<u8>>, $crate::kms::KmsError> {
                Ok(None)
            }
        }
    };
}
pub(super) use administer_locally;

administer_locally!(StaticKms, |_| "the static master key".to_owned());
