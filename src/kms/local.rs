//! A master key in a file of its own.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use secrecy::SecretSlice;
use zeroize::Zeroizing;

use super::key_file::{SEALED, create, key_file, read};
use super::static_key::{LocalWrapper, administer_locally};
use super::{KeyManagementService, KmsError, SystemKey};
use crate::crypto::system_random;

/// Bytes of the file: the key and nothing else.
const SIZE: usize = 32;

/// A key management service whose master key is a file of 32 bytes, readable by its owner alone.
///
/// Wrapped keys have the layout of a static master key's, so the file's bytes work as one elsewhere.
///
/// # Security
/// As safe as the file: keep it apart from the metastore and its backups. Without it nothing can be decrypted.
pub struct LocalKms {
    wrapper: LocalWrapper,
    path: PathBuf,
}

impl LocalKms {
    /// Reads the master key from `path`.
    ///
    /// Reads a file: call it before serving, or from a blocking task.
    ///
    /// # Errors
    /// [`KmsError::KeyFile`] when the file is missing, not a file of exactly 32 bytes, or readable by others.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, KmsError> {
        let path = path.as_ref();
        let contents = read(path)?;
        let mut key = Zeroizing::new([0; SIZE]);
        if contents.len() != SIZE {
            let reason = if contents.starts_with(SEALED) {
                "is sealed under a passphrase; name it as `sealed:PATH`, or open it with LocalKms::open_sealed"
            } else {
                "does not hold exactly 32 bytes; is it the right file?"
            };
            return Err(key_file(path, reason, None));
        }
        key.copy_from_slice(&contents);
        Self::of(path, &mut key)
    }

    /// Reads the master key from `path`, making a new one of mode 0600 if there is none.
    ///
    /// A file that exists is never written. Of several processes that create it at once, one wins and all use its key.
    ///
    /// # Errors
    /// As for [`open`](Self::open), and when the file cannot be created.
    pub fn open_or_create(path: impl AsRef<Path>) -> Result<Self, KmsError> {
        let path = path.as_ref();
        if !path.exists() {
            let mut key = Zeroizing::new([0; SIZE]);
            system_random()(&mut *key)?;
            create(path, &*key)?;
        }
        Self::open(path)
    }

    /// Takes the master key that is in `path`, and wipes it at its source.
    pub(super) fn of(path: &Path, key: &mut [u8; SIZE]) -> Result<Self, KmsError> {
        Ok(Self { wrapper: LocalWrapper::new(key)?, path: path.to_owned() })
    }
}

#[async_trait]
impl KeyManagementService for LocalKms {
    async fn encrypt_key(&self, key: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
        self.wrapper.encrypt_key(key)
    }

    async fn decrypt_key(&self, encrypted: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
        self.wrapper.decrypt_key(encrypted)
    }

    fn kind(&self) -> &'static str {
        "local"
    }
}

administer_locally!(LocalKms, |kms| kms.path.display().to_string());

impl std::fmt::Debug for LocalKms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalKms").field("path", &self.path).finish_non_exhaustive()
    }
}
