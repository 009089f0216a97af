//! A stream with two ends, for tasks: who writes faster than the other reads has to wait.

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;
use super::{process, sys};
use crate::error::MemoryError;

impl Stream {
    /// Makes the two ends of a stream that holds at most `capacity` bytes, at least one.
    ///
    /// The writer is ready while there is room, the reader while there is something. The reader comes to the end when the
    /// writer was shut down or dropped and everything was read; the writer gets [`io::ErrorKind::BrokenPipe`] when the
    /// reader was dropped, which wipes what was not read. A wipe of everything wakes nobody: whoever writes or reads next gets
    /// its error. In a forked child, both ends of a parent's pipe fail with [`MemoryError::Forked`].
    ///
    /// # Cancel safety
    /// A read or write that is dropped has moved nothing.
    ///
    /// ```
    /// use keyward::memory::Stream;
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let (mut writer, mut reader) = Stream::pipe(4096);
    /// let write = async {
    ///     writer.write_all(&[7; 100_000]).await?;
    ///     writer.shutdown().await
    /// };
    /// let mut bytes = Vec::new();
    /// let (written, read) = tokio::join!(write, reader.read_to_end(&mut bytes));
    /// written?;
    /// assert_eq!((read?, bytes.len()), (100_000, 100_000));
    /// # std::io::Result::Ok(()) })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn pipe(capacity: usize) -> (StreamWriter, StreamReader) {
        let capacity = capacity.max(1);
        let stream = Self::with_chunk(capacity.min(4 * sys::page_size()));
        let state = State { stream, writer: Half::default(), reader: Half::default() };
        let pipe = Arc::new(Pipe { state: Mutex::new(state), capacity, process: process::current() });
        (StreamWriter { pipe: Arc::clone(&pipe) }, StreamReader { pipe })
    }
}

/// The end of [`Stream::pipe`] that is written to.
#[derive(Debug)]
pub struct StreamWriter {
    pipe: Arc<Pipe>,
}

/// The end of [`Stream::pipe`] that is read from.
#[derive(Debug)]
pub struct StreamReader {
    pipe: Arc<Pipe>,
}

#[derive(Debug)]
struct Pipe {
    /// Held for the time of one chunk, some ten microseconds, and never across an await.
    state: Mutex<State>,
    capacity: usize,
    /// In a fork of this process, the lock may be held by a thread that is not there.
    process: u64,
}

#[derive(Debug)]
struct State {
    stream: Stream,
    writer: Half,
    reader: Half,
}

#[derive(Debug, Default)]
struct Half {
    waits: Option<Waker>,
    ended: bool,
}

impl Half {
    /// Has the task woken by the other half.
    fn wait(&mut self, context: &Context<'_>, later: &mut Later) {
        later.drop = self.waits.replace(context.waker().clone());
    }

    /// Ends this half, which waits for nothing any more, and wakes the other.
    fn end(&mut self, other: &mut Self, later: &mut Later) {
        self.ended = true;
        *later = Later { wake: other.waits.take(), drop: self.waits.take() };
    }
}

/// What is done without the lock: to wake or to drop a waker runs code of others, which may be to drop the other end.
#[derive(Default)]
struct Later {
    wake: Option<Waker>,
    drop: Option<Waker>,
}

impl Pipe {
    fn with<R>(&self, work: impl FnOnce(&mut State, &mut Later) -> R) -> io::Result<R> {
        if self.process != process::current() {
            return Err(io::Error::other(MemoryError::Forked));
        }
        let mut later = Later::default();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut state, &mut later);
        drop(state);
        if let Some(waker) = later.wake {
            waker.wake();
        }
        Ok(result)
    }
}

impl StreamWriter {
    fn end(&self) -> io::Result<()> {
        self.pipe.with(|State { writer, reader, .. }, later| writer.end(reader, later))
    }
}

impl AsyncWrite for StreamWriter {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.pipe.with(|State { stream, writer, reader }, later| {
            if reader.ended || writer.ended {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let room = self.pipe.capacity - stream.size();
            if room == 0 && !bytes.is_empty() {
                writer.wait(context, later);
                return Poll::Pending;
            }
            let written = stream.push(&bytes[..room.min(bytes.len())]).map_err(io::Error::other);
            later.wake = reader.waits.take();
            Poll::Ready(written)
        })?
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.end())
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        // Fails in a fork alone, where nobody waits.
        let _ = self.end();
    }
}

impl AsyncRead for StreamReader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.pipe.with(|State { stream, writer, reader }, later| {
            if stream.size() == 0 && !writer.ended && into.remaining() > 0 {
                reader.wait(context, later);
                return Poll::Pending;
            }
            let read = stream.pull(into.initialize_unfilled()).map_err(io::Error::other);
            later.wake = writer.waits.take();
            Poll::Ready(read.map(|read| into.advance(read)))
        })?
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        // What was not read goes now, and without the lock. Fails in a fork alone, where the bytes are not there.
        let _unread = self.pipe.with(|State { stream, writer, reader }, later| {
            reader.end(writer, later);
            mem::take(stream)
        });
    }
}

#[cfg(test)]
impl StreamWriter {
    pub(super) fn queued(&self) -> usize {
        self.pipe.state.lock().unwrap().stream.size()
    }

    /// Does `work` while the lock is held.
    pub(super) fn hold(&self) -> impl FnOnce(&mut dyn FnMut() -> bool) -> bool + use<> {
        let pipe = Arc::clone(&self.pipe);
        move |work| {
            let _held = pipe.state.lock().unwrap();
            work()
        }
    }
}
