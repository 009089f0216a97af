//! Secrets that flow: what is written is sealed, and opened when it is read.

use std::collections::VecDeque;
use std::io;

use zeroize::Zeroize;

use super::buffer::Buffer;
use super::enclave::Enclave;
use super::sys;
use crate::error::MemoryError;

/// A first-in, first-out queue of bytes that are sealed while they wait.
///
/// Written bytes are sealed in chunks, each an [`Enclave`]; reading opens a chunk at a time and wipes what was read. A write
/// of less than a chunk makes a small one: write through a [`BufWriter`](io::BufWriter) only if the program may have the bytes
/// in ordinary memory. A chunk costs some microseconds to seal and some ten to open.
///
/// ```
/// use std::io::{Read, Write};
///
/// use keyward::memory::Stream;
///
/// let mut stream = Stream::new();
/// stream.write_all(b"first, ")?;
/// stream.write_all(b"second")?;
/// let mut text = String::new();
/// stream.read_to_string(&mut text)?;
/// assert_eq!(text, "first, second");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// ```compile_fail,E0277
/// fn copies<T: Clone>() {}
/// copies::<keyward::memory::Stream>();
/// ```
pub struct Stream {
    chunk: usize,
    sealed: VecDeque<Enclave>,
    /// The chunk that is being read, and how much of it was.
    open: Option<(Buffer, usize)>,
    size: usize,
}

impl Stream {
    /// Makes an empty stream with chunks of four pages.
    #[must_use]
    pub fn new() -> Self {
        Self::with_chunk(4 * sys::page_size())
    }

    /// Makes an empty stream with chunks of so many bytes, at least one.
    #[must_use]
    pub fn with_chunk(bytes: usize) -> Self {
        Self { chunk: bytes.max(1), sealed: VecDeque::new(), open: None, size: 0 }
    }

    /// Returns how many bytes wait to be read.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Takes the rest of the first chunk as a buffer; `None` when the stream is empty.
    ///
    /// # Errors
    /// As for [`Enclave::open`]; the chunk stays where it is.
    pub fn next_chunk(&mut self) -> Result<Option<Buffer>, MemoryError> {
        let Some((buffer, read)) = self.opened()? else { return Ok(None) };
        let chunk = if *read == 0 {
            self.open.take().map(|(buffer, _)| buffer)
        } else {
            let mut rest = Buffer::new(buffer.len() - *read)?;
            rest.copy_from(&buffer.bytes()?[*read..])?;
            // A wipe of everything meanwhile would have had zeroes copied.
            buffer.bytes()?;
            self.open = None;
            Some(rest)
        };
        self.size -= chunk.as_ref().map_or(0, Buffer::len);
        Ok(chunk)
    }

    /// Seals `bytes`, in chunks; returns how many were when a later chunk failed.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<usize, MemoryError> {
        // What stands behind a chunk that will never open would never be read.
        self.sealed.front().map_or(Ok(()), Enclave::check)?;
        if let Some((open, _)) = &self.open {
            open.bytes()?;
        }
        let mut pushed = 0;
        for chunk in bytes.chunks(self.chunk) {
            match Enclave::seal(chunk) {
                Ok(enclave) => self.sealed.push_back(enclave),
                Err(error) if pushed == 0 => return Err(error),
                Err(_) => break,
            }
            pushed += chunk.len();
            self.size += chunk.len();
        }
        Ok(pushed)
    }

    /// Moves bytes of the first chunk out, and wipes them here; 0 when the stream is empty.
    pub(super) fn pull(&mut self, into: &mut [u8]) -> Result<usize, MemoryError> {
        if into.is_empty() {
            return Ok(0);
        }
        let Some((buffer, read)) = self.opened()? else { return Ok(0) };
        let left = &mut buffer.bytes_mut()?[*read..];
        let count = left.len().min(into.len());
        into[..count].copy_from_slice(&left[..count]);
        left[..count].zeroize();
        if !buffer.is_alive() {
            into[..count].zeroize();
            return Err(MemoryError::Closed);
        }
        *read += count;
        if *read == buffer.len() {
            self.open = None;
        }
        self.size -= count;
        Ok(count)
    }

    /// Opens the first chunk, unless it is.
    fn opened(&mut self) -> Result<Option<&mut (Buffer, usize)>, MemoryError> {
        if self.open.is_none() {
            let Some(first) = self.sealed.front() else { return Ok(None) };
            self.open = Some((first.open_mutable()?, 0));
            self.sealed.pop_front();
        }
        Ok(self.open.as_mut())
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes).map_err(io::Error::other)
    }

    /// Does nothing: what was written is sealed.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.pull(into).map_err(io::Error::other)
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("size", &self.size).finish_non_exhaustive()
    }
}
