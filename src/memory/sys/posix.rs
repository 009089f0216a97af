//! Pages by the calls of POSIX, for Linux and for systems that the crate `region` does not know or cannot serve.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use super::{Access, check};

/// The pages are not counted as used before they are.
#[cfg(target_os = "linux")]
const ADDITIONAL_FLAGS: libc::c_int = libc::MAP_NORESERVE;
/// The pages are left out of core files, which no later call can ask for: mmap(2).
#[cfg(target_os = "openbsd")]
const ADDITIONAL_FLAGS: libc::c_int = libc::MAP_CONCEAL;
#[cfg(not(any(target_os = "linux", target_os = "openbsd")))]
const ADDITIONAL_FLAGS: libc::c_int = 0;

/// Returns the size of a page in bytes.
#[expect(unsafe_code, reason = "sysconf")]
pub(in super::super) fn page_size() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    // SAFETY: sysconf(3) has no preconditions.
    *SIZE.get_or_init(|| usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("pages have a size"))
}

/// Maps `bytes` of inaccessible private memory.
#[expect(unsafe_code, reason = "mmap")]
pub(in super::super) fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | ADDITIONAL_FLAGS;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
    mapped(at)
}

/// Sets what the process may do with a range.
///
/// # Safety
/// The range must be a mapping of the caller's, and nothing may use it in a way that `access` forbids.
#[expect(unsafe_code, reason = "mprotect")]
pub(in super::super) unsafe fn protect(at: NonNull<u8>, bytes: usize, access: Access) -> io::Result<()> {
    let protection = match access {
        Access::None => libc::PROT_NONE,
        Access::Read => libc::PROT_READ,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    };
    // SAFETY: the caller's own mapping, used as the caller says.
    check(unsafe { libc::mprotect(at.as_ptr().cast(), bytes, protection) })
}

/// Makes a range resident and keeps it so: it is never written to swap.
///
/// Locks do not nest, and are counted in whole pages against the limit; mlock(2).
///
/// # Safety
/// The range must be a mapping of the caller's.
#[expect(unsafe_code, reason = "mlock")]
pub(in super::super) unsafe fn lock(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's own mapping; locking does not change it.
    check(unsafe { libc::mlock(at.as_ptr().cast(), bytes) })
}

/// Undoes [`lock`].
///
/// # Safety
/// As for [`lock`].
#[expect(unsafe_code, reason = "munlock")]
pub(in super::super) unsafe fn unlock(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's own mapping; unlocking does not change it.
    check(unsafe { libc::munlock(at.as_ptr().cast(), bytes) })
}

/// Turns the answer of mmap(2) into a result.
pub(super) fn mapped(at: *mut libc::c_void) -> io::Result<NonNull<u8>> {
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(at.cast()).expect("the kernel maps nothing at address zero unless told so"))
}
