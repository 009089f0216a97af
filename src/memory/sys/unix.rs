//! What all Unix systems share: unmapping, limits, core files, and the handler that runs in a forked child.

use std::io;
use std::ptr::NonNull;

#[cfg(not(target_os = "linux"))]
use super::Limits;
use super::check;
#[cfg(any(target_os = "illumos", target_os = "solaris"))]
use super::unsupported;

/// Unmaps a range.
///
/// # Safety
/// The range must be a mapping of the caller's that nothing refers to any more.
#[expect(unsafe_code, reason = "munmap")]
pub(in super::super) unsafe fn unmap(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's own mapping.
    check(unsafe { libc::munmap(at.as_ptr().cast(), bytes) })
}

/// Returns a resource limit, soft and hard.
#[expect(unsafe_code, reason = "getrlimit")]
fn limit(resource: Resource) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one `rlimit`, which is borrowed for the call.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    Ok(limit)
}

/// Sets a resource limit.
#[expect(unsafe_code, reason = "setrlimit")]
fn set_limit(resource: Resource, limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: reads one `rlimit`, which is borrowed for the call.
    check(unsafe { libc::setrlimit(resource, std::ptr::from_ref(limit)) })
}

#[cfg(all(target_os = "linux", any(target_env = "gnu", target_env = "uclibc")))]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(all(target_os = "linux", any(target_env = "gnu", target_env = "uclibc"))))]
type Resource = libc::c_int;

/// Returns soft and hard RLIMIT_MEMLOCK in bytes; `u64::MAX` is no limit.
#[cfg(not(any(target_os = "illumos", target_os = "solaris")))]
pub(in super::super) fn lock_limits() -> (u64, u64) {
    /// Whether `rlim_t` has a sign, and how wide it is, differs between systems.
    fn bytes<T: TryInto<u64> + PartialEq>(value: T, infinity: &T) -> u64 {
        if value == *infinity { u64::MAX } else { value.try_into().unwrap_or(u64::MAX) }
    }
    let infinity = &libc::RLIM_INFINITY;
    limit(libc::RLIMIT_MEMLOCK)
        .map_or((u64::MAX, u64::MAX), |limit| (bytes(limit.rlim_cur, infinity), bytes(limit.rlim_max, infinity)))
}

/// Returns no limit: what may be locked is a resource control of the project, and whether anything may be a privilege,
/// privileges(5).
#[cfg(any(target_os = "illumos", target_os = "solaris"))]
pub(in super::super) fn lock_limits() -> (u64, u64) {
    (u64::MAX, u64::MAX)
}

/// Raises the soft RLIMIT_MEMLOCK to the hard one, as any process may; `_bytes` of it will be locked.
#[cfg(not(any(target_os = "illumos", target_os = "solaris")))]
pub(in super::super) fn raise_lock_limit(_bytes: usize) -> io::Result<()> {
    let mut raised = limit(libc::RLIMIT_MEMLOCK)?;
    raised.rlim_cur = raised.rlim_max;
    set_limit(libc::RLIMIT_MEMLOCK, &raised)
}

/// There is no limit that a process may raise.
#[cfg(any(target_os = "illumos", target_os = "solaris"))]
pub(in super::super) fn raise_lock_limit(_bytes: usize) -> io::Result<()> {
    unsupported()
}

/// Returns the lock limit; how much is locked these systems do not tell a process.
#[cfg(not(target_os = "linux"))]
pub(in super::super) fn limits() -> Limits {
    let (soft, hard) = lock_limits();
    Limits { soft, hard, locked: 0 }
}

/// Sets RLIMIT_CORE to 0, so that no core file is written; a core pattern that pipes to a program ignores it, core(5).
pub(in super::super) fn forbid_core_files() -> io::Result<()> {
    set_limit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 })
}

/// Tells whether RLIMIT_CORE is 0.
pub(in super::super) fn core_files_are_forbidden() -> io::Result<bool> {
    Ok(limit(libc::RLIMIT_CORE)?.rlim_cur == 0)
}

/// Has `in_child` run in every child that fork(3) makes, before anything else does.
#[expect(unsafe_code, reason = "pthread_atfork")]
pub(in super::super) fn at_fork(in_child: unsafe extern "C" fn()) -> io::Result<()> {
    // SAFETY: the handler is a function of this program, and such live as long as the process.
    match unsafe { libc::pthread_atfork(None, None, Some(in_child)) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Ends the process at once, without running anything else of it.
#[expect(unsafe_code, reason = "_exit")]
pub(in super::super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}
