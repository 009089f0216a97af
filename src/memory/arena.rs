//! The arena: slots for keys, scratch slots for keys that are cold, and their control words.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;

use super::backend::{Acquired, Backend, Demand, MemoryPolicy, Protection};
use super::claimed::{ClaimedSlot, Pin};
use super::control::Control;
use super::pages::{self, Pages};
use super::placed::end_if_asked;
use super::settings::{ArenaSettings, ArenaStatus};
use super::slot::{Pinned, SlotControl, SlotRef, State};
use super::state::{CANARY, SlotBytes};
use super::wipe::{self, Wipeable};
use super::{process, readers, sizing};
use crate::error::{MemoryError, RandomError};

/// The smallest arena that a session factory can work in: a sealing key, a master key, scratch, and a few hot keys.
const LEAST_SLOTS: usize = 12;

/// Set in the owner of slots that are never demoted: sealing keys and master keys.
pub(super) const MUST_STAY: u32 = 1 << 31;

/// Read without a lock: a forked child could find one taken.
static SHARED: ArcSwapOption<Arena> = ArcSwapOption::const_empty();

/// The right to map the process's arena, which a fork does not inherit from a thread that it does not have.
struct Mapping;

/// The number of the process of which a thread maps the arena, or 0.
static MAPPING: AtomicU64 = AtomicU64::new(0);

impl Mapping {
    fn begin() -> Self {
        let here = process::current();
        let take = |now| (now != here).then_some(here);
        // Mapping takes some ten milliseconds, once.
        while MAPPING.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_err() {
            std::thread::yield_now();
        }
        Self
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        MAPPING.store(0, Ordering::Release);
    }
}

/// How many arenas were mapped.
static ARENAS: AtomicU32 = AtomicU32::new(0);

/// Locked slots and their control words.
pub(super) struct Arena {
    // Declared before what it names, so that a wipe of everything forgets the range before it is unmapped.
    entry: Wipeable,
    /// The first cell holds the canary that those of all slots are made from; the slots follow.
    data: Pages,
    view: Option<Pages>,
    control: Control,
    /// Differs between all arenas of this process and of those that it was forked from.
    id: u64,
    backend: Backend,
    protections: Vec<Protection>,
    pub(super) settings: ArenaSettings,
    slots: usize,
    scratch: usize,
    /// Where the search for a free slot or a slot to demote goes on.
    hand: AtomicUsize,
    owners: AtomicU32,
    pub(super) counters: Counters,
}

/// What happened so far; nothing that a warm use writes.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) keys: AtomicUsize,
    pub(super) allocated: AtomicU64,
    demotions: AtomicU64,
    exhausted: AtomicU64,
    pub(super) forced_wipes: AtomicU64,
    pub(super) exchanges: AtomicU64,
    canary_failures: AtomicU64,
}

impl Arena {
    /// Returns the process's arena, mapping it on the first call, in a forked child, and after everything was wiped: as
    /// `settings` say, or else as it was before, or by default.
    pub(super) fn shared(settings: Option<&ArenaSettings>) -> Result<Arc<Self>, MemoryError> {
        if let Some(arena) = Self::mapped() {
            return Ok(arena);
        }
        let _mapping = Mapping::begin();
        if let Some(arena) = Self::mapped() {
            return Ok(arena);
        }
        let before = SHARED.load_full();
        let before = before.as_ref().map(|dead| &dead.settings);
        let arena = Arc::new(Self::map(settings.or(before).unwrap_or(&ArenaSettings::default()))?);
        // Whoever still holds keys of the last one keeps it mapped.
        SHARED.store(Some(Arc::clone(&arena)));
        Ok(arena)
    }

    /// Returns the process's arena if it was mapped and is in order.
    pub(super) fn mapped() -> Option<Arc<Self>> {
        SHARED.load_full().filter(|arena| arena.check().is_ok())
    }

    /// Returns what secrets outside the arena ask of their memory: what the arena was asked for.
    pub(super) fn demand() -> Demand {
        let policy = SHARED.load().as_ref().map_or_else(MemoryPolicy::default, |arena| arena.settings.policy);
        Demand { policy, may_be_unlocked: policy == MemoryPolicy::Relaxed, ..Demand::default() }
    }

    /// Maps an arena of the size wanted, or of the largest size that the lock limit grants.
    pub(super) fn map(settings: &ArenaSettings) -> Result<Self, MemoryError> {
        let Acquired { pages: data, view, backend, mut protections } = sizing::acquire(settings, LEAST_SLOTS)?;
        let total = data.size() / size_of::<SlotBytes>() - 1;
        let scratch = settings.scratch_slots.clamp(2, total / 3);
        let (control, protection) = Control::map(total, settings.policy)?;
        protections.push(protection);
        protections.push(Protection::active("canaries"));
        let view_start = view.as_ref().map(Pages::start);
        let entry = Wipeable::register_arena(data.start(), data.size(), view_start, control.header());
        let arena = Self {
            entry,
            data,
            view,
            control,
            id: process::current() << 32 | u64::from(ARENAS.fetch_add(1, Ordering::Relaxed)),
            backend,
            protections,
            settings: settings.clone(),
            slots: total - scratch,
            scratch,
            hand: AtomicUsize::new(0),
            owners: AtomicU32::new(1),
            counters: Counters::default(),
        };
        arena.place_canaries()?;
        tracing::info!(
            backend = arena.backend.name(),
            locked_bytes = arena.data.size(),
            slots = arena.slots,
            policy = ?settings.policy,
            degraded = arena.status().is_degraded(),
            "secret memory is ready"
        );
        Ok(arena)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn new_owner(&self) -> u32 {
        self.owners.fetch_add(1, Ordering::Relaxed)
    }

    /// Fails in a fork of the process that mapped the arena, and when everything was wiped.
    pub(super) fn check(&self) -> Result<(), MemoryError> {
        self.control.check()
    }

    /// As [`check`](Self::check), after a use that a wipe of everything may have overlapped.
    pub(super) fn check_after(&self) -> Result<(), MemoryError> {
        self.control.check_after()
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
            if let Some(generation) = control.claim(owner, readers::all()) {
                found = Some((index, generation));
                break;
            }
            // The generation read first is the one that is taken: whoever moved in meanwhile is left alone.
            if step >= self.slots
                && let Some(generation) = control.occupant()
                && control.owner() & MUST_STAY == 0
                && !control.take_touched()
                && control.take_unread(generation, readers::all)
            {
                self.counters.demotions.fetch_add(1, Ordering::Relaxed);
                self.clean(index);
                if let Some(generation) = control.claim(owner, readers::all()) {
                    found = Some((index, generation));
                    break;
                }
            }
        }
        self.hand.store(hand, Ordering::Relaxed);
        let (index, generation) = found?;
        let claimed = ClaimedSlot::new(Arc::clone(self), index, generation);
        // As in `scratch`.
        self.check_after().ok().map(|()| claimed)
    }

    /// Claims a scratch slot for the time of one operation, that of the calling thread if it is free.
    pub(super) fn scratch(self: &Arc<Self>, owner: u32) -> Result<ClaimedSlot, MemoryError> {
        self.check()?;
        let preferred = SCRATCH_HINT.with(|hint| *hint);
        for step in 0..self.scratch {
            let index = self.slots + (preferred + step) % self.scratch;
            // Scratch is never published, so nobody reads it.
            if let Some(generation) = self.control(index).claim(owner, std::iter::empty()) {
                let claimed = ClaimedSlot::new(Arc::clone(self), index, generation);
                // A wipe of everything that did not see the claim is seen here.
                self.check_after()?;
                return Ok(claimed);
            }
        }
        self.counters.exhausted.fetch_add(1, Ordering::Relaxed);
        Err(MemoryError::Exhausted { slots: self.scratch })
    }

    /// Pins the key at `slot`.
    #[inline]
    pub(super) fn pin(&self, slot: SlotRef) -> Result<Pin<'_>, Pinned> {
        Pin::new(self, slot)
    }

    /// Tells whether the key at `slot` is still there.
    pub(super) fn holds(&self, slot: SlotRef) -> bool {
        self.control(slot.index as usize).is_occupied(slot.generation)
    }

    /// Wipes the key at `slot` as soon as nobody reads it; nothing happens when it is gone already.
    pub(super) fn release(&self, slot: SlotRef) {
        let control = self.control(slot.index as usize);
        // The owner is gone, so the only readers are those about to notice that they hold a stale reference. A key that
        // drains is left to the closing that drains it.
        while control.is_occupied(slot.generation) && control.state() != State::Draining {
            if control.take_unread(slot.generation, readers::all) {
                self.clean(slot.index as usize);
                return;
            }
            // Such a reader may have been put aside by the scheduler.
            std::thread::yield_now();
        }
    }

    /// Wipes the key at `slot`, read or not; `false` when it is gone already.
    pub(super) fn wipe_now(&self, slot: SlotRef) -> bool {
        let control = self.control(slot.index as usize);
        let here = control.begin_wipe(slot.generation);
        if here {
            self.clean(slot.index as usize);
        }
        here
    }

    /// Stops new reads of every key of `owner`.
    pub(super) fn drain(&self, owner: u32) {
        for slot in self.keys_of(owner) {
            self.control(slot.index as usize).drain(slot.generation);
        }
    }

    /// Counts the slots of `owner` that are being read or computed with.
    pub(super) fn busy(&self, owner: u32) -> usize {
        let busy = |&index: &usize| {
            let control = self.control(index);
            let state = control.state();
            let of_owner = state != State::Free && control.owner() & !MUST_STAY == owner;
            of_owner && (control.is_read(readers::all()) || (index >= self.slots && state == State::Claimed))
        };
        (0..self.slots + self.scratch).filter(busy).count()
    }

    /// Wipes every key of `owner`, read or not, those that must stay first, and returns how many there were.
    ///
    /// Claimed slots are left to their holders, who wipe them when they end, within microseconds.
    pub(super) fn wipe_owner(&self, owner: u32) -> usize {
        let (first, then): (Vec<_>, Vec<_>) =
            self.keys_of(owner).partition(|slot| self.control(slot.index as usize).owner() & MUST_STAY != 0);
        first.into_iter().chain(then).filter(|&slot| self.wipe_now(slot)).count()
    }

    /// Looks at every canary.
    pub(super) fn audit(&self) {
        if self.check().is_ok() {
            (0..self.slots + self.scratch).for_each(|index| self.check_canary(index));
        }
    }

    /// Wipes everything in the process because something wrote over its memory, and ends it, if so configured.
    pub(super) fn damaged(&self, slot: Option<usize>) {
        self.counters.canary_failures.fetch_add(1, Ordering::Relaxed);
        self.control.note_damage(slot);
        wipe::purge();
        match slot {
            Some(slot) => tracing::error!(slot, "secret memory was overwritten; everything in it was wiped"),
            None => tracing::error!("a sealed key was overwritten; secret memory was wiped"),
        }
        let place = slot.map_or_else(|| "a sealed key".to_owned(), |slot| format!("slot {slot}"));
        end_if_asked(self.settings.on_damage, &place);
    }

    pub(super) fn status(&self) -> ArenaStatus {
        let limits = pages::limits();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (mut in_use, mut hot) = (0, 0);
        for control in (0..self.slots).map(|index| self.control(index)) {
            let occupied = control.occupant().is_some();
            in_use += usize::from(occupied || control.state() == State::Claimed);
            hot += usize::from(occupied && control.owner() & MUST_STAY == 0);
        }
        let Counters { keys, allocated, demotions, exhausted, forced_wipes, exchanges, canary_failures } =
            &self.counters;
        ArenaStatus {
            backend: self.backend,
            policy: self.settings.policy,
            locked_bytes: if self.data.is_locked() {
                self.data.size() * if self.view.is_some() { 2 } else { 1 }
            } else {
                0
            },
            soft_limit: limits.soft,
            hard_limit: limits.hard,
            slots: self.slots,
            slots_in_use: in_use,
            scratch_slots: self.scratch,
            hot,
            cold: keys.load(Ordering::Relaxed).saturating_sub(hot),
            allocated: count(allocated),
            demotions: count(demotions),
            exhausted: count(exhausted),
            forced_wipes: count(forced_wipes),
            exchanges: count(exchanges),
            canary_failures: count(canary_failures),
            protections: self.protections.clone(),
        }
    }

    /// Returns the keys of `owner`, the generation read before the owner: one that moves out meanwhile is not mistaken for
    /// the next.
    fn keys_of(&self, owner: u32) -> impl Iterator<Item = SlotRef> + '_ {
        (0..self.slots).filter_map(move |index| {
            let generation = self.control(index).occupant()?;
            let index_of = u32::try_from(index).expect("2^32 slots exceed any memory");
            let of_owner = self.control(index).owner() & !MUST_STAY == owner;
            of_owner.then_some(SlotRef { index: index_of, generation })
        })
    }

    #[inline]
    pub(super) fn control(&self, index: usize) -> &SlotControl {
        self.control.record(index)
    }

    /// Returns where slot `index` is written.
    pub(super) fn bytes(&self, index: usize) -> *mut SlotBytes {
        Self::cell(&self.data, index + 1)
    }

    /// Returns where slot `index` is read.
    #[inline]
    pub(super) fn view(&self, index: usize) -> *const SlotBytes {
        Self::cell(self.view.as_ref().unwrap_or(&self.data), index + 1)
    }

    #[inline]
    fn cell(pages: &Pages, cell: usize) -> *mut SlotBytes {
        assert!((cell + 1) * size_of::<SlotBytes>() <= pages.size(), "slot indices come from this arena");
        pages.start().as_ptr().cast::<SlotBytes>().wrapping_add(cell)
    }

    /// Wipes a slot that the caller has to itself and frees it.
    #[expect(unsafe_code, reason = "wiping by force")]
    pub(super) fn clean(&self, index: usize) {
        let usable = self.check();
        // The memory of a parent is not there in its fork.
        if matches!(usable, Err(MemoryError::Forked)) {
            return;
        }
        // SAFETY: the slot is mapped, and every caller has changed its word or holds it claimed.
        unsafe { SlotBytes::wipe(self.bytes(index)) };
        // What was wiped as a whole has no canaries left and is not used again.
        if usable.is_ok() {
            self.check_canary(index);
            self.control(index).free();
        }
    }

    fn place_canaries(&self) -> Result<(), RandomError> {
        let mut canary = [0; CANARY];
        aws_lc_rs::rand::fill(&mut canary).map_err(|_| RandomError)?;
        self.write_canary(0, u128::from_ne_bytes(canary));
        (0..self.slots + self.scratch).for_each(|index| self.write_canary(index + 1, self.canary_of(index)));
        Ok(())
    }

    /// Every slot has a canary of its own, made from that of the arena.
    fn canary_of(&self, index: usize) -> u128 {
        const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        self.read_canary(0) ^ SPREAD.wrapping_mul(index as u128 + 1)
    }

    fn check_canary(&self, index: usize) {
        // A wipe of everything takes the canaries with it.
        if self.read_canary(index + 1) != self.canary_of(index) && self.entry.is_live() {
            self.damaged(Some(index));
        }
    }

    #[expect(unsafe_code, reason = "canaries stand in locked pages")]
    fn read_canary(&self, cell: usize) -> u128 {
        // SAFETY: the cell is mapped; its canary is written when the arena is mapped and never again by this program.
        unsafe { (&raw const (*Self::cell(&self.data, cell)).canary).read_volatile() }
    }

    #[expect(unsafe_code, reason = "canaries stand in locked pages")]
    fn write_canary(&self, cell: usize, canary: u128) {
        // SAFETY: the cell is mapped and nobody else has the arena yet.
        unsafe { (&raw mut (*Self::cell(&self.data, cell)).canary).write_volatile(canary) };
    }

    /// Counts the slots that hold anything but zeroes.
    #[cfg(test)]
    #[expect(unsafe_code, reason = "looking at what is left in memory")]
    pub(super) fn slots_with_residue(&self) -> usize {
        let holds_residue = |index: &usize| {
            let bytes = self.view(*index).cast::<u8>();
            // SAFETY: the slot is mapped and plain bytes, and tests look when nobody writes.
            unsafe { std::slice::from_raw_parts(bytes, SlotBytes::SECRET) }.iter().any(|&byte| byte != 0)
        };
        (0..self.slots + self.scratch).filter(holds_residue).count()
    }
}

thread_local! {
    /// Where this thread begins its search for a scratch slot.
    static SCRATCH_HINT: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}
