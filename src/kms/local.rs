//! A master key in a file of its own.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use secrecy::SecretSlice;
use zeroize::Zeroizing;

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
        let file = File::open(path).map_err(|error| {
            let reason = match error.kind() {
                ErrorKind::NotFound => "not found; name an existing one or create it",
                ErrorKind::PermissionDenied => "may not be read by this user",
                _ => "cannot be read",
            };
            key_file(path, reason, Some(error))
        })?;
        let mut key = Zeroizing::new([0; SIZE]);
        read_key(&file, path, &mut key)?;
        Ok(Self { wrapper: LocalWrapper::new(&mut key)?, path: path.to_owned() })
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
            create(path)?;
        }
        Self::open(path)
    }
}

/// Writes a new key under a temporary name and links it to its own, which fails when that exists: other processes see a
/// whole key or none.
fn create(path: &Path) -> Result<(), KmsError> {
    let mut key = Zeroizing::new([0; SIZE]);
    system_random()(&mut *key)?;
    let mut name = path.file_name().ok_or_else(|| key_file(path, "is not the name of a file", None))?.to_owned();
    name.push(format!(".new-{}-{:x}", std::process::id(), std::ptr::from_ref(&key).addr()));
    let temporary = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let failed = |reason| move |error| key_file(path, reason, Some(error));
    let mut file =
        options.open(&temporary).map_err(failed("cannot be created; check that the folder exists and is writable"))?;
    let written = file.write_all(&*key).and_then(|()| file.sync_all()).map_err(failed("cannot be written"));
    let linked = written.and_then(|()| match std::fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(failed("cannot be created")),
    });
    let removed = std::fs::remove_file(&temporary);
    linked?;
    removed.map_err(failed("left a temporary copy beside it that cannot be removed"))
}

fn read_key(mut file: &File, path: &Path, key: &mut [u8; SIZE]) -> Result<(), KmsError> {
    let metadata = file.metadata().map_err(|error| key_file(path, "cannot be read", Some(error)))?;
    if !metadata.is_file() {
        return Err(key_file(path, "is not a regular file", None));
    }
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
        return Err(key_file(path, "may be read or changed by others; run `chmod 600` on it", None));
    }
    let wrong_size = || key_file(path, "does not hold exactly 32 bytes; is it the right file?", None);
    if metadata.len() != SIZE as u64 {
        return Err(wrong_size());
    }
    file.read_exact(key).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => wrong_size(),
        _ => key_file(path, "cannot be read", Some(error)),
    })
}

fn key_file(path: &Path, reason: &'static str, source: Option<std::io::Error>) -> KmsError {
    KmsError::KeyFile { path: path.display().to_string(), reason, source }
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
