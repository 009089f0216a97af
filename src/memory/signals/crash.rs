//! Handlers for signals that say that the program is broken: wipe, and leave the rest to whoever had the signal before.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::{pages, sys, wipe};
use crate::error::MemoryError;

const SIGNALS: [libc::c_int; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS];

static INSTALLED: AtomicBool = AtomicBool::new(false);

pub(super) fn is_installed() -> bool {
    INSTALLED.load(Ordering::Relaxed)
}

/// What had each signal before; written once, before the handler that reads it can run.
struct Before(UnsafeCell<[MaybeUninit<libc::sigaction>; SIGNALS.len()]>);

// SAFETY: written by `install` alone, which runs once, and read by handlers that it installs afterwards.
#[expect(unsafe_code, reason = "read by signal handlers, which cannot lock")]
unsafe impl Sync for Before {}

static BEFORE: Before = Before(UnsafeCell::new([MaybeUninit::uninit(); SIGNALS.len()]));

/// Installs the handlers, on the alternate stack of the thread that crashes, so that the overflow of the other one is
/// survived; threads of the standard library have one.
#[expect(unsafe_code, reason = "sigaction")]
pub(super) fn install() -> Result<(), MemoryError> {
    for (at, signal) in SIGNALS.into_iter().enumerate() {
        // SAFETY: an action of zeroes is a valid one, and gets its fields below.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = handle as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `install` runs once, and the element is that of a signal whose handler is not yet installed.
        let before = unsafe { (*BEFORE.0.get())[at].as_mut_ptr() };
        // SAFETY: makes a set that is part of the action.
        unsafe { libc::sigfillset(&raw mut action.sa_mask) };
        // SAFETY: writes the old action to its place before the new one counts.
        sys::check(unsafe { libc::sigaction(signal, ptr::null(), before) }).map_err(pages::system("sigaction"))?;
        // SAFETY: the handler calls only what may be called in one.
        sys::check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })
            .map_err(pages::system("sigaction"))?;
    }
    INSTALLED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Wipes everything, gives the signal back to whoever had it, and has it happen again: the same fault when the
/// instruction is repeated, or one more signal when somebody sent it. So exit status and messages are what they were.
#[expect(unsafe_code, reason = "a signal handler")]
unsafe extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    wipe::purge();
    let Some(at) = SIGNALS.iter().position(|&of| of == signal) else { return };
    // SAFETY: written before this handler was installed, and not since.
    let before = unsafe { (*BEFORE.0.get())[at].as_ptr() };
    // SAFETY: sigaction(2) and raise(3) may be called in a handler; the kernel gives it valid information.
    unsafe {
        libc::sigaction(signal, before, ptr::null_mut());
        if info.is_null() || (*info).si_code <= 0 {
            // Delivered when this handler returns, which has the signal blocked.
            libc::raise(signal);
        }
    }
}
