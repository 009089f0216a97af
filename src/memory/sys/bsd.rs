//! The BSDs, by their own calls.

use std::io;
use std::ptr::NonNull;

use super::check;
#[cfg(not(target_os = "freebsd"))]
use super::unsupported;

/// Keeps a range out of core files: MADV_NOCORE, madvise(2).
///
/// # Safety
/// The range must be a mapping of the caller's.
#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
#[expect(unsafe_code, reason = "madvise")]
pub(in super::super) unsafe fn exclude_from_dumps(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's own mapping; the advice does not change what the process reads.
    check(unsafe { libc::madvise(at.as_ptr().cast(), bytes, libc::MADV_NOCORE) })
}

/// Does nothing: every range was mapped with MAP_CONCEAL, mmap(2).
///
/// # Safety
/// The range must be a mapping of the caller's.
#[cfg(target_os = "openbsd")]
#[expect(unsafe_code, reason = "of one shape with the other systems")]
pub(in super::super) unsafe fn exclude_from_dumps(_at: NonNull<u8>, _bytes: usize) -> io::Result<()> {
    Ok(())
}

/// NetBSD has no such advice, madvise(2).
///
/// # Safety
/// The range must be a mapping of the caller's.
#[cfg(target_os = "netbsd")]
#[expect(unsafe_code, reason = "of one shape with the other systems")]
pub(in super::super) unsafe fn exclude_from_dumps(_at: NonNull<u8>, _bytes: usize) -> io::Result<()> {
    unsupported()
}

/// Has a forked child find a private range zeroed: INHERIT_ZERO, minherit(2), FreeBSD 12, NetBSD 8, OpenBSD 5.6.
///
/// # Safety
/// As for [`exclude_from_dumps`].
#[cfg(not(target_os = "dragonfly"))]
#[expect(unsafe_code, reason = "minherit")]
pub(in super::super) unsafe fn clear_on_fork(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    #[cfg(target_os = "freebsd")]
    const ZERO: libc::c_int = libc::INHERIT_ZERO;
    #[cfg(any(target_os = "netbsd", target_os = "openbsd"))]
    const ZERO: libc::c_int = libc::MAP_INHERIT_ZERO;
    // SAFETY: the caller's own mapping, which changes in children alone.
    check(unsafe { libc::minherit(at.as_ptr().cast(), bytes, ZERO) })
}

/// DragonFly does not zero, minherit(2).
///
/// # Safety
/// As for [`exclude_from_dumps`].
#[cfg(target_os = "dragonfly")]
#[expect(unsafe_code, reason = "of one shape with the other systems")]
pub(in super::super) unsafe fn clear_on_fork(_at: NonNull<u8>, _bytes: usize) -> io::Result<()> {
    unsupported()
}

/// Has a forked child not find a range at all: INHERIT_NONE, minherit(2).
///
/// # Safety
/// As for [`exclude_from_dumps`].
#[expect(unsafe_code, reason = "minherit")]
pub(in super::super) unsafe fn remove_on_fork(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    #[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
    const NONE: libc::c_int = libc::INHERIT_NONE;
    #[cfg(any(target_os = "netbsd", target_os = "openbsd"))]
    const NONE: libc::c_int = libc::MAP_INHERIT_NONE;
    // SAFETY: the caller's own mapping, which changes in children alone.
    check(unsafe { libc::minherit(at.as_ptr().cast(), bytes, NONE) })
}

/// Keeps other processes of the same user from tracing this one, and the system from writing core files of it:
/// PROC_TRACE_CTL, procctl(2).
#[cfg(target_os = "freebsd")]
pub(in super::super) fn forbid_tracing() -> io::Result<()> {
    let mut disable = libc::PROC_TRACE_CTL_DISABLE;
    control(libc::PROC_TRACE_CTL, &mut disable)
}

/// Tells whether other processes of the same user are kept from tracing this one.
#[cfg(target_os = "freebsd")]
pub(in super::super) fn tracing_is_forbidden() -> io::Result<bool> {
    Ok(trace_status()? == -1)
}

/// Returns the process that traces this one, a debugger for example.
#[cfg(target_os = "freebsd")]
pub(in super::super) fn tracer() -> io::Result<Option<u64>> {
    Ok(u64::try_from(trace_status()?).ok().filter(|&process| process != 0))
}

/// Returns -1 when tracing is forbidden, 0 when nobody traces, and else who does: PROC_TRACE_STATUS, procctl(2).
#[cfg(target_os = "freebsd")]
fn trace_status() -> io::Result<libc::c_int> {
    let mut status = 0;
    control(libc::PROC_TRACE_STATUS, &mut status)?;
    Ok(status)
}

/// Makes a call of procctl(2) about this process that takes or returns one number.
#[cfg(target_os = "freebsd")]
#[expect(unsafe_code, reason = "procctl")]
fn control(command: libc::c_int, number: &mut libc::c_int) -> io::Result<()> {
    // SAFETY: the commands of this file read or write one `int`, which is borrowed for the call.
    check(unsafe { libc::procctl(libc::P_PID, 0, command, std::ptr::from_mut(number).cast()) })
}

/// A process cannot forbid it here.
#[cfg(not(target_os = "freebsd"))]
pub(in super::super) fn forbid_tracing() -> io::Result<()> {
    unsupported()
}

/// A process cannot forbid it here.
#[cfg(not(target_os = "freebsd"))]
pub(in super::super) fn tracing_is_forbidden() -> io::Result<bool> {
    unsupported()
}

/// The system does not tell.
#[cfg(not(target_os = "freebsd"))]
pub(in super::super) fn tracer() -> io::Result<Option<u64>> {
    unsupported()
}
