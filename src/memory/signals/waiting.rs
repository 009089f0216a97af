//! The thread that waits for signals, and what it owes to the rest of the program.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::super::{pages, sys, wipe};
use super::Signal;
use crate::error::MemoryError;

static STARTED: AtomicBool = AtomicBool::new(false);

pub(super) fn is_started() -> bool {
    STARTED.load(Ordering::Relaxed)
}

/// Tells when the process is asked to end. Cloning shares it.
#[derive(Clone)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The number of the first signal, or 0.
    requested: AtomicI32,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    wakers: Vec<Waker>,
    drains: Vec<Box<dyn FnOnce(Signal) + Send>>,
}

impl Shutdown {
    /// Waits for the first signal; resolves at once when it came.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. Any number may wait, in any executor.
    pub async fn requested(&self) -> Signal {
        poll_fn(|context| {
            let mut waiting = self.shared.waiting();
            if let Some(signal) = self.is_requested() {
                return Poll::Ready(signal);
            }
            if !waiting.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Returns the first signal, if it came.
    #[must_use]
    pub fn is_requested(&self) -> Option<Signal> {
        Signal::from_number(self.shared.requested.load(Ordering::Acquire))
    }

    /// Has `drain` run at the first signal, on a thread of its own; when the last such function has returned, everything is
    /// wiped and the process ends with 128 and the signal's number.
    ///
    /// Runs at once when the signal came already.
    pub fn drain_with(&self, drain: impl FnOnce(Signal) + Send + 'static) {
        let mut waiting = self.shared.waiting();
        match self.is_requested() {
            None => waiting.drains.push(Box::new(drain)),
            Some(signal) => {
                drop(waiting);
                end_after(vec![Box::new(drain)], signal);
            }
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody of the first signal.
    fn request(&self, signal: Signal) {
        let mut waiting = self.waiting();
        self.requested.store(signal.number(), Ordering::Release);
        let Waiting { wakers, drains } = std::mem::take(&mut *waiting);
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
        if !drains.is_empty() {
            end_after(drains, signal);
        }
    }
}

/// Runs `drains` on a thread of their own and then ends the process.
fn end_after(drains: Vec<Box<dyn FnOnce(Signal) + Send>>, signal: Signal) {
    let draining = std::thread::Builder::new().name("keyward-drain".to_owned()).spawn(move || {
        // One that panics does not keep the others from their turn.
        for drain in drains {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drain(signal)));
        }
        end(signal);
    });
    if let Err(error) = draining {
        tracing::error!(%error, "no thread to drain on; the process ends at once");
        end(signal);
    }
}

/// Wipes everything and ends the process, without a lock or an allocation.
fn end(signal: Signal) -> ! {
    wipe::purge();
    sys::exit_now(signal.exit_code());
}

/// Blocks the signals in this thread, and so in all that it starts, and starts the one that waits for them.
pub(super) fn start(drain: Duration) -> Result<Shutdown, MemoryError> {
    let signals = set_of(&Signal::ALL);
    block(&signals).map_err(pages::system("pthread_sigmask"))?;
    let shared = Arc::new(Shared::default());
    let of_thread = Arc::clone(&shared);
    std::thread::Builder::new()
        .name("keyward-signals".to_owned())
        .spawn(move || wait(&signals, &of_thread, drain))
        .map_err(pages::system("starting the signal thread"))?;
    STARTED.store(true, Ordering::Relaxed);
    Ok(Shutdown { shared })
}

fn wait(signals: &libc::sigset_t, shared: &Shared, drain: Duration) {
    let first = loop {
        if let Some(signal) = next(signals, None) {
            break signal;
        }
    };
    shared.request(first);
    let deadline = Instant::now() + drain;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            end(first);
        }
        if let Some(second) = next(signals, Some(left)) {
            end(second);
        }
    }
}

/// Waits for a signal; `None` when the time is over or the wait was interrupted.
#[expect(unsafe_code, reason = "sigwaitinfo and sigtimedwait")]
fn next(signals: &libc::sigset_t, time: Option<Duration>) -> Option<Signal> {
    #[cfg(not(any(target_os = "macos", target_os = "openbsd")))]
    let number = {
        let time = time.map(|time| libc::timespec {
            tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let time = time.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: reads a set and a time, both borrowed for the call or, the time, absent, which waits for ever.
        unsafe { libc::sigtimedwait(signals, ptr::null_mut(), time) }
    };
    #[cfg(any(target_os = "macos", target_os = "openbsd"))]
    let number = {
        // No wait with a deadline here: a helper thread sends one more signal when it is over.
        if let Some(time) = time {
            let _ = std::thread::Builder::new().spawn(move || {
                std::thread::park_timeout(time);
                wipe::purge();
                sys::exit_now(128 + libc::SIGTERM);
            });
        }
        let mut number = 0;
        // SAFETY: reads a set and writes a number, both borrowed for the call.
        if unsafe { libc::sigwait(signals, &raw mut number) } == 0 { number } else { -1 }
    };
    Signal::from_number(number)
}

#[expect(unsafe_code, reason = "sigemptyset and sigaddset")]
pub(super) fn set_of(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the first call makes an empty set, the others add numbers of signals to it; none fails for these.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.number());
        }
        set.assume_init()
    }
}

#[expect(unsafe_code, reason = "pthread_sigmask")]
fn block(signals: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: reads a set that is borrowed for the call.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, signals, ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

impl std::fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shutdown").field("requested", &self.is_requested()).finish_non_exhaustive()
    }
}
