//! Pages by the crate `region`, for the systems that it knows.

use std::io;
use std::mem::forget;
use std::ptr::NonNull;

use ::region::Protection;

use super::Access;

/// Returns the size of a page in bytes.
pub(in super::super) fn page_size() -> usize {
    ::region::page::size()
}

/// Maps `bytes` of inaccessible private memory.
pub(in super::super) fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // Windows commits memory only for pages that are accessible at first.
    let at = ::region::alloc(bytes, Protection::READ_WRITE)?;
    // SAFETY: a mapping made in the line above, which nothing refers to.
    #[expect(unsafe_code, reason = "protecting a new mapping")]
    unsafe {
        ::region::protect(at.as_ptr::<u8>(), at.len(), Protection::NONE)?;
    }
    let (at, _) = at.into_raw_parts::<u8>();
    Ok(NonNull::new(at).expect("no system maps anything at address zero unless told so"))
}

/// Sets what the process may do with a range.
///
/// # Safety
/// The range must be a mapping of the caller's, and nothing may use it in a way that `access` forbids.
#[expect(unsafe_code, reason = "mprotect or VirtualProtect")]
pub(in super::super) unsafe fn protect(at: NonNull<u8>, bytes: usize, access: Access) -> io::Result<()> {
    let protection = match access {
        Access::None => Protection::NONE,
        Access::Read => Protection::READ,
        Access::ReadWrite => Protection::READ_WRITE,
    };
    // SAFETY: the caller's own mapping, used as the caller says.
    Ok(unsafe { ::region::protect(at.as_ptr(), bytes, protection) }?)
}

/// Makes a range resident and keeps it so: it is never written to swap.
///
/// Locks do not nest, and are counted in whole pages against the limit: mlock(2), or VirtualLock, whose limit is the
/// minimum working set.
///
/// # Safety
/// The range must be a mapping of the caller's.
#[expect(unsafe_code, reason = "of one shape with the other systems")]
pub(in super::super) unsafe fn lock(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // The lock ends with the mapping, or by `unlock`.
    forget(::region::lock(at.as_ptr(), bytes)?);
    Ok(())
}

/// Undoes [`lock`].
///
/// # Safety
/// As for [`lock`].
#[expect(unsafe_code, reason = "munlock or VirtualUnlock")]
pub(in super::super) unsafe fn unlock(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's own mapping; unlocking does not change it.
    Ok(unsafe { ::region::unlock(at.as_ptr(), bytes) }?)
}
