//! Whole pages: mapped between guard pages, locked, kept out of core dumps.

use std::ptr::NonNull;
use std::sync::Arc;

use region::Protection;

use crate::error::MemoryError;

/// A readable and writable range of pages with an inaccessible page on either side.
pub(super) struct Pages {
    // Declared before the mapping, so that it is unlocked before it is unmapped.
    _lock: Option<region::LockGuard>,
    _mapping: region::Allocation,
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: the range is plain memory owned by this value; who may touch which byte is arbitrated by the slot words.
#[expect(unsafe_code, reason = "the mapping is not bound to a thread")]
unsafe impl Send for Pages {}
// SAFETY: as above; a shared reference gives out no more than the address.
#[expect(unsafe_code, reason = "the mapping is not bound to a thread")]
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps at least `size` bytes that are locked, resident, excluded from core dumps, and zeroed in a forked child.
    pub(super) fn locked(size: usize) -> Result<Self, MemoryError> {
        let mut pages = Self::guarded(size)?;
        let lock = region::lock(pages.start.as_ptr(), pages.size).map_err(system("mlock of secret memory"))?;
        pages._lock = Some(lock);
        #[cfg(target_os = "linux")]
        {
            pages.advise(rustix::mm::Advice::LinuxDontDump, "madvise(MADV_DONTDUMP) of secret memory")?;
            pages.advise(rustix::mm::Advice::LinuxWipeOnFork, "madvise(MADV_WIPEONFORK) of secret memory")?;
        }
        Ok(pages)
    }

    /// Maps at least `size` bytes that a forked child finds zeroed; they hold no secrets and are not locked.
    pub(super) fn wiped_on_fork(size: usize) -> Result<Self, MemoryError> {
        let pages = Self::guarded(size)?;
        #[cfg(target_os = "linux")]
        pages.advise(rustix::mm::Advice::LinuxWipeOnFork, "madvise(MADV_WIPEONFORK) of the arena's control words")?;
        Ok(pages)
    }

    /// Returns the bytes, for an owner who shares them with nobody.
    #[expect(unsafe_code, reason = "a mapping as a slice")]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range is mapped readable and writable and borrowed with `self`; any bytes are valid.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    #[expect(unsafe_code, reason = "page protection and address arithmetic inside one own mapping")]
    fn guarded(size: usize) -> Result<Self, MemoryError> {
        let page = region::page::size();
        let size = size.next_multiple_of(page);
        let mut mapping = region::alloc(size + 2 * page, Protection::NONE).map_err(system("mmap of secret memory"))?;
        // SAFETY: the mapping is two pages longer than `size`, so the address lies inside it.
        let start = unsafe { mapping.as_mut_ptr::<u8>().add(page) };
        // SAFETY: the range is inside the mapping, which nothing else refers to yet.
        unsafe { region::protect(start, size, Protection::READ_WRITE) }.map_err(system("mprotect of secret memory"))?;
        let start = NonNull::new(start).expect("a mapping is never at address zero");
        Ok(Self { _lock: None, _mapping: mapping, start, size })
    }

    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "madvise on an own mapping")]
    fn advise(&self, advice: rustix::mm::Advice, operation: &'static str) -> Result<(), MemoryError> {
        // SAFETY: the range is this value's own mapping, and neither advice changes what the process itself reads.
        unsafe { rustix::mm::madvise(self.start.as_ptr().cast(), self.size, advice) }
            .map_err(|errno| MemoryError::System { operation, source: Arc::new(errno.into()) })
    }
}

fn system(operation: &'static str) -> impl Fn(region::Error) -> MemoryError {
    move |error| MemoryError::System { operation, source: Arc::new(error.into_io_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_stand_between_guards() {
        let pages = Pages::locked(100).unwrap();
        let page = region::page::size();
        assert_eq!(pages.size(), page);
        let start = pages.start().as_ptr();
        assert_eq!(region::query(start).unwrap().protection(), Protection::READ_WRITE);
        assert_eq!(region::query(start.wrapping_sub(1)).unwrap().protection(), Protection::NONE);
        assert_eq!(region::query(start.wrapping_add(page)).unwrap().protection(), Protection::NONE);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_reports_the_range_as_locked_not_dumped_and_wiped_on_fork() {
        let pages = Pages::locked(100).unwrap();
        let flags = vm_flags(pages.start().as_ptr() as usize);
        assert!(["lo", "dd", "wf"].iter().all(|flag| flags.contains(flag)), "{flags}");
        let control = Pages::wiped_on_fork(100).unwrap();
        let flags = vm_flags(control.start().as_ptr() as usize);
        assert!(flags.contains("wf") && !flags.contains("lo"), "{flags}");
    }

    /// Returns the `VmFlags` line of the mapping that begins at `address`, proc(5).
    #[cfg(target_os = "linux")]
    fn vm_flags(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let from = maps.find(&format!("{address:x}-")).unwrap();
        maps[from..].lines().find(|line| line.starts_with("VmFlags")).unwrap().to_owned()
    }
}
