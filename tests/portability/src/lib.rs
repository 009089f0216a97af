//! The system calls of secret memory, each called once, so that a system whose file lacks one or shapes it differently does
//! not compile.

use std::io;

#[path = "../../../src/memory/sys/mod.rs"]
mod sys;

pub use sys::{Access, Limits};

/// Calls everything that every system offers.
///
/// # Errors
/// The first call that a system refuses, or does not have.
#[expect(unsafe_code, reason = "the calls are of the crate's own mappings alone")]
pub fn call_everything() -> io::Result<Limits> {
    /// What a forked child runs first.
    unsafe extern "C" fn nothing() {}
    let bytes = sys::page_size();
    let at = sys::map(bytes)?;
    // SAFETY: a mapping made in the line above, which nothing else refers to.
    unsafe {
        for access in [Access::None, Access::Read, Access::ReadWrite] {
            sys::protect(at, bytes, access)?;
        }
        sys::lock(at, bytes)?;
        sys::exclude_from_dumps(at, bytes)?;
        sys::clear_on_fork(at, bytes)?;
        sys::remove_on_fork(at, bytes)?;
        sys::unlock(at, bytes)?;
        sys::unmap(at, bytes)?;
    }
    sys::raise_lock_limit(bytes)?;
    sys::forbid_core_files()?;
    sys::at_fork(nothing)?;
    sys::forbid_tracing()?;
    if !sys::core_files_are_forbidden()? || !sys::tracing_is_forbidden()? || sys::tracer()?.is_some() {
        sys::exit_now(1);
    }
    let (soft, hard) = sys::lock_limits();
    let limits = sys::limits();
    Ok(Limits { soft: limits.soft.min(soft), hard: limits.hard.min(hard), locked: limits.locked })
}

/// As [`call_everything`], of what Linux alone offers.
///
/// # Errors
/// As there.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the calls are of the crate's own mappings alone")]
pub fn call_what_linux_offers() -> io::Result<()> {
    let bytes = sys::page_size();
    let at = sys::map(bytes)?;
    let file = sys::secret_file(bytes)?;
    sys::try_secret(&file, bytes)?;
    // SAFETY: a mapping made three lines above, which nothing else refers to.
    unsafe {
        sys::map_secret(&file, at, bytes, Access::ReadWrite)?;
        sys::unmap(at, bytes)
    }
}
