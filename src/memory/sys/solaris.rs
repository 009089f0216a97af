//! illumos and Solaris, by their own calls.

use std::io;
use std::ptr::NonNull;

use super::unsupported;

/// There is no such advice, madvise(3C); coreadm(8) can leave anonymous memory out of all core files.
///
/// # Safety
/// The range must be a mapping of the caller's.
#[expect(unsafe_code, reason = "of one shape with the other systems")]
pub(in super::super) unsafe fn exclude_from_dumps(_at: NonNull<u8>, _bytes: usize) -> io::Result<()> {
    unsupported()
}

/// Has a forked child find a private range zeroed: MC_INHERIT_ZERO, memcntl(2).
///
/// # Safety
/// As for [`exclude_from_dumps`].
#[cfg(target_os = "illumos")]
#[expect(unsafe_code, reason = "memcntl")]
pub(in super::super) unsafe fn clear_on_fork(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    /// Of `<sys/mman.h>`.
    const MC_INHERIT_ZERO: libc::c_int = 8;
    unsafe extern "C" {
        /// Of `<sys/mman.h>`: address, length, command, argument, attributes, mask.
        fn memcntl(
            at: *mut libc::c_void,
            bytes: libc::size_t,
            command: libc::c_int,
            argument: *mut libc::c_char,
            attributes: libc::c_int,
            mask: libc::c_int,
        ) -> libc::c_int;
    }
    // SAFETY: the caller's own mapping, which changes in children alone; the command takes no argument.
    super::check(unsafe { memcntl(at.as_ptr().cast(), bytes, MC_INHERIT_ZERO, std::ptr::null_mut(), 0, 0) })
}

/// Solaris does not zero, memcntl(2).
///
/// # Safety
/// As for [`exclude_from_dumps`].
#[cfg(target_os = "solaris")]
#[expect(unsafe_code, reason = "of one shape with the other systems")]
pub(in super::super) unsafe fn clear_on_fork(_at: NonNull<u8>, _bytes: usize) -> io::Result<()> {
    unsupported()
}

/// A child has what its parent has, memcntl(2).
///
/// # Safety
/// As for [`exclude_from_dumps`].
#[expect(unsafe_code, reason = "of one shape with the other systems")]
pub(in super::super) unsafe fn remove_on_fork(_at: NonNull<u8>, _bytes: usize) -> io::Result<()> {
    unsupported()
}

/// A process cannot forbid it; privileges of the tracer decide, privileges(7).
pub(in super::super) fn forbid_tracing() -> io::Result<()> {
    unsupported()
}

/// A process cannot forbid it.
pub(in super::super) fn tracing_is_forbidden() -> io::Result<bool> {
    unsupported()
}

/// The system does not tell.
pub(in super::super) fn tracer() -> io::Result<Option<u64>> {
    unsupported()
}
