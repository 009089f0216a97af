//! The threads that wait for signals, and what they owe to the rest of the program.
//!
//! One waits for signals and does nothing else: what it does at the second one takes no lock, allocates nothing and calls
//! no code of the program. The first one wakes two others: one tells the program and runs its drains, which may block or
//! panic; one waits for the deadline.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::super::{pages, sys, wipe};
use super::shutdown::Shared;
use super::{Shutdown, Signal};
use crate::error::MemoryError;

static STARTED: AtomicBool = AtomicBool::new(false);

pub(super) fn is_started() -> bool {
    STARTED.load(Ordering::Relaxed)
}

/// Blocks the signals in this thread, and so in all that it starts, and starts those that wait.
pub(super) fn start(drain: Duration) -> Result<Shutdown, MemoryError> {
    // What whoever started the program had it ignore stays ignored, as nohup(1) asks; blocked, it would be waited for.
    let handled: Vec<Signal> = Signal::ALL.into_iter().filter(|&signal| !is_ignored(signal)).collect();
    let signals = set_of(&handled);
    mask(libc::SIG_BLOCK, &signals).map_err(pages::system("pthread_sigmask"))?;
    let shared = Arc::new(Shared::default());
    let of_drain = Arc::clone(&shared);
    let drains = spawn("keyward-drain", move || of_drain.tell(first(&of_drain)))?;
    let of_deadline = Arc::clone(&shared);
    let deadline = spawn("keyward-deadline", move || end_in(drain, first(&of_deadline)))?;
    let of_signals = Arc::clone(&shared);
    let woken = [deadline.thread().clone(), drains.thread().clone()];
    spawn("keyward-signals", move || wait(&signals, &of_signals, &woken))?;
    STARTED.store(true, Ordering::Relaxed);
    Ok(Shutdown::new(shared))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, MemoryError> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(pages::system("starting the signal threads"))
}

fn wait(signals: &libc::sigset_t, shared: &Shared, woken: &[Thread]) {
    loop {
        let Some(signal) = next(signals) else { continue };
        if !shared.request(signal) {
            end(signal);
        }
        woken.iter().for_each(Thread::unpark);
    }
}

/// Waits for the signal thread to note the first signal.
fn first(shared: &Shared) -> Signal {
    loop {
        if let Some(signal) = shared.requested() {
            return signal;
        }
        thread::park();
    }
}

fn end_in(drain: Duration, signal: Signal) {
    let began = Instant::now();
    while let Some(left) = drain.checked_sub(began.elapsed()) {
        thread::park_timeout(left);
    }
    end(signal);
}

/// Wipes everything and ends the process, without a lock or an allocation.
pub(super) fn end(signal: Signal) -> ! {
    wipe::purge();
    sys::exit_now(signal.exit_code());
}

/// Waits for a signal; `None` when the wait was interrupted.
#[expect(unsafe_code, reason = "sigwait")]
fn next(signals: &libc::sigset_t) -> Option<Signal> {
    let mut number = 0;
    // SAFETY: reads a set and writes a number, both borrowed for the call.
    match unsafe { libc::sigwait(signals, &raw mut number) } {
        0 => Signal::from_number(number),
        _ => None,
    }
}

#[expect(unsafe_code, reason = "sigaction")]
fn is_ignored(signal: Signal) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: writes the action of an existing signal and changes none.
    let known = unsafe { libc::sigaction(signal.number(), ptr::null(), action.as_mut_ptr()) } == 0;
    // SAFETY: written by the call when it succeeds.
    known && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
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

/// Blocks or unblocks signals in this thread; may be called between fork(2) and exec(3).
#[expect(unsafe_code, reason = "pthread_sigmask")]
pub(super) fn mask(how: libc::c_int, signals: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: reads a set that is borrowed for the call.
    match unsafe { libc::pthread_sigmask(how, signals, ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
