//! Whole pages between guard pages: allocate, protect, lock, exclude from dumps, wipe and free.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use zeroize::Zeroize;

use super::{process, sys};
use crate::error::{HIDDEN_MAP, MemoryError, is_about_the_lock_limit};

pub use super::sys::{Access, Limits};

/// A range of private pages with an inaccessible page on either side; wiped and unmapped when dropped.
///
/// The floor of everything in this module, for programs that manage pages themselves: nothing is locked or excluded from
/// dumps until that is asked for. Each method costs a system call, some microseconds; none blocks.
///
/// ```
/// use keyward::memory::{Access, Pages};
///
/// let mut pages = Pages::allocate(100)?;
/// pages.exclude_from_dumps()?;
/// pages.bytes_mut().expect("new pages are writable")[..3].copy_from_slice(b"key");
/// pages.protect(Access::None)?;
/// assert!(pages.bytes().is_none());
/// pages.free()?;
/// # Ok::<(), keyward::MemoryError>(())
/// ```
pub struct Pages {
    reservation: Reservation,
    access: Access,
    locked: bool,
    /// A forked child does not have the range; something else may stand there by now.
    removed_on_fork: bool,
    process: u64,
}

impl Pages {
    /// Maps at least `bytes`, rounded up to whole pages, readable, writable and zeroed.
    ///
    /// # Errors
    /// [`MemoryError::Empty`] for 0 bytes, [`MemoryError::System`] when the system refuses.
    pub fn allocate(bytes: usize) -> Result<Self, MemoryError> {
        let mut pages = Self::reserve(bytes)?;
        pages.protect(Access::ReadWrite)?;
        Ok(pages)
    }

    /// Maps inaccessible pages.
    pub(super) fn reserve(bytes: usize) -> Result<Self, MemoryError> {
        if bytes == 0 {
            return Err(MemoryError::Empty);
        }
        let reservation = Reservation::new(bytes).map_err(system("mmap of secret memory"))?;
        Ok(Self {
            reservation,
            access: Access::None,
            locked: false,
            removed_on_fork: false,
            process: process::current(),
        })
    }

    /// Backs inaccessible pages by memory that the kernel hides, through the file that it came in.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "mmap and madvise on an own mapping")]
    pub(super) fn back_by_secret(&mut self, file: &sys::SecretFile, access: Access) -> Result<(), MemoryError> {
        let (start, bytes) = (self.start(), self.size());
        let refused = system(HIDDEN_MAP);
        sys::try_secret(file, bytes).map_err(&refused)?;
        // SAFETY: the range is this value's own mapping, inaccessible, so nothing refers to it.
        if let Err(error) = unsafe { sys::map_secret(file, start, bytes, access) } {
            // Others may map something there from now on; the guard pages are the price.
            self.reservation.mapped = false;
            return Err(refused(error));
        }
        self.access = access;
        // Locked by nature; mlock(2) of it would fail.
        self.locked = true;
        // SAFETY: as above.
        unsafe { sys::remove_on_fork(start, bytes) }.map_err(system("madvise(MADV_DONTFORK) of secret memory"))?;
        self.removed_on_fork = true;
        Ok(())
    }

    /// Sets what the process may do with the pages; anything else is then a fault that ends it.
    ///
    /// # Errors
    /// [`MemoryError::System`]; the pages are then as they were.
    #[expect(unsafe_code, reason = "mprotect on an own mapping")]
    pub fn protect(&mut self, access: Access) -> Result<(), MemoryError> {
        // SAFETY: the range is this value's own mapping; references to its bytes borrow `self` and have ended.
        unsafe { sys::protect(self.start(), self.size(), access) }.map_err(system("mprotect of secret memory"))?;
        self.access = access;
        Ok(())
    }

    /// Keeps the pages in memory, so that they are never written to swap.
    ///
    /// # Errors
    /// [`MemoryError::Budget`] with the numbers when the lock limit leaves no room, [`MemoryError::System`] when the system
    /// refuses for another reason.
    #[expect(unsafe_code, reason = "mlock on an own mapping")]
    pub fn lock(&mut self) -> Result<(), MemoryError> {
        // SAFETY: the range is this value's own mapping.
        if let Err(error) = unsafe { sys::lock(self.start(), self.size()) } {
            // What cannot be touched cannot be made resident, whatever the limit is; it was counted all the same.
            // SAFETY: as above.
            let _ = unsafe { sys::unlock(self.start(), self.size()) };
            let inaccessible = self.access == Access::None;
            let refused = if inaccessible { system(LOCK)(error) } else { lock_refused(self.size(), error) };
            return Err(refused);
        }
        self.locked = true;
        Ok(())
    }

    /// Undoes [`lock`](Self::lock); nothing happens to pages that are not locked.
    ///
    /// # Errors
    /// [`MemoryError::System`]; the pages are then as they were.
    #[expect(unsafe_code, reason = "munlock on an own mapping")]
    pub fn unlock(&mut self) -> Result<(), MemoryError> {
        if self.locked && !self.removed_on_fork {
            // SAFETY: the range is this value's own mapping.
            unsafe { sys::unlock(self.start(), self.size()) }.map_err(system("munlock of secret memory"))?;
            self.locked = false;
        }
        Ok(())
    }

    /// Keeps the pages out of core files.
    ///
    /// # Errors
    /// [`MemoryError::System`] when the system refuses or has no such thing.
    #[expect(unsafe_code, reason = "madvise on an own mapping")]
    pub fn exclude_from_dumps(&mut self) -> Result<(), MemoryError> {
        // SAFETY: the range is this value's own mapping.
        unsafe { sys::exclude_from_dumps(self.start(), self.size()) }
            .map_err(system("excluding secret memory from core files"))
    }

    /// Has a forked child find the pages zeroed.
    ///
    /// # Errors
    /// [`MemoryError::System`] when the system refuses or has no such thing.
    #[expect(unsafe_code, reason = "madvise on an own mapping")]
    pub fn clear_on_fork(&mut self) -> Result<(), MemoryError> {
        // SAFETY: the range is this value's own mapping; it changes in children alone.
        unsafe { sys::clear_on_fork(self.start(), self.size()) }
            .map_err(system("clearing secret memory in forked children"))
    }

    /// Has a forked child find the pages zeroed, or not at all where the system cannot do that: what is inherited is only the
    /// mapping, which a child does not touch.
    #[expect(unsafe_code, reason = "minherit on an own mapping")]
    pub(super) fn keep_from_forks(&mut self) -> Result<(), MemoryError> {
        match self.clear_on_fork() {
            Err(MemoryError::System { source, .. }) if source.kind() == io::ErrorKind::Unsupported => {
                // SAFETY: the range is this value's own mapping; it changes in children alone, where `is_own` keeps this
                // value from it.
                unsafe { sys::remove_on_fork(self.start(), self.size()) }
                    .map_err(system("keeping secret memory from forked children"))
            }
            outcome => outcome,
        }
    }

    /// Returns the bytes, unless the pages are inaccessible or this is a forked child.
    #[must_use]
    #[expect(unsafe_code, reason = "a mapping as a slice")]
    pub fn bytes(&self) -> Option<&[u8]> {
        let readable = self.access != Access::None && self.is_own();
        // SAFETY: the range is mapped readable and borrowed with `self`, so that its protection stays; any bytes are valid.
        readable.then(|| unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.size()) })
    }

    /// Returns the bytes for writing, unless the pages are not writable or this is a forked child.
    #[must_use]
    #[expect(unsafe_code, reason = "a mapping as a slice")]
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let writable = self.access == Access::ReadWrite && self.is_own();
        // SAFETY: the range is mapped readable and writable and borrowed with `self`; any bytes are valid.
        writable.then(|| unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), self.size()) })
    }

    /// Returns how many bytes there are: whole pages.
    #[must_use]
    pub fn size(&self) -> usize {
        self.reservation.bytes
    }

    /// Returns what the process may do with the pages.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Tells whether the pages are kept in memory.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// Returns the address of the first byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.reservation.start
    }

    /// Tells whether this process made the mapping.
    pub(super) fn is_own(&self) -> bool {
        self.process == process::current()
    }

    /// Wipes, unlocks and unmaps the pages. Dropping does the same and tells nobody how it went.
    ///
    /// # Errors
    /// The first [`MemoryError::System`] of a step; the later steps were attempted all the same. Pages that cannot be
    /// made writable are not wiped.
    pub fn free(mut self) -> Result<(), MemoryError> {
        self.clear()
    }

    /// Gives back pages that nobody has written to, without touching them: wiping would make them resident.
    pub(super) fn discard(mut self) {
        if self.is_own() {
            // Of no more consequence than that the address range is lost.
            let _ = self.reservation.unmap();
        }
    }

    fn clear(&mut self) -> Result<(), MemoryError> {
        // A child has no business with its parent's mapping, and it may not be there at all.
        if !self.reservation.mapped || !self.is_own() {
            return Ok(());
        }
        let writable = if self.access == Access::ReadWrite { Ok(()) } else { self.protect(Access::ReadWrite) };
        if let Some(bytes) = self.bytes_mut() {
            bytes.zeroize();
        }
        let unlocked = self.unlock();
        let unmapped = self.reservation.unmap().map_err(system("munmap of secret memory"));
        writable.and(unlocked).and(unmapped)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(%error, cause = ?error.cause(), "secret memory could not be given back");
        }
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages")
            .field("size", &self.size())
            .field("access", &self.access)
            .field("locked", &self.locked)
            .finish_non_exhaustive()
    }
}

/// A mapping with its guard pages; unmapped by its owner, not by dropping it.
struct Reservation {
    start: NonNull<u8>,
    bytes: usize,
    mapped: bool,
}

// SAFETY: an address range; who may touch which byte is the owner's business.
#[expect(unsafe_code, reason = "a mapping is not bound to a thread")]
unsafe impl Send for Reservation {}
// SAFETY: as above; a shared reference gives out no more than the address.
#[expect(unsafe_code, reason = "a mapping is not bound to a thread")]
unsafe impl Sync for Reservation {}

impl Reservation {
    #[expect(unsafe_code, reason = "address arithmetic inside one own mapping")]
    fn new(bytes: usize) -> io::Result<Self> {
        let page = sys::page_size();
        let bytes = bytes.checked_next_multiple_of(page).ok_or(io::ErrorKind::OutOfMemory)?;
        let all = bytes.checked_add(2 * page).ok_or(io::ErrorKind::OutOfMemory)?;
        let first = sys::map(all)?;
        // SAFETY: the mapping is two pages longer than `bytes`, so the address lies inside it.
        let start = unsafe { first.add(page) };
        Ok(Self { start, bytes, mapped: true })
    }

    #[expect(unsafe_code, reason = "munmap of an own mapping")]
    fn unmap(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.mapped, false) {
            return Ok(());
        }
        let page = sys::page_size();
        // SAFETY: the mapping began one page before `start` and ended one page behind the bytes; its owner, and with it
        // every reference, is gone.
        unsafe { sys::unmap(self.start.sub(page), self.bytes + 2 * page) }
    }
}

/// Returns how much memory this process may lock and has locked.
#[must_use]
pub fn limits() -> Limits {
    sys::limits()
}

/// Has the process write no core files, by setting RLIMIT_CORE to 0; a core pattern that pipes to a program is not bound
/// by it, see core(5).
///
/// # Errors
/// [`MemoryError::System`].
pub fn disable_core_dumps() -> Result<(), MemoryError> {
    sys::forbid_core_files().map_err(system("setrlimit(RLIMIT_CORE)"))
}

/// Names the operation in an error of the system.
pub(super) fn system(operation: &'static str) -> impl Fn(io::Error) -> MemoryError {
    move |error| MemoryError::System { operation, source: Arc::new(error) }
}

const LOCK: &str = "mlock of secret memory";

fn lock_refused(bytes: usize, error: io::Error) -> MemoryError {
    let about_limit = is_about_the_lock_limit(&error);
    let error = system(LOCK)(error);
    if about_limit { over_budget(bytes, error) } else { error }
}

/// Adds the numbers that an operator needs to a refusal that is about the lock limit.
pub(super) fn over_budget(bytes: usize, error: MemoryError) -> MemoryError {
    let Limits { soft, hard, locked } = limits();
    match error.cause() {
        Some(source) => MemoryError::Budget { needed: bytes as u64, soft, hard, locked, source },
        None => error,
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_reports_what_was_asked_for() -> Result<(), MemoryError> {
        let mut pages = Pages::allocate(100)?;
        let page = sys::page_size();
        assert_eq!(pages.size(), page);
        let start = pages.start().as_ptr() as usize;
        let flags = |word: &str| vm_flags(start).split_whitespace().any(|flag| flag == word);
        assert!(!flags("lo") && !flags("dd") && !flags("wf"), "nothing unasked");
        pages.lock()?;
        pages.exclude_from_dumps()?;
        pages.clear_on_fork()?;
        assert!(flags("lo") && flags("dd") && flags("wf"));
        pages.unlock()?;
        assert!(!flags("lo"));
        for (access, text) in [(Access::None, "---p"), (Access::Read, "r--p"), (Access::ReadWrite, "rw-p")] {
            pages.protect(access)?;
            assert_eq!(permissions(start), text);
            assert_eq!(
                (pages.bytes().is_some(), pages.bytes_mut().is_some()),
                (access != Access::None, text == "rw-p")
            );
        }
        assert_eq!((permissions(start - 1), permissions(start + page)), ("---p".to_owned(), "---p".to_owned()));
        pages.free()
    }

    #[test]
    fn sizes_that_no_memory_has_are_refused() {
        assert!(matches!(Pages::allocate(0), Err(MemoryError::Empty)));
        for bytes in [usize::MAX, usize::MAX - 4096, usize::MAX / 2] {
            assert!(matches!(Pages::allocate(bytes), Err(MemoryError::System { .. })));
        }
    }

    /// Returns the first line of the mapping in smaps that holds `address`, and the others.
    fn mapping(address: usize) -> (String, String) {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut found = None;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let bound = |text| usize::from_str_radix(text, 16);
            if let Some((Ok(from), Ok(to))) = range.map(|(from, to)| (bound(from), bound(to))) {
                found = (from..to).contains(&address).then(|| line.to_owned());
            } else if let (Some(first), true) = (&found, line.starts_with("VmFlags:")) {
                return (first.clone(), line.to_owned());
            }
        }
        panic!("no mapping at {address:x}")
    }

    fn vm_flags(address: usize) -> String {
        mapping(address).1
    }

    fn permissions(address: usize) -> String {
        mapping(address).0.split(' ').nth(1).unwrap().to_owned()
    }
}
