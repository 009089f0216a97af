//! macOS, by its own calls.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{check, unsupported};

/// There is no such advice; only the whole core file can be forbidden.
///
/// # Safety
/// The range must be a mapping of the caller's.
#[expect(unsafe_code, reason = "of one shape with the other systems")]
pub(in super::super) unsafe fn exclude_from_dumps(_at: NonNull<u8>, _bytes: usize) -> io::Result<()> {
    unsupported()
}

/// The system does not zero, minherit(2).
///
/// # Safety
/// As for [`exclude_from_dumps`].
#[expect(unsafe_code, reason = "of one shape with the other systems")]
pub(in super::super) unsafe fn clear_on_fork(_at: NonNull<u8>, _bytes: usize) -> io::Result<()> {
    unsupported()
}

/// Has a forked child not find a range at all: VM_INHERIT_NONE, minherit(2).
///
/// # Safety
/// As for [`exclude_from_dumps`].
#[expect(unsafe_code, reason = "minherit")]
pub(in super::super) unsafe fn remove_on_fork(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's own mapping, which changes in children alone.
    check(unsafe { libc::minherit(at.as_ptr().cast(), bytes, libc::VM_INHERIT_NONE) })
}

/// Whether [`forbid_tracing`] succeeded; the system does not tell.
static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// Keeps debuggers from attaching to this process: PT_DENY_ATTACH, ptrace(2).
///
/// # Errors
/// [`io::ErrorKind::ResourceBusy`] when a debugger is there already: asking would end the process.
#[expect(unsafe_code, reason = "ptrace")]
pub(in super::super) fn forbid_tracing() -> io::Result<()> {
    if tracer()?.is_some() {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    // SAFETY: sets an attribute of this process; the other arguments are ignored.
    check(unsafe { libc::ptrace(libc::PT_DENY_ATTACH, 0, ptr::null_mut(), 0) })?;
    FORBIDDEN.store(true, Ordering::Relaxed);
    Ok(())
}

/// Tells whether debuggers are kept from attaching to this process.
pub(in super::super) fn tracing_is_forbidden() -> io::Result<bool> {
    Ok(FORBIDDEN.load(Ordering::Relaxed))
}

/// Returns 0 when a process traces this one; which one the system does not tell.
#[expect(unsafe_code, reason = "proc_pidinfo")]
pub(in super::super) fn tracer() -> io::Result<Option<u64>> {
    /// Of `<sys/proc_info.h>`.
    const PROC_FLAG_TRACED: u32 = 2;
    let own = std::process::id().try_into().map_err(io::Error::other)?;
    let size = size_of::<libc::proc_bsdinfo>().try_into().map_err(io::Error::other)?;
    let mut info = MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    // SAFETY: writes `size` bytes at most to `info`, which is that large and borrowed for the call.
    let written = unsafe { libc::proc_pidinfo(own, libc::PROC_PIDTBSDINFO, 0, info.as_mut_ptr().cast(), size) };
    if written != size {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: numbers and arrays of them, for which zeroes are valid as well as what the call wrote.
    let info = unsafe { info.assume_init() };
    Ok((info.pbi_flags & PROC_FLAG_TRACED != 0).then_some(0))
}
