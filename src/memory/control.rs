//! The control words of an arena: a header and one record per slot, in pages that a forked child finds zeroed, by the
//! system where it can and else by a handler of fork(3).

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::backend::{MemoryPolicy, Protection};
use super::pages::{Pages, system};
use super::slot::{SlotControl, State};
use super::{readers, wipe};
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
        for record in self.records() {
            if let Some(generation) = record.occupant() {
                record.begin_wipe(generation);
            }
        }
    }

    /// Tells whether a thread reads a slot.
    pub(super) fn is_read(&self) -> bool {
        self.records().any(|record| record.is_read(readers::all()))
    }

    /// Tells whether a thread has a slot to itself, to write it.
    pub(super) fn is_written(&self) -> bool {
        self.records().any(|record| record.state() == State::Claimed)
    }

    fn records(&self) -> impl Iterator<Item = &SlotControl> {
        (0..self.records.load(Ordering::Relaxed)).map(|index| self.record(index as usize))
    }

    /// Makes the words what a forked child finds where the system zeroes them.
    pub(super) fn die(&self) {
        self.epoch.store(0, Ordering::Release);
        self.records().for_each(SlotControl::die);
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
    ///
    /// Where the system zeroes nothing in a forked child, a handler does it, of the arenas that
    /// [`Wipeable::register_arena`](wipe::Wipeable::register_arena) knows; it misses children that are not made by fork(3).
    pub(super) fn map(records: usize, policy: MemoryPolicy) -> Result<(Self, Protection), MemoryError> {
        Self::map_with(records, policy, Pages::clear_on_fork)
    }

    fn map_with(
        records: usize,
        policy: MemoryPolicy,
        clear_on_fork: impl FnOnce(&mut Pages) -> Result<(), MemoryError>,
    ) -> Result<(Self, Protection), MemoryError> {
        const NAME: &str = "dead in forked children";
        let count = u32::try_from(records).expect("2^32 slots exceed any memory");
        let mut pages = Pages::allocate(size_of::<Header>() + records * size_of::<SlotControl>())?;
        let dead = clear_on_fork(&mut pages).or_else(|error| match error {
            MemoryError::System { source, .. } if source.kind() == io::ErrorKind::Unsupported => {
                wipe::kill_arenas_in_forks().map_err(system("pthread_atfork for secret memory"))
            }
            error => Err(error),
        });
        let protection = match dead {
            Ok(()) => Protection::active(NAME),
            Err(MemoryError::System { source, .. }) if policy == MemoryPolicy::Relaxed => {
                Protection::missing(NAME, source)
            }
            Err(error) => return Err(error),
        };
        let control = Self { pages, records };
        control.open(count);
        Ok((control, protection))
    }

    /// Makes zeroed words those of an arena whose slots are all free.
    fn open(&self, count: u32) {
        let header = self.header();
        header.records.store(count, Ordering::Relaxed);
        for index in 0..self.records {
            self.record(index).init();
        }
        header.epoch.store(OPEN, Ordering::Release);
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::Arc;

    use super::super::slot::State;
    use super::super::tests::holds_in_a_fork;
    use super::super::wipe::Wipeable;
    use super::*;

    /// What a system without the facility answers.
    fn unsupported(_: &mut Pages) -> Result<(), MemoryError> {
        let source = Arc::new(io::ErrorKind::Unsupported.into());
        Err(MemoryError::System { operation: "clearing", source })
    }

    fn is_alive(control: &Control) -> bool {
        control.check().is_ok() && (0..control.records).all(|index| control.record(index).state() == State::Free)
    }

    fn is_dead(control: &Control) -> bool {
        let dead = |index| control.record(index).state() == State::Dead;
        matches!(control.check(), Err(MemoryError::Forked)) && (0..control.records).all(dead)
    }

    #[test]
    fn a_handler_kills_arenas_in_children_where_the_system_zeroes_nothing() {
        // In a child of its own: the handler stays for good, and other tests are about what the kernel does.
        assert!(holds_in_a_fork(|| {
            let data = Pages::allocate(1).unwrap();
            let pages = Pages::allocate(size_of::<Header>() + 3 * size_of::<SlotControl>()).unwrap();
            let control = Control { pages, records: 3 };
            control.open(3);
            let _entry = Wipeable::register_arena(data.start(), data.size(), None, control.header());
            let before = holds_in_a_fork(|| is_alive(&control));
            let (other, protection) = Control::map_with(5, MemoryPolicy::Strict, unsupported).unwrap();
            let _other = Wipeable::register_arena(data.start(), data.size(), None, other.header());
            before
                && protection.active
                && holds_in_a_fork(|| is_dead(&control) && is_dead(&other))
                && holds_in_a_fork(|| holds_in_a_fork(|| is_dead(&other)))
                && is_alive(&control)
                && is_alive(&other)
        }));
    }
}
