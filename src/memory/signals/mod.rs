//! What ends a process, and the wipe that comes first: signals, crashes, `exit`, panics.
//!
//! A library that is linked in does none of this by itself. A program that wants it calls [`install`] first thing in
//! `main`, before any thread exists: `TERM`, `INT`, `HUP` and `QUIT` are then blocked everywhere, except those that the
//! program was started to ignore, and waited for by one thread (`waiting.rs`), which owes nothing to any runtime, so that
//! a blocked one cannot keep keys alive. `shutdown.rs` is how the program learns of them. Crashes are caught by handlers that
//! wipe and hand over to whoever had the signal before (`crash.rs`); `helpers.rs` has shorter ways to the same end. Where
//! several threads end the process at once, none goes before all have wiped.
//!
//! * The **first** signal lets the program drain: [`Shutdown::requested`] resolves, functions given to
//!   [`Shutdown::drain_with`] run.
//! * The **second** signal, or the end of [`SignalSettings::drain`], wipes everything and ends the process with 128 and the
//!   signal's number.
//!
//! Unix only. What a program starts inherits what is blocked, also by [`std::process::Command`]; [`unblock_in`] undoes that.

mod crash;
mod helpers;
mod shutdown;
mod waiting;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use helpers::{catch_interrupt, catch_signals, safe_exit, safe_panic, unblock_in};
pub use shutdown::Shutdown;

use super::backend::Protection;
use super::{process, wipe};
use crate::error::MemoryError;

/// A request from outside to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// SIGTERM: a supervisor stops the program.
    Terminate,
    /// SIGINT: control-C.
    Interrupt,
    /// SIGHUP: the terminal is gone.
    HangUp,
    /// SIGQUIT: control-backslash.
    Quit,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Terminate, Self::Interrupt, Self::HangUp, Self::Quit];

    /// Returns its number, signal(7).
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Terminate => libc::SIGTERM,
            Self::Interrupt => libc::SIGINT,
            Self::HangUp => libc::SIGHUP,
            Self::Quit => libc::SIGQUIT,
        }
    }

    /// Returns the exit code by which shells know that a program ended over it: 128 and its number.
    #[must_use]
    pub const fn exit_code(self) -> i32 {
        128 + self.number()
    }

    fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.number() == number)
    }
}

/// What [`install`] does.
///
/// # Defaults
/// * `drain` 25 s: less than the 30 s that orchestrators wait before they kill.
/// * `crash_handlers` and `at_exit` on: there is no other moment to wipe.
/// * `wipe_on_panic` off: a panic that a runtime catches is not the end. A program built with `panic=abort` wipes always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalSettings {
    /// How long the program may take to end after the first signal.
    pub drain: Duration,
    /// Wipe on SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP and SIGSYS.
    pub crash_handlers: bool,
    /// Wipe when `main` returns or `exit` is called.
    pub at_exit: bool,
    /// Wipe at every panic, also one that is caught.
    pub wipe_on_panic: bool,
}

impl Default for SignalSettings {
    fn default() -> Self {
        Self { drain: Duration::from_secs(25), crash_handlers: true, at_exit: true, wipe_on_panic: false }
    }
}

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Has the process wipe all secrets however it ends, SIGKILL excepted. Call it first thing in `main`, before any thread.
///
/// ```no_run
/// use keyward::memory::signals::{SignalSettings, install};
///
/// let shutdown = install(&SignalSettings::default())?;
/// // Build the runtime, open session factories; then, in async code:
/// # async fn serve(shutdown: keyward::memory::signals::Shutdown) {
/// let signal = shutdown.requested().await;
/// // Stop accepting, close the factories, return from `main`.
/// # }
/// # Ok::<(), keyward::MemoryError>(())
/// ```
///
/// # Errors
/// [`MemoryError::Installed`] the second time, [`MemoryError::System`] when the system refuses.
pub fn install(settings: &SignalSettings) -> Result<Shutdown, MemoryError> {
    if INSTALLED.swap(true, Ordering::SeqCst) {
        return Err(MemoryError::Installed);
    }
    // What a handler needs is made here: it cannot.
    process::current();
    let shutdown = waiting::start(settings.drain)?;
    if settings.crash_handlers {
        crash::install()?;
    }
    if settings.at_exit {
        at_exit()?;
    }
    if settings.wipe_on_panic || cfg!(panic = "abort") {
        wipe_on_panic();
    }
    Ok(shutdown)
}

/// Returns what is installed, for reports.
pub(super) fn protections() -> Vec<Protection> {
    let handled = |name, active| Protection::optional(name, active, None);
    vec![
        handled("wiped on signals", waiting::is_started()),
        handled("wiped on crashes", crash::is_installed()),
        handled("wiped at exit", AT_EXIT.load(Ordering::Relaxed)),
    ]
}

static AT_EXIT: AtomicBool = AtomicBool::new(false);

#[expect(unsafe_code, reason = "atexit")]
fn at_exit() -> Result<(), MemoryError> {
    extern "C" fn wipe_first() {
        wipe::purge();
    }
    // SAFETY: the handler is a function of this program; it neither unwinds nor takes locks.
    if unsafe { libc::atexit(wipe_first) } != 0 {
        return Err(super::pages::system("atexit")(std::io::ErrorKind::OutOfMemory.into()));
    }
    AT_EXIT.store(true, Ordering::Relaxed);
    Ok(())
}

/// Wipes before the panic is told: whoever tells it may be what panics next.
fn wipe_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        wipe::purge();
        tell(panic);
    }));
}
