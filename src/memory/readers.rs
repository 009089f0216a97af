//! The announcements of all threads: each thread has a record of its own, which a wiper reads and nobody else writes.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use super::slot::Announcement;

/// Reads that one thread may have under way, one inside the other; beyond it pins are counted in the slot's own word.
const DEPTH: usize = 4;

/// The announcements of one thread, on cache lines of their own. Records are leaked and used again.
#[repr(align(128))]
struct Record {
    announced: [Announcement; DEPTH],
    taken: AtomicBool,
    next: AtomicPtr<Record>,
}

static RECORDS: AtomicPtr<Record> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    static OWN: Own = const { Own(Cell::new(None)) };
}

/// Gives the record back when the thread ends.
struct Own(Cell<Option<&'static Record>>);

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            record.taken.store(false, Ordering::Release);
        }
    }
}

/// Returns a free announcement of this thread; `None` when all are in use or the thread is ending.
#[inline]
pub(super) fn own() -> Option<&'static Announcement> {
    let record = OWN.try_with(|own| own.0.get().unwrap_or_else(|| take_record(own))).ok()?;
    record.announced.iter().find(|announcement| announcement.is_free())
}

/// Returns the announcements of all threads.
#[expect(unsafe_code, reason = "a list without locks")]
pub(super) fn all() -> impl Iterator<Item = &'static Announcement> {
    // SAFETY: records are leaked when they are published, so they live as long as the process.
    let next = |at: *mut Record| unsafe { at.as_ref() };
    // In the total order of the announcements: a record that is not seen here announces only after what was done before.
    let first = next(RECORDS.load(Ordering::SeqCst));
    std::iter::successors(first, move |record| next(record.next.load(Ordering::Acquire)))
        .flat_map(|record| record.announced.iter())
}

#[cold]
#[expect(unsafe_code, reason = "a list without locks")]
fn take_record(own: &Own) -> &'static Record {
    let mut at = RECORDS.load(Ordering::Acquire);
    let mut record = None;
    // SAFETY: as in `all`.
    while let Some(found) = unsafe { at.as_ref() } {
        if found.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            record = Some(found);
            break;
        }
        at = found.next.load(Ordering::Acquire);
    }
    let record = record.unwrap_or_else(new_record);
    own.0.set(Some(record));
    record
}

fn new_record() -> &'static Record {
    let record = Box::leak(Box::new(Record {
        announced: std::array::from_fn(|_| Announcement::new()),
        taken: AtomicBool::new(true),
        next: AtomicPtr::new(ptr::null_mut()),
    }));
    let mut first = RECORDS.load(Ordering::Acquire);
    loop {
        record.next.store(first, Ordering::Relaxed);
        // Sequentially consistent: a wiper that does not see the record comes before every announcement in it.
        match RECORDS.compare_exchange(first, record, Ordering::SeqCst, Ordering::Acquire) {
            Ok(_) => return record,
            Err(now) => first = now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slot::{Pinned, SlotControl};
    use super::*;

    #[test]
    fn reads_nest_to_a_depth_and_records_are_used_again() {
        let slots: Vec<_> = (0..=DEPTH).map(|_| SlotControl::alone()).collect();
        let generation = |slot: &SlotControl| {
            let generation = slot.claim(1, all()).unwrap();
            slot.publish(generation);
            generation
        };
        let read = |slot: &SlotControl| {
            let own = own()?;
            assert_eq!(slot.pin(own, generation(slot)), Pinned::Yes);
            Some(own)
        };
        let held: Vec<_> = slots.iter().map_while(read).collect();
        assert_eq!(held.len(), DEPTH);
        assert!(slots[..DEPTH].iter().all(|slot| slot.is_read(all())));
        held.iter().for_each(|announcement| announcement.clear());
        assert!(!slots[..DEPTH].iter().any(|slot| slot.is_read(all())));
    }
}
