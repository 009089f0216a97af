//! The control words of an arena: a header and one record per slot, in pages that a forked child finds zeroed.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::backend::{MemoryPolicy, Protection};
use super::pages::Pages;
use super::slot::SlotControl;
use crate::error::MemoryError;

const OPEN: u32 = 1;
const POISONED: u32 = 2;
/// Stands for a sealed copy, which is in no slot.
const SEALED_COPY: u64 = u64::MAX;

/// What concerns the whole arena.
#[repr(C, align(128))]
pub(super) struct Header {
    /// 0 in a fork.
    epoch: AtomicU32,
    records: AtomicU32,
    /// The damaged slot and one, or [`SEALED_COPY`], when that is why the arena is poisoned.
    damaged: AtomicU64,
}

impl Header {
    /// Closes the arena for good and tells all readers that what they read is about to be zeroed.
    pub(super) fn poison(&self) {
        if self.epoch.compare_exchange(OPEN, POISONED, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            return;
        }
        for index in 0..self.records.load(Ordering::Relaxed) {
            let record = self.record(index as usize);
            if let Some(generation) = record.occupant() {
                record.begin_wipe(generation);
            }
        }
    }

    /// Returns the record of a slot.
    #[expect(unsafe_code, reason = "records stand behind the header")]
    fn record(&self, index: usize) -> &SlotControl {
        // SAFETY: `Control::map` places the header at the start of pages that hold this many records behind it; a record
        // is nothing but atomics, for which any bits are valid.
        unsafe { &*std::ptr::from_ref(self).add(1).cast::<SlotControl>().add(index) }
    }
}

/// The control words of one arena.
pub(super) struct Control {
    pages: Pages,
    records: usize,
}

const _: () = assert!(size_of::<Header>() == 128 && align_of::<SlotControl>() == 128, "the records follow the header");

impl Control {
    /// Maps the words of so many slots, all free.
    pub(super) fn map(records: usize, policy: MemoryPolicy) -> Result<(Self, Protection), MemoryError> {
        const NAME: &str = "dead in forked children";
        let count = u32::try_from(records).expect("2^32 slots exceed any memory");
        let mut pages = Pages::allocate(size_of::<Header>() + records * size_of::<SlotControl>())?;
        let protection = match pages.clear_on_fork() {
            Ok(()) => Protection::active(NAME),
            Err(MemoryError::System { source, .. }) if policy == MemoryPolicy::Relaxed => {
                Protection::missing(NAME, source)
            }
            Err(error) => return Err(error),
        };
        let control = Self { pages, records };
        let header = control.header();
        header.records.store(count, Ordering::Relaxed);
        for index in 0..records {
            control.record(index).init();
        }
        header.epoch.store(OPEN, Ordering::Release);
        Ok((control, protection))
    }

    #[expect(unsafe_code, reason = "control words stand in pages of their own")]
    pub(super) fn header(&self) -> &Header {
        // SAFETY: the pages begin with the header, are aligned to a page, zeroed at first, and live as long as `self`; it is
        // nothing but atomics, for which any bits are valid.
        unsafe { self.pages.start().cast::<Header>().as_ref() }
    }

    #[inline]
    pub(super) fn record(&self, index: usize) -> &SlotControl {
        assert!(index < self.records, "slot indices come from this arena");
        self.header().record(index)
    }

    /// Fails in a fork of the process that mapped the arena, and when everything was wiped.
    pub(super) fn check(&self) -> Result<(), MemoryError> {
        match self.header().epoch.load(Ordering::Acquire) {
            OPEN => Ok(()),
            POISONED => Err(match self.header().damaged.load(Ordering::Acquire) {
                0 => MemoryError::Closed,
                SEALED_COPY => MemoryError::DamagedCopy,
                slot => MemoryError::Damaged { slot: slot - 1 },
            }),
            _ => Err(MemoryError::Forked),
        }
    }

    /// As [`check`](Self::check), after a use that a wipe may have overlapped.
    pub(super) fn check_after(&self) -> Result<(), MemoryError> {
        fence(Ordering::SeqCst);
        self.check()
    }

    /// Remembers why the arena is about to be poisoned.
    pub(super) fn note_damage(&self, slot: Option<usize>) {
        let place = slot.map_or(SEALED_COPY, |slot| slot as u64 + 1);
        let _ = self.header().damaged.compare_exchange(0, place, Ordering::AcqRel, Ordering::Relaxed);
    }
}
