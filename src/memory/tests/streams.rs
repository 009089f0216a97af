use std::collections::VecDeque;
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Wake, Waker};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::super::Stream;
use super::super::wipe::purge;
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_stream_does_what_a_queue_does(
        chunk in 1_usize..40,
        steps in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..100).prop_map(Step::Write),
                (0_usize..120).prop_map(Step::Read),
                Just(Step::Chunk),
            ],
            0..40,
        ),
    ) {
        let (mut stream, mut model) = (Stream::with_chunk(chunk), VecDeque::new());
        for step in steps {
            match step {
                Step::Write(bytes) => {
                    stream.write_all(&bytes).unwrap();
                    model.extend(bytes);
                }
                Step::Read(count) => {
                    let mut bytes = vec![0; count];
                    let read = stream.read(&mut bytes).unwrap();
                    prop_assert!(read > 0 || count == 0 || model.is_empty());
                    prop_assert_eq!(&bytes[..read], model.drain(..read).collect::<Vec<_>>());
                }
                Step::Chunk => match stream.next_chunk().unwrap() {
                    Some(buffer) => {
                        prop_assert!(buffer.len() <= chunk);
                        prop_assert_eq!(buffer.bytes().unwrap(), model.drain(..buffer.len()).collect::<Vec<_>>());
                    }
                    None => prop_assert!(model.is_empty()),
                },
            }
            prop_assert_eq!(stream.size(), model.len());
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<u8>),
    Read(usize),
    Chunk,
}

#[test]
fn a_stream_is_refused_in_a_fork_and_after_a_purge() {
    let mut stream = Stream::new();
    stream.write_all(b"tea").unwrap();
    assert!(holds_in_a_fork(|| stream.read(&mut [0; 3]).is_err()));
    let mut bytes = [0; 3];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"tea");
    let code = exit_code_of_a_fork(|| {
        let mut stream = Stream::new();
        stream.write_all(b"tea and milk").unwrap();
        stream.read_exact(&mut [0; 3]).unwrap();
        purge();
        let error = stream.read(&mut [0; 3]).unwrap_err();
        assert!(matches!(error.downcast::<MemoryError>(), Ok(MemoryError::Closed)));
        assert!(stream.write(b"more").is_err(), "it would never be read");
        0
    });
    assert_eq!(code, 0);
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_writer_waits_for_room_and_a_reader_for_bytes_and_each_is_woken_by_the_other() {
    let (mut writer, mut reader) = Stream::pipe(8);
    let (write_woken, read_woken) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    let (write_waker, read_waker) = (Waker::from(Arc::clone(&write_woken)), Waker::from(Arc::clone(&read_woken)));
    let mut write = |bytes: &[u8]| Pin::new(&mut writer).poll_write(&mut Context::from_waker(&write_waker), bytes);
    let mut read = |count: usize| {
        let mut bytes = vec![0; count];
        let mut into = ReadBuf::new(&mut bytes);
        let poll = Pin::new(&mut reader).poll_read(&mut Context::from_waker(&read_waker), &mut into);
        poll.map(|read| read.map(|()| into.filled().to_vec()))
    };
    let counts = || (write_woken.0.load(Ordering::Relaxed), read_woken.0.load(Ordering::Relaxed));
    assert!(read(4).is_pending());
    assert!(matches!(write(b"0123456789"), Poll::Ready(Ok(8))), "as much as there is room for");
    assert_eq!(counts(), (0, 1));
    assert!(write(b"89").is_pending());
    assert!(matches!(read(3), Poll::Ready(Ok(bytes)) if bytes == b"012"));
    assert_eq!(counts(), (1, 1));
    assert!(matches!(write(b"89"), Poll::Ready(Ok(2))));
    assert!(matches!(read(0), Poll::Ready(Ok(bytes)) if bytes.is_empty()));
}

#[tokio::test]
async fn a_pipe_ends_when_its_writer_does_and_breaks_when_its_reader_does() {
    let (mut writer, mut reader) = Stream::pipe(1 << 12);
    let sent: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let copy = sent.clone();
    let task = tokio::spawn(async move {
        writer.write_all(&copy).await.unwrap();
        drop(writer);
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).await.unwrap();
    task.await.unwrap();
    assert!(received == sent);
    let (mut writer, reader) = Stream::pipe(2);
    writer.write_all(b"12").await.unwrap();
    let mut waits = pin!(writer.write_all(b"3"));
    assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(reader);
    assert_eq!(waits.await.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn operations_that_are_dropped_have_moved_nothing() {
    let (mut writer, mut reader) = Stream::pipe(4);
    let mut bytes = [0; 2];
    let first = pin!(reader.read(&mut bytes)).poll(&mut Context::from_waker(Waker::noop())).is_pending();
    assert!(first);
    writer.write_all(b"1234").await.unwrap();
    let second = pin!(writer.write(b"56")).poll(&mut Context::from_waker(Waker::noop())).is_pending();
    assert!(second);
    writer.shutdown().await.unwrap_or_default();
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"1234");
    assert_eq!(writer.write(b"7").await.unwrap_err().kind(), ErrorKind::BrokenPipe, "after the end");
}

/// A waker that owns the other end of the pipe, as that of a task does which holds both.
struct Owner {
    _writer: std::sync::Mutex<super::super::StreamWriter>,
}

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn the_last_waker_of_a_task_that_owns_the_other_end_may_be_replaced() {
    let (writer, mut reader) = Stream::pipe(8);
    let owner = Waker::from(Arc::new(Owner { _writer: std::sync::Mutex::new(writer) }));
    let mut read = |waker: &Waker| {
        Pin::new(&mut reader).poll_read(&mut Context::from_waker(waker), &mut ReadBuf::new(&mut [0; 4])).is_pending()
    };
    assert!(read(&owner));
    drop(owner);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(read(&waker), "drops the writer, after it looked");
    assert_eq!(woken.0.load(Ordering::Relaxed), 1, "so the end is not missed");
    assert!(!read(&waker));
}

#[test]
fn what_nobody_will_read_is_wiped_when_the_reader_goes() {
    let (mut writer, mut reader) = Stream::pipe(8);
    let mut context = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut writer).poll_write(&mut context, b"12345678").is_ready());
    assert!(Pin::new(&mut reader).poll_read(&mut context, &mut ReadBuf::new(&mut [0; 4])).is_ready());
    assert_eq!(writer.queued(), 4);
    drop(reader);
    assert_eq!(writer.queued(), 0);
}

#[test]
fn a_forked_child_never_waits_for_the_lock_of_a_thread_that_it_does_not_have() {
    let (writer, reader) = Stream::pipe(8);
    let mut ends = Some((writer, reader));
    let held = ends.as_ref().map(|(writer, _)| writer.hold()).unwrap();
    assert!(held(&mut || {
        holds_in_a_fork(|| {
            let (mut writer, mut reader) = ends.take().unwrap();
            let mut context = Context::from_waker(Waker::noop());
            let forked = |error: &std::io::Error| {
                matches!(error.get_ref().and_then(|error| error.downcast_ref()), Some(MemoryError::Forked))
            };
            let written = Pin::new(&mut writer).poll_write(&mut context, b"1");
            let read = Pin::new(&mut reader).poll_read(&mut context, &mut ReadBuf::new(&mut [0; 4]));
            let ended = Pin::new(&mut writer).poll_shutdown(&mut context);
            drop((writer, reader));
            matches!(written, Poll::Ready(Err(error)) if forked(&error))
                && matches!(read, Poll::Ready(Err(error)) if forked(&error))
                && matches!(ended, Poll::Ready(Err(error)) if forked(&error))
        })
    }));
}
