//! Handlers for signals that say that the program is broken: wipe, and leave the rest to whoever had the signal before.

use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::pages::{self, Pages};
use super::super::{sys, wipe};
use crate::error::MemoryError;

const SIGNALS: [libc::c_int; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS];

/// What had each signal before; set before the handler that reads it can run, and read without a lock.
static BEFORE: [OnceLock<libc::sigaction>; SIGNALS.len()] = [const { OnceLock::new() }; SIGNALS.len()];

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// More than any kernel's signal frame, and the handler's own.
const STACK: usize = 64 * 1024;

pub(super) fn is_installed() -> bool {
    INSTALLED.load(Ordering::Relaxed)
}

/// Installs the handlers, on the alternate stack of the thread that crashes, so that the overflow of the other one is
/// survived. Threads of the standard library have one; this thread gets one unless it has.
#[expect(unsafe_code, reason = "sigaction")]
pub(super) fn install() -> Result<(), MemoryError> {
    give_stack()?;
    for (signal, before) in SIGNALS.into_iter().zip(&BEFORE) {
        let mut now = MaybeUninit::uninit();
        // SAFETY: writes the action of an existing signal and changes none.
        sys::check(unsafe { libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) })
            .map_err(pages::system("sigaction"))?;
        // SAFETY: written by the call, which succeeded.
        let _ = before.set(unsafe { now.assume_init() });
        // SAFETY: an action of zeroes is a valid one, and gets its fields below.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = handle as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: fills a set that is part of the action.
        unsafe { libc::sigfillset(&raw mut action.sa_mask) };
        // SAFETY: the handler calls only what may be called in one.
        sys::check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })
            .map_err(pages::system("sigaction"))?;
    }
    INSTALLED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Gives this thread an alternate stack between guard pages, unless it has one.
#[expect(unsafe_code, reason = "sigaltstack")]
fn give_stack() -> Result<(), MemoryError> {
    let mut now = MaybeUninit::<libc::stack_t>::uninit();
    // SAFETY: writes what the thread has and changes nothing.
    sys::check(unsafe { libc::sigaltstack(ptr::null(), now.as_mut_ptr()) }).map_err(pages::system("sigaltstack"))?;
    // SAFETY: written by the call, which succeeded.
    if unsafe { now.assume_init() }.ss_flags & libc::SS_DISABLE == 0 {
        return Ok(());
    }
    let pages = Pages::allocate(STACK)?;
    let stack = libc::stack_t { ss_sp: pages.start().as_ptr().cast(), ss_flags: 0, ss_size: pages.size() };
    // SAFETY: the pages are mapped, writable and nobody else's, and stay so: they are never given back.
    sys::check(unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) })
        .map_err(pages::system("sigaltstack"))?;
    mem::forget(pages);
    Ok(())
}

/// Wipes everything, gives the signal back to whoever had it, and has it happen again: the same fault when the
/// instruction is repeated, or one more signal when nothing repeats it. So exit status and messages are what they were.
#[expect(unsafe_code, reason = "a signal handler")]
unsafe extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let before = SIGNALS.iter().position(|&of| of == signal).and_then(|at| BEFORE[at].get());
    let Some(before) = before else { return };
    // SAFETY: the kernel gives a handler with SA_SIGINFO valid information.
    let code = unsafe { info.as_ref() }.map_or(0, |info| info.si_code);
    if code <= 0 && before.sa_sigaction == libc::SIG_IGN {
        // Somebody sent what the program had ignored: no crash.
        return;
    }
    wipe::purge();
    // SAFETY: sigaction(2) and raise(3) may be called in a handler.
    unsafe {
        libc::sigaction(signal, ptr::from_ref(before), ptr::null_mut());
        if !repeats(signal, code) {
            if [libc::SIGSEGV, libc::SIGBUS].contains(&signal) {
                // The standard library's handler lets the first one pass, and waits for the fault to come again.
                libc::signal(signal, libc::SIG_DFL);
            }
            // Delivered when this handler returns, which has the signal blocked.
            libc::raise(signal);
        }
    }
}

/// Tells whether the signal comes again by itself when its handler returns: faults do. What somebody sent does not, and a
/// breakpoint or a forbidden system call is over when it is told of.
fn repeats(signal: libc::c_int, code: libc::c_int) -> bool {
    code > 0 && [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE].contains(&signal)
}
