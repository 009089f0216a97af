//! The word that arbitrates between the readers and the wiper of one slot.
//!
//! A reader announces the slot in a word of its own thread, then looks at the slot's word; a wiper changes the slot's word,
//! then looks at the announcements. All four accesses are in one total order, so at least one of the two sees the other,
//! and readers write no cache line that another thread writes. The slot's words stand in pages that a forked child finds
//! zeroed: state 0 is [`State::Dead`].
//!
//! `tests/slot_model.rs` has loom go through every interleaving of this file.

use super::atomics::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence, total_order};

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
    /// Holds a key that is wiped unless somebody turns out to read it; pins do not begin.
    Leaving = 6,
}

/// How an attempt to pin ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pinned {
    /// The key stays until the pin ends, unless it is wiped by force.
    Yes,
    /// The key is still here and cannot be pinned at the moment.
    Leaving,
    /// Another key, or none, is here.
    Gone,
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

/// Where one thread says which slot it reads: the address of the slot's control record, or 0. Only that thread writes it.
#[derive(Debug)]
#[repr(transparent)]
pub(super) struct Announcement(AtomicUsize);

impl Announcement {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Tells whether nothing is announced here; for the thread that it belongs to.
    pub(super) fn is_free(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Ends a read.
    pub(super) fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }

    fn names(&self, address: usize) -> bool {
        self.0.load(Ordering::SeqCst) == address
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

    /// Makes a record what a forked child finds where the system zeroes it.
    pub(super) fn die(&self) {
        self.word.store(0, Ordering::Release);
    }

    pub(super) fn state(&self) -> State {
        state(self.word.load(Ordering::Acquire))
    }

    pub(super) fn owner(&self) -> u32 {
        self.owner.load(Ordering::Acquire)
    }

    /// Begins a read of the key of `generation`, announced in `own`.
    #[inline]
    pub(super) fn pin(&self, own: &Announcement, generation: u32) -> Pinned {
        own.0.swap(self.address(), Ordering::SeqCst);
        total_order();
        let pinned = self.pinnable(self.word.load(Ordering::SeqCst), generation);
        if pinned != Pinned::Yes {
            own.clear();
        }
        pinned
    }

    /// Begins a read without an announcement, for a thread that has none left; ends with [`unpin`](Self::unpin).
    pub(super) fn pin_shared(&self, generation: u32) -> Pinned {
        let pinned = self.pinnable(self.word.fetch_add(PIN, Ordering::Acquire), generation);
        if pinned != Pinned::Yes {
            self.unpin();
        }
        pinned
    }

    pub(super) fn unpin(&self) {
        self.word.fetch_sub(PIN, Ordering::Release);
    }

    #[inline]
    fn pinnable(&self, word: u64, wanted: u32) -> Pinned {
        if is(word, State::Live, wanted) {
            if self.touched.load(Ordering::Relaxed) == 0 {
                self.touched.store(1, Ordering::Relaxed);
            }
            return Pinned::Yes;
        }
        let stays = matches!(state(word), State::Live | State::Draining | State::Leaving);
        if stays && generation(word) == wanted { Pinned::Leaving } else { Pinned::Gone }
    }

    /// Tells, after the reads, whether none of them can have seen wiped memory.
    #[inline]
    pub(super) fn is_intact(&self, generation: u32) -> bool {
        // Pairs with the fence in `begin_wipe`: whoever read a zero written after it sees the new state here.
        fence(Ordering::Acquire);
        self.holds(self.word.load(Ordering::Relaxed), generation)
    }

    /// Tells whether the key of `generation` is here, whatever becomes of it.
    pub(super) fn is_occupied(&self, generation: u32) -> bool {
        self.holds(self.word.load(Ordering::Acquire), generation)
    }

    fn holds(&self, word: u64, wanted: u32) -> bool {
        matches!(state(word), State::Live | State::Draining | State::Leaving) && generation(word) == wanted
    }

    /// Tells whether a thread reads here, or is about to notice that it may not.
    pub(super) fn is_read<'a>(&self, announced: impl Iterator<Item = &'a Announcement>) -> bool {
        self.word.load(Ordering::SeqCst) & PINS != 0 || self.is_announced(announced)
    }

    fn is_announced<'a>(&self, mut announced: impl Iterator<Item = &'a Announcement>) -> bool {
        announced.any(|announcement| announcement.names(self.address()))
    }

    /// Takes a free slot for `owner` and returns its generation; `None` also while a straggler reads what was wiped.
    pub(super) fn claim<'a>(&self, owner: u32, announced: impl Iterator<Item = &'a Announcement>) -> Option<u32> {
        let now = self.word.load(Ordering::Relaxed);
        if state(now) != State::Free || now & PINS != 0 {
            return None;
        }
        let claimed = now & GENERATIONS | compose(State::Claimed, 0);
        self.word.compare_exchange(now, claimed, Ordering::SeqCst, Ordering::Relaxed).ok()?;
        total_order();
        if self.is_announced(announced) {
            self.change_state(generation(now), &[State::Claimed], State::Free);
            return None;
        }
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
        matches!(state(now), State::Live | State::Draining | State::Leaving).then(|| generation(now))
    }

    /// Stops new pins of the key of `generation`, if it is still here.
    pub(super) fn drain(&self, generation: u32) {
        self.change_state(generation, &[State::Live, State::Leaving], State::Draining);
    }

    /// Takes the slot away from the key of `wanted` generation if nobody reads it; the caller zeroes the slot and calls
    /// [`free`](Self::free).
    pub(super) fn take_unread<'a, I>(&self, wanted: u32, announced: impl Fn() -> I) -> bool
    where
        I: Iterator<Item = &'a Announcement>,
    {
        if self.is_read(announced()) || !self.change_state(wanted, &[State::Live], State::Leaving) {
            return false;
        }
        total_order();
        let then = if self.is_read(announced()) { State::Live } else { State::Wiping };
        // Whoever drains or wipes the key meanwhile has it.
        let taken = self.change_state(wanted, &[State::Leaving], then) && then == State::Wiping;
        if taken {
            fence(Ordering::SeqCst);
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
        let begun = self.change_state(generation, &[State::Live, State::Draining, State::Leaving], State::Wiping);
        fence(Ordering::SeqCst);
        begun
    }

    /// Makes a zeroed slot free under the next generation; pins of readers that lost the race are kept.
    pub(super) fn free(&self) {
        let _ = self.word.fetch_update(Ordering::Release, Ordering::Relaxed, |now| {
            let next = (now & GENERATIONS).wrapping_add(GENERATION) & GENERATIONS;
            // A word that is zeroed belongs to a fork, which leaves it so.
            (state(now) != State::Dead).then_some(now & PINS | next | compose(State::Free, 0))
        });
    }

    /// Changes the state of one occupant of the slot and of no other, keeping its pins.
    fn change_state(&self, of: u32, from: &[State], to: State) -> bool {
        self.word
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                let fits = generation(now) == of && from.contains(&state(now));
                fits.then_some(now & PINS | compose(to, of))
            })
            .is_ok()
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
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
        6 => State::Leaving,
        _ => State::Dead,
    }
}

fn generation(word: u64) -> u32 {
    u32::try_from((word & GENERATIONS) >> 32).expect("29 bits")
}

impl SlotControl {
    /// Makes a record that no arena has.
    #[cfg(test)]
    pub(super) fn alone() -> Self {
        let slot = Self::dead();
        slot.init();
        slot
    }

    /// Makes a record as a forked child finds it.
    #[cfg(test)]
    pub(super) fn dead() -> Self {
        Self { word: AtomicU64::new(0), touched: AtomicU32::new(0), owner: AtomicU32::new(0) }
    }
}
