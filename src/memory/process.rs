//! Which process this is: a number that differs between a process and its forks, for the price of a load.

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sys;

/// The last number given; a child inherits it and goes on counting, so its number differs from all its ancestors'.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Returns the number of this process.
pub(super) fn current() -> u64 {
    let mark = mark();
    match mark.load(Ordering::Relaxed) {
        0 => number(mark),
        number => number,
    }
}

#[cold]
fn number(mark: &AtomicU64) -> u64 {
    let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    // Threads of one process that come here at once agree on the first.
    mark.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed).err().unwrap_or(next)
}

/// The word that a forked child finds zeroed.
fn mark() -> &'static AtomicU64 {
    static MARK: OnceLock<&'static AtomicU64> = OnceLock::new();
    MARK.get_or_init(|| page().unwrap_or_else(|_| zeroed_by_handler()))
}

/// Puts the word into a page that the kernel zeroes.
#[expect(unsafe_code, reason = "a word in a page of its own")]
fn page() -> std::io::Result<&'static AtomicU64> {
    let bytes = sys::page_size();
    let at: NonNull<u8> = sys::map(bytes)?;
    // SAFETY: a mapping made in the line above, which nothing refers to.
    unsafe {
        sys::clear_on_fork(at, bytes)?;
        sys::protect(at, bytes, sys::Access::ReadWrite)?;
    }
    // SAFETY: the page is mapped readable and writable for as long as the process lives, aligned, and zeroed.
    Ok(unsafe { at.cast::<AtomicU64>().as_ref() })
}

/// Where the kernel zeroes nothing, a handler does; it misses children that are not made by fork(3).
fn zeroed_by_handler() -> &'static AtomicU64 {
    static WORD: AtomicU64 = AtomicU64::new(0);
    #[expect(unsafe_code, reason = "the type that fork handlers have")]
    unsafe extern "C" fn forget() {
        WORD.store(0, Ordering::Relaxed);
    }
    if let Err(error) = sys::at_fork(forget) {
        tracing::warn!(%error, "a forked child will not be noticed");
    }
    &WORD
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::tests::holds_in_a_fork;
    use super::*;

    #[test]
    fn a_handler_forgets_the_number_in_children_where_the_system_zeroes_nothing() {
        // In a child of its own: the handler stays for good.
        assert!(holds_in_a_fork(|| {
            let word = zeroed_by_handler();
            word.store(7, Ordering::Relaxed);
            holds_in_a_fork(|| word.load(Ordering::Relaxed) == 0) && word.load(Ordering::Relaxed) == 7
        }));
    }
}
