//! A master key in a file that a passphrase opens.

use std::path::Path;

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::key_file::{create, key_file, read, replace};
use super::sealed_file::{SIZE, SealSettings, open, seal};
use super::{KmsError, LocalKms};
use crate::crypto::system_random;

/// Key files that are sealed under a passphrase: whoever has the file alone, in a backup for instance, has no key.
///
/// Each of these derives a key from the passphrase, which takes the time and memory that [`SealSettings`] say, and reads or
/// writes a file: call them before serving, or from a blocking task. A passphrase is taken byte by byte, without any
/// normalization.
impl LocalKms {
    /// Reads the master key from `path`, which was made by [`open_or_create_sealed`](Self::open_or_create_sealed).
    ///
    /// # Errors
    /// [`KmsError::KeyFile`] when the file is missing, not sealed, readable by others, cut short, asks for more than
    /// [`SealSettings`] allow, or does not open: a wrong passphrase looks like a file that was changed.
    pub fn open_sealed(path: impl AsRef<Path>, passphrase: &SecretString) -> Result<Self, KmsError> {
        let path = path.as_ref();
        Self::of(path, &mut *unseal(path, passphrase)?)
    }

    /// Reads the master key from `path`, making a new one, sealed and of mode 0600, if there is none.
    ///
    /// A file that exists is never written. Of several processes that create it at once, one wins and all use its key, if they
    /// have the same passphrase.
    ///
    /// # Errors
    /// As for [`open_sealed`](Self::open_sealed), and when the file cannot be created, the passphrase is empty, or the settings
    /// are out of bounds.
    pub fn open_or_create_sealed(
        path: impl AsRef<Path>,
        passphrase: &SecretString,
        settings: SealSettings,
    ) -> Result<Self, KmsError> {
        let path = path.as_ref();
        if !path.exists() {
            let mut key = Zeroizing::new([0; 32]);
            system_random()(&mut *key)?;
            create(path, &sealed(path, &key, passphrase, settings)?)?;
        }
        Self::open_sealed(path, passphrase)
    }

    /// Seals the master key in `path` under another passphrase, or with other settings.
    ///
    /// The master key is the same, so nothing else changes, and programs that run go on. The file is replaced as a whole; until
    /// then it is as it was. Copies from before still open under the old passphrase.
    ///
    /// # Errors
    /// As for [`open_sealed`](Self::open_sealed), and when the file cannot be replaced, the new passphrase is empty, or the
    /// settings are out of bounds.
    pub fn change_passphrase(
        path: impl AsRef<Path>,
        old: &SecretString,
        new: &SecretString,
        settings: SealSettings,
    ) -> Result<(), KmsError> {
        let path = path.as_ref();
        let key = unseal(path, old)?;
        replace(path, &sealed(path, &key, new, settings)?)
    }
}

fn unseal(path: &Path, passphrase: &SecretString) -> Result<Zeroizing<[u8; 32]>, KmsError> {
    open(&read(path)?, passphrase).map_err(|reason| key_file(path, reason, None))
}

fn sealed(
    path: &Path,
    key: &[u8; 32],
    passphrase: &SecretString,
    settings: SealSettings,
) -> Result<[u8; SIZE], KmsError> {
    let (mut salt, mut nonce) = ([0; 16], [0; 12]);
    system_random()(&mut salt)?;
    system_random()(&mut nonce)?;
    seal(key, passphrase, settings, &salt, &nonce).map_err(|reason| key_file(path, reason, None))
}
