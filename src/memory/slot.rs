//! The word that arbitrates between the readers and the wiper of one slot.
//!
//! State, generation and pin count share one atomic word, so one modification order decides every race between a
//! reader that pins and a wiper that closes. The words stand in pages that a forked child finds zeroed: state 0 is
//! [`State::Dead`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

const PIN: u64 = 1;
const PINS: u64 = 0xffff_ffff;
const GENERATION: u64 = 1 << 32;
const GENERATIONS: u64 = 0x1fff_ffff << 32;
const STATE_SHIFT: u32 = 61;

/// What a slot is used for at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum State {
    /// This is a fork of the process that mapped the arena.
    Dead = 0,
    /// Zeroed; may be claimed.
    Free = 1,
    /// One thread has it to itself and writes it.
    Claimed = 2,
    /// Holds a key; may be pinned.
    Live = 3,
    /// Holds a key that is about to be wiped; pins end but do not begin.
    Draining = 4,
    /// Being zeroed.
    Wiping = 5,
}

/// A slot and the generation of the key that stood in it when this was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlotRef {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl SlotRef {
    /// No slot, in its packed form.
    pub(super) const NONE: u64 = u64::MAX;

    pub(super) fn pack(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation)
    }

    pub(super) fn unpack(packed: u64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
        (packed != Self::NONE).then_some(Self { index: (packed >> 32) as u32, generation: packed as u32 })
    }
}

/// The control record of one slot, on cache lines of its own.
#[repr(C, align(128))]
pub(super) struct SlotControl {
    word: AtomicU64,
    /// Set by readers, cleared by the sweep that looks for a slot to demote.
    touched: AtomicU32,
    /// Which vault's key stands here; written while the slot is claimed.
    owner: AtomicU32,
}

impl SlotControl {
    /// Makes a zeroed record usable.
    pub(super) fn init(&self) {
        self.word.store(compose(State::Free, 0), Ordering::Release);
    }

    pub(super) fn state(&self) -> State {
        state(self.word.load(Ordering::Acquire))
    }

    pub(super) fn pins(&self) -> u64 {
        self.word.load(Ordering::Acquire) & PINS
    }

    pub(super) fn owner(&self) -> u32 {
        self.owner.load(Ordering::Acquire)
    }

    /// Tells whether the key of `generation` may be pinned.
    pub(super) fn is_live(&self, generation: u32) -> bool {
        is(self.word.load(Ordering::Acquire), State::Live, generation)
    }

    /// Begins a read: on `true` the key of `generation` stays until [`unpin`](Self::unpin), unless it is wiped by force.
    pub(super) fn pin(&self, generation: u32) -> bool {
        let before = self.word.fetch_add(PIN, Ordering::Acquire);
        if is(before, State::Live, generation) {
            if self.touched.load(Ordering::Relaxed) == 0 {
                self.touched.store(1, Ordering::Relaxed);
            }
            return true;
        }
        self.unpin();
        false
    }

    /// Tells, after the reads, whether none of them can have seen wiped memory.
    pub(super) fn is_intact(&self, generation: u32) -> bool {
        // Pairs with the fence in `begin_wipe`: whoever read a zero written after it sees the new state here.
        fence(Ordering::Acquire);
        let now = self.word.load(Ordering::Relaxed);
        is(now, State::Live, generation) || is(now, State::Draining, generation)
    }

    pub(super) fn unpin(&self) {
        self.word.fetch_sub(PIN, Ordering::Release);
    }

    /// Takes a free slot for `owner` and returns its generation.
    pub(super) fn claim(&self, owner: u32) -> Option<u32> {
        let now = self.word.load(Ordering::Relaxed);
        if state(now) != State::Free || now & PINS != 0 {
            return None;
        }
        let claimed = now & GENERATIONS | compose(State::Claimed, 0);
        self.word.compare_exchange(now, claimed, Ordering::Acquire, Ordering::Relaxed).ok()?;
        self.owner.store(owner, Ordering::Release);
        self.touched.store(1, Ordering::Relaxed);
        Some(generation(now))
    }

    /// Lets readers at a claimed slot.
    pub(super) fn publish(&self, generation: u32) {
        self.change_state(generation, &[State::Claimed], State::Live);
    }

    /// Returns the generation of the key that stands here, if one does.
    pub(super) fn occupant(&self) -> Option<u32> {
        let now = self.word.load(Ordering::Acquire);
        matches!(state(now), State::Live | State::Draining).then(|| generation(now))
    }

    /// Stops new pins of the key of `generation`, if it is still here.
    pub(super) fn drain(&self, generation: u32) {
        self.change_state(generation, &[State::Live], State::Draining);
    }

    /// Takes the slot away from the key of `wanted` generation if nobody reads it; the caller zeroes the slot and calls
    /// [`free`](Self::free).
    pub(super) fn take_unread(&self, wanted: u32) -> bool {
        let live = compose(State::Live, wanted);
        let wiping = compose(State::Wiping, wanted);
        let taken = self.word.compare_exchange(live, wiping, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if taken {
            fence(Ordering::Release);
        }
        taken
    }

    /// Tells whether a reader has been here since the last call.
    pub(super) fn take_touched(&self) -> bool {
        self.touched.swap(0, Ordering::Relaxed) != 0
    }

    /// Announces that the key of `generation` is about to be zeroed whoever reads it; their
    /// [`is_intact`](Self::is_intact) will fail. `false` when it is not here any more.
    pub(super) fn begin_wipe(&self, generation: u32) -> bool {
        let begun = self.change_state(generation, &[State::Live, State::Draining], State::Wiping);
        fence(Ordering::SeqCst);
        begun
    }

    /// Makes a zeroed slot free under the next generation; pins of readers that lost the race are kept.
    pub(super) fn free(&self) {
        let _ = self.word.fetch_update(Ordering::Release, Ordering::Relaxed, |now| {
            let next = (now & GENERATIONS).wrapping_add(GENERATION) & GENERATIONS;
            Some(now & PINS | next | compose(State::Free, 0))
        });
    }

    /// Changes the state of one occupant of the slot and of no other, keeping its pins.
    fn change_state(&self, of: u32, from: &[State], to: State) -> bool {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |now| {
                let fits = generation(now) == of && from.contains(&state(now));
                fits.then_some(now & PINS | compose(to, of))
            })
            .is_ok()
    }
}

fn compose(state: State, generation: u32) -> u64 {
    (state as u64) << STATE_SHIFT | u64::from(generation) << 32
}

fn is(word: u64, wanted: State, of: u32) -> bool {
    word & !PINS == compose(wanted, of)
}

fn state(word: u64) -> State {
    match word >> STATE_SHIFT {
        1 => State::Free,
        2 => State::Claimed,
        3 => State::Live,
        4 => State::Draining,
        5 => State::Wiping,
        _ => State::Dead,
    }
}

fn generation(word: u64) -> u32 {
    u32::try_from((word & GENERATIONS) >> 32).expect("29 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> SlotControl {
        let slot = SlotControl { word: AtomicU64::new(0), touched: AtomicU32::new(0), owner: AtomicU32::new(0) };
        slot.init();
        slot
    }

    #[test]
    fn a_slot_goes_round_and_every_key_in_it_has_its_own_generation() {
        let slot = slot();
        let first = slot.claim(7).unwrap();
        assert!(!slot.pin(first), "claimed slots are not readable");
        slot.publish(first);
        assert!(slot.pin(first));
        assert!(!slot.take_unread(first), "a pinned slot is not demoted");
        assert!(slot.is_intact(first));
        slot.unpin();
        assert!(!slot.take_unread(first + 1), "nor is another key than the one meant");
        assert!(slot.take_unread(first));
        slot.free();
        let second = slot.claim(8).unwrap();
        assert_eq!((second, slot.owner(), slot.pins()), (first + 1, 8, 0));
        slot.publish(second);
        assert!(!slot.begin_wipe(first), "a stale wiper does not touch another key");
        slot.drain(first);
        assert_eq!(slot.state(), State::Live);
        assert!(!slot.pin(first), "a stale reference does not read another key");
        assert_eq!(slot.pins(), 0);
    }

    #[test]
    fn readers_finish_while_draining_and_notice_a_forced_wipe() {
        let slot = slot();
        let generation = slot.claim(1).unwrap();
        slot.publish(generation);
        assert!(slot.pin(generation));
        slot.drain(generation);
        assert!(!slot.pin(generation), "no new readers");
        assert!(slot.is_intact(generation), "the old one may finish");
        assert!(slot.begin_wipe(generation));
        assert!(!slot.is_intact(generation));
        slot.free();
        assert_eq!(slot.pins(), 1, "the straggler's pin survives the wipe");
        assert!(slot.claim(1).is_none(), "and keeps the slot from the next key");
        slot.unpin();
        assert_eq!(slot.claim(1), Some(generation + 1));
    }

    #[test]
    fn a_zeroed_word_is_dead() {
        let slot = SlotControl { word: AtomicU64::new(0), touched: AtomicU32::new(0), owner: AtomicU32::new(0) };
        assert_eq!(slot.state(), State::Dead);
        assert!(!slot.pin(0));
        assert!(slot.claim(1).is_none());
    }
}
