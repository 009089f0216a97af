//! Ends of a program that wipe first.

use super::super::wipe;
use super::{Signal, SignalSettings, install};
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
