//! A buffer for secrets that the program works on itself.

use std::io;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use zeroize::Zeroize;

use super::pages::Access;
use super::placed::{Layout, Placed};
use super::settings::OnDamage;
use super::worker::system_random;
use crate::error::MemoryError;

/// Bytes in locked pages of their own, between guard pages, wiped when dropped.
///
/// The last byte is the one before the guard page, so that one more is a fault; the slack before the first is a random
/// canary, and a program that writes over it ends with exit code 70 when the buffer goes. [`freeze`](Self::freeze) makes the
/// pages read-only. Everything but access costs system calls, some ten microseconds to make one; access costs nothing.
///
/// A wipe of everything ([`purge`](super::purge)) zeroes the bytes whoever holds a reference to them; later calls are
/// [`MemoryError::Closed`], and [`MemoryError::Forked`] in a forked child.
///
/// ```
/// use keyward::memory::Buffer;
///
/// let mut outside = *b"correct horse";
/// let mut buffer = Buffer::from_bytes(&mut outside)?;
/// assert_eq!(outside, [0; 13], "wiped at its source");
/// buffer.bytes_mut()?[0] = b'C';
/// buffer.freeze()?;
/// assert!(buffer.equals(b"Correct horse")?);
/// assert!(buffer.bytes_mut().is_err());
/// buffer.destroy()?;
/// # Ok::<(), keyward::MemoryError>(())
/// ```
///
/// ```compile_fail,E0277
/// fn copies<T: Clone>() {}
/// copies::<keyward::memory::Buffer>();
/// ```
///
/// ```compile_fail,E0277
/// fn compares<T: PartialEq>() {}
/// compares::<keyward::memory::Buffer>();
/// ```
pub struct Buffer {
    /// Absent only while it is dropped.
    placed: Option<Placed>,
}

impl Buffer {
    /// Makes a buffer of so many zeroes.
    ///
    /// # Errors
    /// [`MemoryError::Empty`] for 0, and when locked memory is not to be had; nothing else is touched then.
    pub fn new(length: usize) -> Result<Self, MemoryError> {
        Ok(Self { placed: Some(Placed::new(length, Layout::Rear(OnDamage::Exit))?) })
    }

    /// Makes a buffer of so many random bytes, frozen.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and [`MemoryError::Random`].
    pub fn random(length: usize) -> Result<Self, MemoryError> {
        let mut buffer = Self::new(length)?;
        buffer.scramble()?;
        buffer.freeze()?;
        Ok(buffer)
    }

    /// Takes bytes and wipes them at their source, also on failure.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn from_bytes(bytes: &mut [u8]) -> Result<Self, MemoryError> {
        let mut buffer = Self::new(bytes.len()).inspect_err(|_| bytes.zeroize())?;
        buffer.move_in(bytes)?;
        Ok(buffer)
    }

    /// Reads exactly so many bytes, straight into the buffer.
    ///
    /// # Errors
    /// [`io::Error`] of the reader, or around a [`MemoryError`].
    pub fn from_reader(reader: &mut impl io::Read, length: usize) -> io::Result<Self> {
        let mut buffer = Self::new(length).map_err(io::Error::other)?;
        reader.read_exact(buffer.bytes_mut().map_err(io::Error::other)?)?;
        Ok(buffer)
    }

    /// Makes the pages read-only; a write is then a fault.
    ///
    /// # Errors
    /// [`MemoryError::System`] when the system refuses.
    pub fn freeze(&mut self) -> Result<(), MemoryError> {
        self.protect(Access::Read)
    }

    /// Makes the pages writable again.
    ///
    /// # Errors
    /// [`MemoryError::System`] when the system refuses.
    pub fn melt(&mut self) -> Result<(), MemoryError> {
        self.protect(Access::ReadWrite)
    }

    fn protect(&mut self, access: Access) -> Result<(), MemoryError> {
        self.placed().check()?;
        self.placed_mut().protect(access)
    }

    /// Tells whether the bytes may be written.
    #[must_use]
    pub fn is_mutable(&self) -> bool {
        self.is_alive() && self.placed().access() == Access::ReadWrite
    }

    /// Tells whether the bytes are those that were put there: neither wiped nor a forked child's.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.placed().check().is_ok()
    }

    /// Returns how many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.placed().len()
    }

    /// Tells whether there are none, which no buffer is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes.
    ///
    /// # Errors
    /// [`MemoryError::Closed`] after everything was wiped, [`MemoryError::Forked`] in a forked child.
    pub fn bytes(&self) -> Result<&[u8], MemoryError> {
        self.placed().check()?;
        self.placed().bytes().ok_or(MemoryError::Closed)
    }

    /// Returns the bytes for writing.
    ///
    /// # Errors
    /// As for [`bytes`](Self::bytes), and [`MemoryError::Frozen`].
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], MemoryError> {
        self.placed().check()?;
        self.placed_mut().bytes_mut().ok_or(MemoryError::Frozen)
    }

    /// Returns the bytes as an array, if there are exactly so many.
    ///
    /// # Errors
    /// As for [`bytes`](Self::bytes), and [`MemoryError::Shape`] when there are not.
    pub fn as_array<const N: usize>(&self) -> Result<&[u8; N], MemoryError> {
        self.bytes()?.try_into().map_err(|_| MemoryError::Shape { bytes: self.len(), of: N })
    }

    /// Returns the bytes as 16-bit words of this machine. Words end at the end of a page, so they are aligned.
    ///
    /// # Errors
    /// As for [`bytes`](Self::bytes), and [`MemoryError::Shape`] unless the bytes make whole words.
    pub fn as_u16s(&self) -> Result<&[u16], MemoryError> {
        self.words()
    }

    /// As [`as_u16s`](Self::as_u16s), with 32 bits.
    ///
    /// # Errors
    /// As there.
    pub fn as_u32s(&self) -> Result<&[u32], MemoryError> {
        self.words()
    }

    /// As [`as_u16s`](Self::as_u16s), with 64 bits.
    ///
    /// # Errors
    /// As there.
    pub fn as_u64s(&self) -> Result<&[u64], MemoryError> {
        self.words()
    }

    #[expect(unsafe_code, reason = "bytes as words")]
    fn words<W: Copy>(&self) -> Result<&[W], MemoryError> {
        // SAFETY: called for unsigned integers alone, for which any bytes are valid.
        let (before, words, behind) = unsafe { self.bytes()?.align_to::<W>() };
        let whole = before.is_empty() && behind.is_empty();
        whole.then_some(words).ok_or(MemoryError::Shape { bytes: self.len(), of: size_of::<W>() })
    }

    /// Copies `bytes` to the start of the buffer.
    ///
    /// # Errors
    /// As for [`copy_at`](Self::copy_at).
    pub fn copy_from(&mut self, bytes: &[u8]) -> Result<(), MemoryError> {
        self.copy_at(0, bytes)
    }

    /// Copies `bytes` into the buffer, from `offset` on.
    ///
    /// # Errors
    /// As for [`bytes_mut`](Self::bytes_mut), and [`MemoryError::Shape`] when they do not fit; nothing is copied then.
    pub fn copy_at(&mut self, offset: usize, bytes: &[u8]) -> Result<(), MemoryError> {
        let length = self.len();
        let room = self.bytes_mut()?.get_mut(offset..).and_then(|rest| rest.get_mut(..bytes.len()));
        room.ok_or(MemoryError::Shape { bytes: bytes.len(), of: length })?.copy_from_slice(bytes);
        self.placed().check()
    }

    /// Copies `bytes` to the start of the buffer and wipes them at their source, also on failure.
    ///
    /// # Errors
    /// As for [`copy_at`](Self::copy_at).
    pub fn move_in(&mut self, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let moved = self.copy_from(bytes);
        bytes.zeroize();
        moved
    }

    /// Fills the buffer with random bytes.
    ///
    /// # Errors
    /// As for [`bytes_mut`](Self::bytes_mut), and [`MemoryError::Random`].
    pub fn scramble(&mut self) -> Result<(), MemoryError> {
        system_random()(self.bytes_mut()?)?;
        self.placed().check()
    }

    /// Zeroes the bytes.
    ///
    /// # Errors
    /// As for [`bytes_mut`](Self::bytes_mut).
    pub fn wipe(&mut self) -> Result<(), MemoryError> {
        self.bytes_mut()?.zeroize();
        Ok(())
    }

    /// Compares the bytes with others, in a time that depends on their number alone.
    ///
    /// # Errors
    /// As for [`bytes`](Self::bytes).
    pub fn equals(&self, other: &[u8]) -> Result<bool, MemoryError> {
        let equal = verify_slices_are_equal(self.bytes()?, other).is_ok();
        self.placed().check()?;
        Ok(equal)
    }

    /// Returns a reader of the bytes as they are now.
    ///
    /// # Errors
    /// As for [`bytes`](Self::bytes).
    pub fn reader(&self) -> Result<io::Cursor<&[u8]>, MemoryError> {
        Ok(io::Cursor::new(self.bytes()?))
    }

    /// Copies the bytes out of locked memory, into a type that wipes them when dropped.
    ///
    /// # Errors
    /// As for [`bytes`](Self::bytes).
    pub fn to_secret(&self) -> Result<SecretSlice<u8>, MemoryError> {
        let secret = SecretSlice::from(self.bytes()?.to_vec());
        self.placed().check()?;
        Ok(secret)
    }

    /// Wipes the bytes and gives the memory back. Dropping does the same and tells nobody how it went.
    ///
    /// # Errors
    /// The first [`MemoryError`] of a step; the later steps were attempted all the same.
    pub fn destroy(mut self) -> Result<(), MemoryError> {
        self.placed.take().map_or(Ok(()), Placed::destroy)
    }

    fn placed(&self) -> &Placed {
        self.placed.as_ref().expect("it is taken by those who take the buffer")
    }

    fn placed_mut(&mut self) -> &mut Placed {
        self.placed.as_mut().expect("it is taken by those who take the buffer")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.placed.take().map(Placed::destroy) {
            tracing::warn!(%error, "a buffer was not given back in order");
        }
    }
}

impl TryFrom<SecretSlice<u8>> for Buffer {
    type Error = MemoryError;

    /// Moves a secret into locked memory; it is wiped where it was.
    fn try_from(secret: SecretSlice<u8>) -> Result<Self, MemoryError> {
        let bytes = secret.expose_secret();
        let mut buffer = Self::new(bytes.len())?;
        buffer.copy_from(bytes)?;
        Ok(buffer)
    }
}

impl TryFrom<SecretString> for Buffer {
    type Error = MemoryError;

    /// Moves a secret into locked memory; it is wiped where it was.
    fn try_from(secret: SecretString) -> Result<Self, MemoryError> {
        let text = secret.expose_secret();
        let mut buffer = Self::new(text.len())?;
        buffer.copy_from(text.as_bytes())?;
        Ok(buffer)
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len()).field("mutable", &self.is_mutable()).finish_non_exhaustive()
    }
}
