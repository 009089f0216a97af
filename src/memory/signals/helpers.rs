//! Ends of a program that wipe first, and what it starts.

use std::process::Command;

use super::super::wipe;
use super::{Signal, SignalSettings, install, waiting};
use crate::error::MemoryError;

/// Has `f` run at the first of `signals`, or of all that there are when none is named, then wipes everything and ends the
/// process with 128 and the signal's number.
///
/// A short form of [`install`] with the defaults and [`Shutdown::drain_with`](super::Shutdown::drain_with), with the same
/// demand: before any thread. A signal that is not named wipes and ends the process without `f`.
///
/// # Errors
/// As for [`install`].
pub fn catch_signals(signals: &[Signal], f: impl FnOnce(Signal) + Send + 'static) -> Result<(), MemoryError> {
    let named = signals.to_vec();
    install(&SignalSettings::default())?.drain_with(move |signal| {
        if named.is_empty() || named.contains(&signal) {
            f(signal);
        }
    });
    Ok(())
}

/// Wipes everything and ends the process at control-C, and at every other request to end.
///
/// # Errors
/// As for [`install`].
pub fn catch_interrupt() -> Result<(), MemoryError> {
    catch_signals(&[], |_| ())
}

/// Wipes everything and ends the process with `code`, running what is registered for its end.
pub fn safe_exit(code: i32) -> ! {
    wipe::purge();
    std::process::exit(code)
}

/// Wipes everything and panics.
///
/// # Panics
/// Always.
#[expect(clippy::panic, reason = "that is what it is for")]
pub fn safe_panic(message: &str) -> ! {
    wipe::purge();
    panic!("{message}")
}

/// Has the program that `command` starts receive the signals that [`install`] blocks: a mask survives exec(3), and
/// [`Command`] leaves it as it is, so that SIGTERM, control-C and their like would not end what is started without this.
///
/// ```no_run
/// use std::process::Command;
///
/// use keyward::memory::signals::unblock_in;
///
/// let helper = unblock_in(&mut Command::new("helper")).spawn()?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// An asynchronous command of another crate wraps one of these: give it that one.
#[expect(unsafe_code, reason = "code between fork and exec")]
pub fn unblock_in(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt as _;

    let signals = waiting::set_of(&Signal::ALL);
    // SAFETY: the closure makes one system call, allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || waiting::mask(libc::SIG_UNBLOCK, &signals)) }
}
