//! What a secret in memory of its own is, whatever keeps it.

use std::io;

use zeroize::Zeroize;

use crate::error::MemoryError;

/// Bytes that are readable while they are used, and at no other time.
///
/// Uses may run in parallel. Once a secret is closed, or everything was wiped, every use is [`MemoryError::Closed`]; in a
/// forked child it is [`MemoryError::Forked`]. A use that a wipe overlaps ends in the same error, and what it made is to be
/// discarded.
pub trait Secret: Send + Sync {
    /// Lends the bytes to `work`.
    ///
    /// # Errors
    /// [`MemoryError`]; what `work` made, if it ran, is then not to be used.
    fn with_bytes(&self, work: &mut dyn FnMut(&[u8])) -> Result<(), MemoryError>;

    /// Lends the bytes to `work` and returns what it makes.
    ///
    /// # Errors
    /// As for [`with_bytes`](Self::with_bytes); what `work` made is then wiped.
    fn with_bytes_func(&self, work: &mut dyn FnMut(&[u8]) -> Vec<u8>) -> Result<Vec<u8>, MemoryError> {
        let mut made = Vec::new();
        let lent = self.with_bytes(&mut |bytes| {
            made.zeroize();
            made = work(bytes);
        });
        match lent {
            Ok(()) => Ok(made),
            Err(error) => {
                made.zeroize();
                Err(error)
            }
        }
    }

    /// Returns how many bytes there are.
    fn len(&self) -> usize;

    /// Tells whether there are none, which no secret is.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells whether uses are refused: after [`close`](Self::close), and after everything was wiped.
    fn is_closed(&self) -> bool;

    /// Refuses new uses, wipes the bytes and gives the memory back; uses under way may finish, and the last one wipes.
    ///
    /// Never waits, so it may be called inside a use. Closing again does nothing. Dropping closes.
    ///
    /// # Errors
    /// [`MemoryError`] of the first step that failed; the secret is closed all the same.
    fn close(&self) -> Result<(), MemoryError>;

    /// Returns a reader of the bytes, from the first on.
    fn reader(&self) -> SecretReader<'_>;
}

/// Makes secrets.
pub trait SecretFactory: Send + Sync {
    /// Takes bytes and wipes them at their source, also on failure.
    ///
    /// # Errors
    /// [`MemoryError::Empty`] when there are none, and when memory is not to be had.
    fn create(&self, bytes: &mut [u8]) -> Result<Box<dyn Secret>, MemoryError>;

    /// Makes a secret of so many random bytes.
    ///
    /// # Errors
    /// As for [`create`](Self::create), and [`MemoryError::Random`].
    fn random(&self, length: usize) -> Result<Box<dyn Secret>, MemoryError>;
}

/// [`Secret::with_bytes`] for closures that return something.
pub trait SecretExt: Secret {
    /// Lends the bytes to `work` and returns what it returns.
    ///
    /// ```
    /// use keyward::memory::{ProtectedMemoryFactory, SecretExt, SecretFactory};
    ///
    /// let mut outside = *b"a password";
    /// let secret = ProtectedMemoryFactory.create(&mut outside)?;
    /// assert_eq!(outside, [0; 10], "wiped at its source");
    /// assert!(secret.with(|bytes| bytes == b"a password")?);
    /// secret.close()?;
    /// assert!(secret.with(|_| ()).is_err());
    /// # Ok::<(), keyward::MemoryError>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Secret::with_bytes`].
    ///
    /// # Panics
    /// When an implementation of [`Secret`] says that it has lent the bytes and has not.
    fn with<R>(&self, work: impl FnOnce(&[u8]) -> R) -> Result<R, MemoryError> {
        let (mut work, mut made) = (Some(work), None);
        self.with_bytes(&mut |bytes| made = work.take().map(|work| work(bytes)))?;
        Ok(made.expect("a use that succeeds has run its closure, once"))
    }
}

impl<S: Secret + ?Sized> SecretExt for S {}

/// Reads a secret from its first byte to its last; what it has read stands wherever the caller put it.
///
/// A reader belongs to one owner at a time:
///
/// ```compile_fail,E0277
/// fn copies<T: Clone>() {}
/// copies::<keyward::memory::SecretReader<'static>>();
/// ```
pub struct SecretReader<'a> {
    secret: &'a dyn Secret,
    position: usize,
}

impl<'a> SecretReader<'a> {
    /// Begins at the first byte.
    #[must_use]
    pub fn new(secret: &'a dyn Secret) -> Self {
        Self { secret, position: 0 }
    }
}

impl io::Read for SecretReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut copied = 0;
        let read = self.secret.with_bytes(&mut |bytes| {
            let rest = &bytes[self.position..];
            copied = rest.len().min(into.len());
            into[..copied].copy_from_slice(&rest[..copied]);
        });
        if let Err(error) = read {
            into[..copied].zeroize();
            return Err(io::Error::other(error));
        }
        self.position += copied;
        Ok(copied)
    }
}

impl std::fmt::Debug for SecretReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretReader").field("position", &self.position).finish_non_exhaustive()
    }
}
