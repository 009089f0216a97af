//! The slot word under every interleaving of readers and wipers that loom can think of, with the memory model of C11.
//!
//! The file under test is the one that is shipped, with loom's atomics in the place of the real ones. "Bytes of the key"
//! are one atomic word here, accessed without ordering, so that only the slot's protocol orders them.

#![expect(unreachable_pub, dead_code, reason = "the file under test is made for another crate")]

mod atomics {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

    /// Loom gives `SeqCst` accesses no more than acquire and release; a fence between them gives what they promise.
    pub fn total_order() {
        fence(Ordering::SeqCst);
    }
}

#[path = "../src/memory/slot.rs"]
mod slot;

use atomics::{AtomicUsize, Ordering};
use loom::sync::Arc;
use loom::thread;
use slot::{Announcement, Pinned, SlotControl, State};

const KEY: usize = 7;
const WIPED: usize = 0;
const OTHER_KEY: usize = 9;

/// Goes through all interleavings with at most three forced switches of threads; without that bound, two readers and a
/// wiper take minutes.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// A slot with a key in it, and the announcements of two readers.
struct Stage {
    slot: SlotControl,
    bytes: AtomicUsize,
    readers: [Announcement; 2],
}

impl Stage {
    fn with_key() -> (Arc<Self>, u32) {
        let stage = Self {
            slot: SlotControl::alone(),
            bytes: AtomicUsize::new(KEY),
            readers: [Announcement::new(), Announcement::new()],
        };
        let generation = stage.slot.claim(1, stage.readers.iter()).expect("a new slot is free");
        stage.slot.publish(generation);
        (Arc::new(stage), generation)
    }

    /// Uses the key as callers do and returns what they may release.
    fn read(&self, reader: usize, generation: u32) -> Option<usize> {
        let own = &self.readers[reader];
        if self.slot.pin(own, generation) != Pinned::Yes {
            return None;
        }
        let (first, second) = (self.bytes.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let intact = self.slot.is_intact(generation);
        own.clear();
        intact.then(|| {
            assert_eq!(first, second, "bytes of two keys");
            second
        })
    }

    /// As [`read`](Self::read), with a pin counted in the slot's own word.
    fn read_shared(&self, generation: u32) -> Option<usize> {
        if self.slot.pin_shared(generation) != Pinned::Yes {
            return None;
        }
        let bytes = self.bytes.load(Ordering::Relaxed);
        let intact = self.slot.is_intact(generation);
        self.slot.unpin();
        intact.then_some(bytes)
    }

    fn all(&self) -> impl Iterator<Item = &Announcement> {
        self.readers.iter()
    }

    /// Gives the slot to another key if nobody reads it, as a demotion does.
    fn demote(&self, generation: u32) -> bool {
        let taken = self.slot.take_unread(generation, || self.all());
        if taken {
            self.bytes.store(WIPED, Ordering::Relaxed);
            self.slot.free();
            if let Some(next) = self.slot.claim(2, self.all()) {
                self.bytes.store(OTHER_KEY, Ordering::Relaxed);
                self.slot.publish(next);
            }
        }
        taken
    }

    fn wipe(&self, generation: u32) -> bool {
        let begun = self.slot.begin_wipe(generation);
        if begun {
            self.bytes.store(WIPED, Ordering::Relaxed);
            self.slot.free();
        }
        begun
    }
}

#[test]
fn what_two_readers_release_was_made_with_the_key_whatever_a_forced_wipe_does() {
    check(|| {
        let (stage, generation) = Stage::with_key();
        let readers = [0, 1].map(|reader| {
            let stage = Arc::clone(&stage);
            thread::spawn(move || stage.read(reader, generation))
        });
        assert!(stage.wipe(generation));
        for reader in readers {
            assert!(matches!(reader.join().unwrap(), None | Some(KEY)));
        }
    });
}

#[test]
fn a_demotion_never_takes_the_slot_from_under_a_reader() {
    check(|| {
        let (stage, generation) = Stage::with_key();
        let reading = Arc::clone(&stage);
        let reader = thread::spawn(move || {
            let own = &reading.readers[0];
            if reading.slot.pin(own, generation) != Pinned::Yes {
                return true;
            }
            // Without looking at `is_intact`: a demotion waits, unlike a wipe by force.
            let bytes = reading.bytes.load(Ordering::Relaxed);
            own.clear();
            bytes == KEY
        });
        let demoted = stage.demote(generation);
        assert!(reader.join().unwrap(), "demoted: {demoted}");
    });
}

#[test]
fn a_pin_in_the_word_keeps_the_slot_as_an_announcement_does() {
    check(|| {
        let (stage, generation) = Stage::with_key();
        let reading = Arc::clone(&stage);
        let reader = thread::spawn(move || reading.read_shared(generation));
        stage.demote(generation);
        assert!(matches!(reader.join().unwrap(), None | Some(KEY)));
    });
}

#[test]
fn a_demotion_and_a_closing_agree_on_who_wipes() {
    check(|| {
        let (stage, generation) = Stage::with_key();
        let closing = Arc::clone(&stage);
        let closer = thread::spawn(move || {
            closing.slot.drain(generation);
            closing.wipe(generation)
        });
        let demoted = stage.demote(generation);
        let wiped = closer.join().unwrap();
        assert!(demoted != wiped, "demoted {demoted}, wiped {wiped}");
        assert!(!stage.slot.is_occupied(generation));
    });
}

#[test]
fn a_slot_is_not_claimed_while_a_straggler_reads_what_was_wiped() {
    check(|| {
        let (stage, generation) = Stage::with_key();
        let reading = Arc::clone(&stage);
        let reader = thread::spawn(move || reading.read(0, generation));
        assert!(stage.wipe(generation));
        if let Some(next) = stage.slot.claim(2, stage.all()) {
            stage.bytes.store(OTHER_KEY, Ordering::Relaxed);
            stage.slot.publish(next);
        }
        assert!(matches!(reader.join().unwrap(), None | Some(KEY)));
        assert_ne!(stage.slot.state(), State::Dead);
    });
}

/// The model is void unless it finds what goes wrong without the protocol.
#[test]
#[should_panic(expected = "read what it should not")]
fn control_a_reader_that_checks_first_and_not_after_is_caught_by_a_wipe() {
    careless_reader_beside(|stage, generation| stage.wipe(generation));
}

/// As above, for the announcement that a demotion looks for.
#[test]
#[should_panic(expected = "read what it should not")]
fn control_a_reader_that_does_not_announce_is_caught_by_a_demotion() {
    careless_reader_beside(|stage, generation| stage.demote(generation));
}

/// Runs a reader that looks whether the key is there, reads, and neither announces nor looks again.
fn careless_reader_beside(taker: impl Fn(&Stage, u32) -> bool + Send + Sync + 'static) {
    check(move || {
        let (stage, generation) = Stage::with_key();
        let reading = Arc::clone(&stage);
        let reader = thread::spawn(move || {
            let usable = reading.slot.is_occupied(generation);
            usable.then(|| reading.bytes.load(Ordering::Relaxed))
        });
        taker(&stage, generation);
        assert!(matches!(reader.join().expect("a reader does not panic"), None | Some(KEY)), "read what it should not");
    });
}
