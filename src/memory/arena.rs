//! The arena: slots for keys, scratch slots for keys that are cold, and their control words.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::budget::{Budget, raise_soft_limit};
use super::pages::Pages;
use super::slot::{SlotControl, SlotRef, State};
use super::state::{KeyState, SlotBytes};
use crate::error::MemoryError;

/// The smallest arena that a session factory can work in: a sealing key, a master key, scratch, and a few hot keys.
const LEAST_SLOTS: usize = 12;

/// How the arena is mapped.
///
/// # Defaults
/// * `bytes` 2 MiB: some 1,800 keys ready for use, a quarter of the lock limit that systems usually grant. Where the limit
///   is lower the arena shrinks to fit, down to 16 KiB.
/// * `scratch_slots` 16: keys beyond the arena's size are unsealed into these, one per thread at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArenaSettings {
    /// Bytes of locked memory wanted.
    pub bytes: usize,
    /// Slots kept for keys that are not resident.
    pub scratch_slots: usize,
}

impl Default for ArenaSettings {
    fn default() -> Self {
        Self { bytes: 2 * 1024 * 1024, scratch_slots: 16 }
    }
}

/// What the arena is and how full it is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ArenaStatus {
    /// How pages are kept in memory: `mlock`.
    pub backend: &'static str,
    /// Bytes locked for keys.
    pub locked_bytes: usize,
    /// Soft RLIMIT_MEMLOCK in bytes; `u64::MAX` is no limit.
    pub soft_limit: u64,
    /// Hard RLIMIT_MEMLOCK in bytes; `u64::MAX` is no limit.
    pub hard_limit: u64,
    /// Keys that fit, expanded and ready.
    pub slots: usize,
    /// Slots in use, sealing and master keys among them.
    pub slots_in_use: usize,
    /// Slots for keys that are not resident.
    pub scratch_slots: usize,
    /// Each protection of the pages.
    pub protections: &'static [Protection],
}

/// A protection and whether it is in force; the arena is not mapped when one that the system offers fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Protection {
    /// Its name.
    pub name: &'static str,
    /// Whether this system offers it.
    pub active: bool,
}

const PROTECTIONS: &[Protection] = &[
    Protection { name: "locked", active: true },
    Protection { name: "guard pages", active: true },
    Protection { name: "excluded from core dumps", active: cfg!(target_os = "linux") },
    Protection { name: "dead after fork", active: cfg!(target_os = "linux") },
];

static SHARED: Mutex<Option<Arc<Arena>>> = Mutex::new(None);

/// Locked slots and their control words.
pub(super) struct Arena {
    data: Pages,
    control: Pages,
    slots: usize,
    scratch: usize,
    /// Where the search for a free slot or a slot to demote goes on.
    hand: AtomicUsize,
    owners: AtomicU32,
}

impl Arena {
    /// Returns the process's arena, mapping it on the first call.
    pub(super) fn shared(settings: &ArenaSettings) -> Result<Arc<Self>, MemoryError> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        // A forked child finds its parent's arena dead and maps its own.
        if let Some(arena) = shared.as_ref().filter(|arena| arena.check_process().is_ok()) {
            return Ok(Arc::clone(arena));
        }
        let arena = Arc::new(Self::map(settings)?);
        *shared = Some(Arc::clone(&arena));
        Ok(arena)
    }

    /// Maps an arena of the size wanted, or of the largest size that the lock limit grants.
    pub(super) fn map(settings: &ArenaSettings) -> Result<Self, MemoryError> {
        let least = LEAST_SLOTS * size_of::<SlotBytes>();
        let mut bytes = settings.bytes.max(least);
        let mut raised = false;
        let data = loop {
            match Pages::locked(bytes) {
                Ok(pages) => break pages,
                Err(_) if !raised => {
                    raise_soft_limit();
                    raised = true;
                }
                Err(_) if bytes > least => bytes = (bytes / 2).max(least),
                Err(error @ MemoryError::System { .. }) => {
                    tracing::debug!(%error, "the smallest arena could not be locked");
                    let Budget { soft, hard, locked } = Budget::read();
                    return Err(MemoryError::Budget { needed: least as u64, soft, hard, locked });
                }
                Err(error) => return Err(error),
            }
        };
        let total = data.size() / size_of::<SlotBytes>();
        let scratch = settings.scratch_slots.clamp(2, total / 3);
        let control = Pages::wiped_on_fork(total * size_of::<SlotControl>())?;
        let arena = Self {
            data,
            control,
            slots: total - scratch,
            scratch,
            hand: AtomicUsize::new(0),
            owners: AtomicU32::new(1),
        };
        for index in 0..total {
            arena.control(index).init();
        }
        Ok(arena)
    }

    pub(super) fn new_owner(&self) -> u32 {
        self.owners.fetch_add(1, Ordering::Relaxed)
    }

    /// Fails in a fork of the process that mapped the arena.
    pub(super) fn check_process(&self) -> Result<(), MemoryError> {
        if self.control(0).state() == State::Dead { Err(MemoryError::Forked) } else { Ok(()) }
    }

    /// Claims a slot for a key of `owner`: a free one, or that of the key that was not used for longest, roughly.
    ///
    /// Returns `None` when every slot is pinned or holds a key that must stay.
    pub(super) fn claim(self: &Arc<Self>, owner: u32) -> Option<ClaimedSlot> {
        let mut hand = self.hand.load(Ordering::Relaxed);
        let mut found = None;
        // The first round takes what is free, the second also what nobody touched since the third-last: CLOCK.
        for step in 0..3 * self.slots {
            let index = hand % self.slots;
            hand = index + 1;
            let control = self.control(index);
            if let Some(generation) = control.claim(owner) {
                found = Some((index, generation));
                break;
            }
            // The generation read first is the one that is taken: whoever moved in meanwhile is left alone.
            if step >= self.slots
                && let Some(generation) = control.occupant()
                && control.owner() & MUST_STAY == 0
                && !control.take_touched()
                && control.take_unread(generation)
            {
                self.wipe(index);
                control.free();
                if let Some(generation) = control.claim(owner) {
                    found = Some((index, generation));
                    break;
                }
            }
        }
        self.hand.store(hand, Ordering::Relaxed);
        let (index, generation) = found?;
        Some(ClaimedSlot { arena: Arc::clone(self), index, generation, published: false })
    }

    /// Claims a scratch slot for the time of one operation.
    pub(super) fn scratch(self: &Arc<Self>, owner: u32) -> Result<ClaimedSlot, MemoryError> {
        self.check_process()?;
        let preferred = SCRATCH_HINT.with(|hint| *hint);
        for step in 0..self.scratch {
            let index = self.slots + (preferred + step) % self.scratch;
            if let Some(generation) = self.control(index).claim(owner) {
                return Ok(ClaimedSlot { arena: Arc::clone(self), index, generation, published: false });
            }
        }
        Err(MemoryError::Exhausted { slots: self.scratch })
    }

    /// Pins the key at `slot`; `None` when another one stands there by now.
    pub(super) fn pin(&self, slot: SlotRef) -> Option<Pin<'_>> {
        let index = slot.index as usize;
        self.control(index).pin(slot.generation).then(|| Pin {
            arena: self,
            index,
            generation: slot.generation,
            not_send: PhantomData,
        })
    }

    /// Wipes the key at `slot` as soon as nobody reads it; nothing happens when it is gone already.
    pub(super) fn release(&self, slot: SlotRef) {
        let control = self.control(slot.index as usize);
        // The owner is gone, so the only pins are those of readers about to notice that they hold a stale reference.
        while control.is_live(slot.generation) {
            if control.take_unread(slot.generation) {
                self.wipe(slot.index as usize);
                control.free();
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// Stops new reads of every key of `owner`.
    pub(super) fn drain(&self, owner: u32) {
        for (index, generation) in self.keys_of(owner) {
            self.control(index).drain(generation);
        }
    }

    /// Counts the slots of `owner` that are being read or computed with.
    pub(super) fn busy(&self, owner: u32) -> usize {
        self.owned(owner)
            .filter(|&index| {
                let control = self.control(index);
                control.pins() > 0 || (index >= self.slots && control.state() == State::Claimed)
            })
            .count()
    }

    /// Wipes every key of `owner`, read or not, and returns how many there were.
    ///
    /// Claimed slots are left to their holders, who wipe them when they end, within microseconds.
    pub(super) fn wipe_owner(&self, owner: u32) -> usize {
        let mut wiped = 0;
        for (index, generation) in self.keys_of(owner) {
            if self.control(index).begin_wipe(generation) {
                self.wipe(index);
                self.control(index).free();
                wiped += 1;
            }
        }
        wiped
    }

    pub(super) fn status(&self) -> ArenaStatus {
        let budget = Budget::read();
        ArenaStatus {
            backend: "mlock",
            locked_bytes: self.data.size(),
            soft_limit: budget.soft,
            hard_limit: budget.hard,
            slots: self.slots,
            slots_in_use: (0..self.slots).filter(|&index| self.control(index).state() != State::Free).count(),
            scratch_slots: self.scratch,
            protections: PROTECTIONS,
        }
    }

    /// Counts the slots that hold anything but zeroes.
    #[cfg(test)]
    #[expect(unsafe_code, reason = "looking at what is left in memory")]
    pub(super) fn slots_with_residue(&self) -> usize {
        let holds_residue = |index: &usize| {
            let bytes = self.bytes(*index).cast::<u8>();
            // SAFETY: the slot is mapped and plain bytes, and tests look when nobody writes.
            unsafe { std::slice::from_raw_parts(bytes, size_of::<SlotBytes>()) }.iter().any(|&byte| byte != 0)
        };
        (0..self.slots + self.scratch).filter(holds_residue).count()
    }

    /// Returns the keys of `owner` with their generations, read before the owner: one that moves out meanwhile is not
    /// mistaken for the next.
    fn keys_of(&self, owner: u32) -> impl Iterator<Item = (usize, u32)> + '_ {
        (0..self.slots).filter_map(move |index| {
            let generation = self.control(index).occupant()?;
            (self.control(index).owner() & !MUST_STAY == owner).then_some((index, generation))
        })
    }

    fn owned(&self, owner: u32) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots + self.scratch).filter(move |&index| {
            let control = self.control(index);
            control.state() != State::Free && control.owner() & !MUST_STAY == owner
        })
    }

    #[expect(unsafe_code, reason = "control words stand in pages of their own")]
    fn control(&self, index: usize) -> &SlotControl {
        assert!(index < self.slots + self.scratch, "slot indices come from this arena");
        // SAFETY: the pages hold one record per slot, are aligned to a page, zeroed at first, and live as long as `self`;
        // a record is nothing but atomics, for which any bits are valid.
        unsafe { self.control.start().cast::<SlotControl>().add(index).as_ref() }
    }

    fn bytes(&self, index: usize) -> *mut SlotBytes {
        assert!(index < self.slots + self.scratch, "slot indices come from this arena");
        self.data.start().as_ptr().cast::<SlotBytes>().wrapping_add(index)
    }

    #[expect(unsafe_code, reason = "wiping by force")]
    fn wipe(&self, index: usize) {
        // SAFETY: the slot is mapped, and every caller has changed its word or holds it claimed.
        unsafe { SlotBytes::wipe(self.bytes(index)) };
    }
}

/// Set in the owner of slots that are never demoted: sealing keys and master keys.
pub(super) const MUST_STAY: u32 = 1 << 31;

thread_local! {
    /// Where this thread begins its search for a scratch slot.
    static SCRATCH_HINT: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

/// A slot that this value has to itself; wiped and freed when dropped, unless it was published.
pub(super) struct ClaimedSlot {
    arena: Arc<Arena>,
    index: usize,
    generation: u32,
    published: bool,
}

impl ClaimedSlot {
    #[expect(unsafe_code, reason = "slots stand in locked pages")]
    pub(super) fn bytes(&mut self) -> &mut SlotBytes {
        // SAFETY: the slot is claimed by this value alone and mapped as long as the arena that it holds.
        unsafe { &mut *self.arena.bytes(self.index) }
    }

    /// Expands the plain key in the slot and returns its state.
    #[expect(unsafe_code, reason = "the state was expanded just now")]
    pub(super) fn expand(&mut self) -> &KeyState {
        let bytes = self.bytes();
        bytes.expand();
        // SAFETY: expanded in the line above.
        unsafe { bytes.state() }
    }

    /// Expands the plain key in the slot and lets readers at it.
    pub(super) fn publish(mut self) -> SlotRef {
        self.bytes().expand();
        self.published = true;
        self.arena.control(self.index).publish(self.generation);
        let index = u32::try_from(self.index).expect("2^32 slots exceed any memory");
        SlotRef { index, generation: self.generation }
    }
}

impl Drop for ClaimedSlot {
    fn drop(&mut self) {
        if !self.published {
            self.arena.wipe(self.index);
            self.arena.control(self.index).free();
        }
    }
}

/// A key that stays in its slot while this lives; cannot leave the thread, so it cannot be held across an await.
pub(super) struct Pin<'a> {
    arena: &'a Arena,
    index: usize,
    generation: u32,
    not_send: PhantomData<*const ()>,
}

impl Pin<'_> {
    #[expect(unsafe_code, reason = "slots stand in locked pages")]
    pub(super) fn state(&self) -> &KeyState {
        // SAFETY: the slot was live when it was pinned, so its state was expanded; no reference to it is mutable while
        // it is pinned. A forced wipe may write zeroes meanwhile; `is_intact` tells, and the output is then discarded.
        unsafe { (*self.arena.bytes(self.index)).state() }
    }

    /// Tells, after computing with the key, whether the output may be used.
    pub(super) fn is_intact(&self) -> bool {
        self.arena.control(self.index).is_intact(self.generation)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.arena.control(self.index).unpin();
    }
}
