//! A stream with two ends, for tasks: who writes faster than the other reads has to wait.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

impl Stream {
    /// Makes the two ends of a stream that holds at most `capacity` bytes, at least one.
    ///
    /// The writer is ready while there is room, the reader while there is something. The reader comes to the end when the
    /// writer was shut down or dropped and everything was read; the writer gets [`io::ErrorKind::BrokenPipe`] when the
    /// reader was dropped.
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
        let stream = Self::with_chunk(capacity.min(4 * super::sys::page_size()));
        let state = State { stream, capacity, ended: false, broken: false, writer: None, reader: None };
        let shared = Arc::new(Mutex::new(state));
        (StreamWriter { shared: Arc::clone(&shared) }, StreamReader { shared })
    }
}

/// The end of [`Stream::pipe`] that is written to.
#[derive(Debug)]
pub struct StreamWriter {
    shared: Arc<Mutex<State>>,
}

/// The end of [`Stream::pipe`] that is read from.
#[derive(Debug)]
pub struct StreamReader {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    stream: Stream,
    capacity: usize,
    /// Nothing more is written.
    ended: bool,
    /// Nothing more is read.
    broken: bool,
    writer: Option<Waker>,
    reader: Option<Waker>,
}

/// Held for the time of one chunk, some ten microseconds, and never across an await.
fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl StreamWriter {
    fn end(&self) {
        let mut state = lock(&self.shared);
        state.ended = true;
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }
}

impl AsyncWrite for StreamWriter {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.shared);
        if state.broken || state.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = state.capacity - state.stream.size();
        if room == 0 && !bytes.is_empty() {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let written = state.stream.push(&bytes[..room.min(bytes.len())]).map_err(io::Error::other);
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.end();
    }
}

impl AsyncRead for StreamReader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.shared);
        if state.stream.size() == 0 && !state.ended && into.remaining() > 0 {
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let read = state.stream.pull(into.initialize_unfilled()).map_err(io::Error::other);
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        Poll::Ready(read.map(|read| into.advance(read)))
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        state.broken = true;
        let writer = state.writer.take();
        drop(state);
        wake(writer);
    }
}
