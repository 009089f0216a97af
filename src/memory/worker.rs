//! What each thread has to itself in locked memory: a place for the data row key it works with, and random bytes drawn
//! ahead, so that the generator's fixed cost is paid once per page.
//!
//! A forked child makes a page of its own; bytes are wiped as they are handed out, and all of the page when the thread ends
//! or everything is wiped.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::sync::Arc;

use zeroize::Zeroize;

use super::backend::Acquired;
use super::pages::Pages;
use super::vault::RandomFill;
use super::wipe::Wipeable;
use super::{process, sizing};
use crate::error::{MemoryError, RandomError};

/// Draws of up to this many bytes come out of the pool: a data row key and two nonces, and then some.
const LARGEST: usize = 64;

/// Bytes of the page; one at least.
const SIZE: usize = 4096;

/// Where the random bytes begin; the place for a key stands before them.
const POOL: usize = 64;

thread_local! {
    static WORKER: Worker =
        const { Worker { page: RefCell::new(None), lent: Cell::new(false), without: Cell::new(0) } };
}

/// What one thread has.
struct Worker {
    page: RefCell<Option<Page>>,
    /// Whether the place for a key is in use; the page stays while it is.
    lent: Cell<bool>,
    /// The number of the process in which no page was to be had; it is not asked for again.
    without: Cell<u64>,
}

/// Returns the process's generator: the DRBG of AWS-LC (NIST SP 800-90A), seeded by the kernel, drawn from in pages.
///
/// Both the generator and the pages notice a fork, so parent and child never draw the same bytes.
pub(crate) fn system_random() -> RandomFill {
    Arc::new(|bytes: &mut [u8]| draw(bytes, |page| aws_lc_rs::rand::fill(page).map_err(|_| RandomError)))
}

/// Fills `bytes` from the thread's pool, which `generate` refills; straight from `generate` where there is no pool.
pub(super) fn draw(
    bytes: &mut [u8],
    generate: impl Fn(&mut [u8]) -> Result<(), RandomError>,
) -> Result<(), RandomError> {
    if bytes.len() > LARGEST {
        return generate(bytes);
    }
    // A thread that is ending has no pool any more, and a generator that draws has none to draw from.
    let drawn = WORKER.try_with(|worker| {
        let mut page = worker.page.try_borrow_mut().ok()?;
        Some(worker.usable(&mut page)?.draw(bytes, &generate))
    });
    drawn.ok().flatten().unwrap_or_else(|| generate(bytes))
}

/// Lends the thread's place for a key to `work` and wipes it afterwards; gives `work` back where there is no such place or
/// it is in use.
///
/// The result is [`MemoryError::Closed`] when everything was wiped meanwhile: the key may have been zero while it was used.
#[inline]
pub(super) fn with_place<R, W>(work: W) -> Result<Result<R, MemoryError>, W>
where
    W: FnOnce(&mut [u8; 32]) -> R,
{
    let Some(mut lent) = WORKER.try_with(Worker::lend).ok().flatten() else { return Err(work) };
    let result = work(lent.bytes());
    Ok(if lent.is_intact() { Ok(result) } else { Err(MemoryError::Closed) })
}

impl Worker {
    fn lend(&self) -> Option<Lent> {
        if self.lent.get() {
            return None;
        }
        let place = self.usable(&mut *self.page.try_borrow_mut().ok()?)?.start();
        self.lent.set(true);
        Some(Lent { place: place.cast() })
    }

    /// Returns the page, a new one where that is another process's or was wiped.
    #[inline]
    fn usable<'a>(&self, page: &'a mut Option<Page>) -> Option<&'a mut Page> {
        if !page.as_ref().is_some_and(Page::is_usable) {
            let here = process::current();
            if self.lent.get() || self.without.get() == here {
                return None;
            }
            *page = Page::new();
            if page.is_none() {
                self.without.set(here);
            }
        }
        page.as_mut()
    }
}

/// The place for a key while it is lent; cannot leave the thread.
struct Lent {
    place: NonNull<[u8; 32]>,
}

impl Lent {
    #[expect(unsafe_code, reason = "the place stands in a locked page")]
    #[inline]
    fn bytes(&mut self) -> &mut [u8; 32] {
        // SAFETY: the page is mapped and stays while `lent` is set; nothing else refers to its first bytes meanwhile.
        unsafe { self.place.as_mut() }
    }

    fn is_intact(&self) -> bool {
        let intact = |worker: &Worker| worker.page.borrow().as_ref().is_some_and(|page| page.entry.is_live());
        WORKER.try_with(intact).unwrap_or(false)
    }
}

impl Drop for Lent {
    #[inline]
    fn drop(&mut self) {
        self.bytes().as_mut_slice().zeroize();
        let _ = WORKER.try_with(|worker| worker.lent.set(false));
    }
}

/// A locked page of one thread.
struct Page {
    // Declared before the pages, so that a wipe of everything forgets them before they are unmapped.
    entry: Wipeable,
    pages: Pages,
    process: u64,
    /// Where the unused random bytes begin.
    position: usize,
}

impl Page {
    /// Returns `None` where no page can be locked or a fork would inherit it.
    #[cold]
    fn new() -> Option<Self> {
        let Acquired { pages, .. } = sizing::acquire_for_one(SIZE).ok()?;
        let entry = Wipeable::register(pages.start(), pages.size());
        Some(Self { entry, pages, process: process::current(), position: SIZE })
    }

    #[inline]
    fn is_usable(&self) -> bool {
        self.process == process::current() && self.entry.is_live()
    }

    fn start(&self) -> NonNull<u8> {
        self.pages.start()
    }

    fn draw(
        &mut self,
        bytes: &mut [u8],
        generate: impl Fn(&mut [u8]) -> Result<(), RandomError>,
    ) -> Result<(), RandomError> {
        if self.position + bytes.len() > SIZE {
            // Nothing is handed out when this fails half-way.
            self.position = SIZE;
            generate(self.pool())?;
            self.position = POOL;
        }
        let from = self.position - POOL;
        let unused = &mut self.pool()[from..from + bytes.len()];
        bytes.copy_from_slice(unused);
        unused.zeroize();
        self.position += bytes.len();
        // A wipe of everything may have come first: what was copied is then not random.
        if self.entry.is_live() { Ok(()) } else { generate(bytes) }
    }

    #[expect(unsafe_code, reason = "part of a locked page")]
    fn pool(&mut self) -> &mut [u8] {
        // SAFETY: the page is mapped, belongs to this thread, and is longer than this; the place for a key, which may be lent
        // at the same time, ends before.
        unsafe { std::slice::from_raw_parts_mut(self.start().add(POOL).as_ptr(), SIZE - POOL) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Before the list of what is to be wiped forgets it.
        if self.is_usable()
            && let Some(bytes) = self.pages.bytes_mut()
        {
            bytes.zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Counts its calls and fills with their number.
    fn counting(calls: &Cell<u8>) -> impl Fn(&mut [u8]) -> Result<(), RandomError> + '_ {
        |bytes| {
            calls.set(calls.get() + 1);
            bytes.fill(calls.get());
            Ok(())
        }
    }

    #[test]
    fn bytes_are_handed_out_once_and_wiped() {
        let (mut page, calls) = (Page::new().unwrap(), Cell::new(0));
        let mut bytes = [0; 56];
        for _ in 0..(SIZE - POOL) / 56 {
            page.draw(&mut bytes, counting(&calls)).unwrap();
            assert_eq!((bytes, calls.get()), ([1; 56], 1));
        }
        let used = page.position - POOL;
        assert!(page.pool()[..used].iter().all(|&byte| byte == 0));
        page.draw(&mut bytes, counting(&calls)).unwrap();
        assert_eq!((bytes, calls.get()), ([2; 56], 2), "a new page, not the rest and a bit more");
    }

    #[test]
    fn a_generator_that_fails_leaves_nothing_to_hand_out() {
        let (mut page, calls) = (Page::new().unwrap(), Cell::new(0));
        let mut bytes = [0; 12];
        let fails = |page: &mut [u8]| {
            page.fill(9);
            Err(RandomError)
        };
        assert!(page.draw(&mut bytes, fails).is_err());
        assert!(page.draw(&mut bytes, fails).is_err(), "the half-filled page is not used");
        page.draw(&mut bytes, counting(&calls)).unwrap();
        assert_eq!(bytes, [1; 12]);
    }

    #[test]
    fn the_place_is_lent_once_at_a_time_and_wiped() {
        let mut address = std::ptr::null();
        let nested = with_place(|place| {
            place.fill(7);
            address = std::ptr::from_ref(place);
            let mut bytes = [0; 12];
            draw(&mut bytes, counting(&Cell::new(0))).unwrap();
            assert_eq!(place, &[7; 32], "the pool stands beside it");
            with_place(|_| ()).is_err()
        });
        assert!(matches!(nested, Ok(Ok(true))));
        let again = with_place(|place| (std::ptr::from_ref(place), *place));
        assert!(matches!(again, Ok(Ok((at, [0, ..]))) if at == address), "the same place, wiped");
    }

    #[test]
    fn draws_differ_and_fill_everything() {
        let random = system_random();
        let (mut first, mut second) = ([0; 64], [0; 64]);
        random(&mut first).unwrap();
        random(&mut second).unwrap();
        assert_ne!(first, second);
        assert!(first.chunks(8).all(|chunk| chunk != [0; 8]), "every part is filled");
    }
}
