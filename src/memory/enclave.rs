//! Secrets that are sealed in ordinary memory and opened into a buffer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use secrecy::{ExposeSecret, SecretSlice};
use zeroize::Zeroize;

use super::buffer::Buffer;
use super::key::LockedKey;
use super::pages::system;
use super::process;
use super::vault::Vault;
use super::worker::system_random;
use crate::error::MemoryError;

/// Bytes of a tag of AES-256-GCM.
const TAG: usize = 16;

/// Secrets sealed under one key: half of what NIST SP 800-38D, section 8.3, allows with random nonces.
const USES: u64 = 1 << 31;

/// The key that new enclaves are sealed under, without a lock: a forked child could find one taken.
static CURRENT: ArcSwapOption<EnclaveKey> = ArcSwapOption::const_empty();

/// A secret in ordinary memory, encrypted under a key in secret memory.
///
/// Takes as much memory as the secret and some 100 bytes, none of it locked, so there may be millions. After a wipe of
/// everything ([`purge`](super::purge)) none that was there opens any more; in a forked child its parent's do not.
///
/// ```
/// use keyward::memory::Enclave;
///
/// let mut outside = *b"correct horse";
/// let enclave = Enclave::new(&mut outside)?;
/// assert_eq!(outside, [0; 13], "wiped at its source");
/// assert_eq!(enclave.open()?.bytes()?, b"correct horse");
/// # Ok::<(), keyward::MemoryError>(())
/// ```
///
/// # Security
/// AES-256-GCM with a random nonce, authenticating the key's number. For the time of a call the expanded key stands in
/// an allocation of AWS-LC, which wipes it when it frees it.
///
/// ```compile_fail,E0277
/// fn copies<T: Clone>() {}
/// copies::<keyward::memory::Enclave>();
/// ```
pub struct Enclave {
    key: Arc<EnclaveKey>,
    nonce: [u8; 12],
    /// The ciphertext and its tag.
    sealed: Box<[u8]>,
}

/// A key that enclaves are sealed under; it lives as long as they do.
struct EnclaveKey {
    vault: Vault,
    key: Arc<LockedKey>,
    number: u64,
    uses: AtomicU64,
    process: u64,
}

impl Enclave {
    /// Seals bytes and wipes them at their source, also on failure.
    ///
    /// # Errors
    /// [`MemoryError::Empty`] when there are none, [`MemoryError::Random`], and when secret memory is not to be had.
    pub fn new(bytes: &mut [u8]) -> Result<Self, MemoryError> {
        let sealed = Self::seal(bytes);
        bytes.zeroize();
        sealed
    }

    /// Makes and seals so many random bytes.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn random(length: usize) -> Result<Self, MemoryError> {
        Buffer::random(length)?.seal()
    }

    /// Opens the secret into a buffer, frozen.
    ///
    /// # Errors
    /// [`MemoryError::Closed`] after everything was wiped, [`MemoryError::Forked`] in a forked child,
    /// [`MemoryError::NotAuthentic`] when the sealed bytes were written over.
    pub fn open(&self) -> Result<Buffer, MemoryError> {
        let mut buffer = self.open_mutable()?;
        buffer.freeze()?;
        Ok(buffer)
    }

    /// Returns how many bytes are sealed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sealed.len() - TAG
    }

    /// Tells whether there are none, which no enclave has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fails when it will never open again.
    pub(super) fn check(&self) -> Result<(), MemoryError> {
        self.key.check()
    }

    pub(super) fn seal(bytes: &[u8]) -> Result<Self, MemoryError> {
        if bytes.is_empty() {
            return Err(MemoryError::Empty);
        }
        let key = EnclaveKey::current()?;
        let mut nonce = [0; 12];
        system_random()(&mut nonce)?;
        let mut sealed = vec![0; bytes.len() + TAG].into_boxed_slice();
        let (ciphertext, tag) = sealed.split_at_mut(bytes.len());
        key.with(|cipher, number| {
            let nonce = Nonce::assume_unique_for_key(nonce);
            cipher.seal_out_of_place_scatter(nonce, Aad::from(number), bytes, ciphertext, &[], tag)
        })?
        .map_err(|_| MemoryError::TooLarge { bytes: bytes.len() })?;
        Ok(Self { key, nonce, sealed })
    }

    pub(super) fn open_mutable(&self) -> Result<Buffer, MemoryError> {
        self.key.check()?;
        let mut buffer = Buffer::new(self.len())?;
        let (ciphertext, tag) = self.sealed.split_at(self.len());
        let opened = buffer.bytes_mut().map(|bytes| {
            self.key.with(|cipher, number| {
                let nonce = Nonce::assume_unique_for_key(self.nonce);
                cipher.open_separate_gather(nonce, Aad::from(number), ciphertext, tag, bytes)
            })
        })?;
        opened?.map_err(|_| MemoryError::NotAuthentic)?;
        Ok(buffer)
    }
}

impl EnclaveKey {
    /// Returns the key to seal under, a new one where there is none yet, it was wiped, or it is worn out.
    fn current() -> Result<Arc<Self>, MemoryError> {
        if let Some(key) = CURRENT.load_full().filter(|key| key.check().is_ok())
            && key.uses.fetch_add(1, Ordering::Relaxed) < USES
        {
            return Ok(key);
        }
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let vault = Vault::with_random(system_random())?;
        let key = vault.generate(b"enclaves")?;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let made = Arc::new(Self { vault, key, number, uses: AtomicU64::new(1), process: process::current() });
        // Of threads that come here at once the last one is remembered; what the others seal under theirs opens all the same.
        CURRENT.store(Some(Arc::clone(&made)));
        Ok(made)
    }

    fn check(&self) -> Result<(), MemoryError> {
        if self.process == process::current() { self.vault.check() } else { Err(MemoryError::Forked) }
    }

    /// Expands the key for one call.
    fn with<R>(&self, work: impl FnOnce(&LessSafeKey, [u8; 8]) -> R) -> Result<R, MemoryError> {
        let worked = self.key.with_bytes(|key| {
            let key = UnboundKey::new(&AES_256_GCM, key).ok()?;
            Some(work(&LessSafeKey::new(key), self.number.to_le_bytes()))
        })?;
        // A key of this size is refused only when its expansion cannot be allocated.
        worked.ok_or_else(|| system("expanding the key of an enclave")(io::ErrorKind::OutOfMemory.into()))
    }
}

impl Buffer {
    /// Seals the bytes and gives the buffer's memory back.
    ///
    /// # Errors
    /// As for [`Enclave::new`], and those of [`destroy`](Self::destroy).
    pub fn seal(self) -> Result<Enclave, MemoryError> {
        let enclave = Enclave::seal(self.bytes()?);
        // A wipe of everything meanwhile would have had zeroes sealed.
        self.bytes()?;
        self.destroy()?;
        enclave
    }
}

impl TryFrom<SecretSlice<u8>> for Enclave {
    type Error = MemoryError;

    /// Seals a secret; it is wiped where it was.
    fn try_from(secret: SecretSlice<u8>) -> Result<Self, MemoryError> {
        Self::seal(secret.expose_secret())
    }
}

impl std::fmt::Debug for Enclave {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enclave").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Enclave {
    /// Changes a byte, as a stray write would.
    #[cfg(test)]
    pub(super) fn damage(&mut self) {
        self.sealed[0] ^= 1;
    }
}
