//! Holding a slot: alone, to write it, or with others, to read it.

use std::marker::PhantomData;
use std::sync::Arc;

use super::arena::Arena;
use super::readers;
use super::slot::{Announcement, Pinned, SlotRef};
use super::state::{KeyState, SlotBytes};
use crate::error::MemoryError;

/// A slot that this value has to itself; wiped and freed when dropped, unless it was published.
pub(super) struct ClaimedSlot {
    arena: Arc<Arena>,
    index: usize,
    generation: u32,
    published: bool,
}

impl ClaimedSlot {
    pub(super) fn new(arena: Arc<Arena>, index: usize, generation: u32) -> Self {
        Self { arena, index, generation, published: false }
    }

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
    ///
    /// # Errors
    /// As of [`Arena::check`]; the slot is then wiped.
    pub(super) fn publish(mut self) -> Result<SlotRef, MemoryError> {
        self.bytes().expand();
        self.arena.control(self.index).publish(self.generation);
        self.published = true;
        let index = u32::try_from(self.index).expect("2^32 slots exceed any memory");
        let slot = SlotRef { index, generation: self.generation };
        // A wipe of everything that did not see the key here is seen here.
        match self.arena.check_after() {
            Ok(()) => Ok(slot),
            Err(error) => {
                self.arena.wipe_now(slot);
                Err(error)
            }
        }
    }
}

impl Drop for ClaimedSlot {
    fn drop(&mut self) {
        if !self.published {
            self.arena.clean(self.index);
        }
    }
}

/// A key that stays in its slot while this lives; cannot leave the thread, so it cannot be held across an await.
pub(super) struct Pin<'a> {
    arena: &'a Arena,
    index: usize,
    generation: u32,
    announcement: Option<&'static Announcement>,
    not_send: PhantomData<*const ()>,
}

impl<'a> Pin<'a> {
    #[inline]
    pub(super) fn new(arena: &'a Arena, slot: SlotRef) -> Result<Self, Pinned> {
        let index = slot.index as usize;
        let control = arena.control(index);
        let announcement = readers::own();
        let pinned = match announcement {
            Some(own) => control.pin(own, slot.generation),
            None => control.pin_shared(slot.generation),
        };
        if pinned != Pinned::Yes {
            return Err(pinned);
        }
        Ok(Self { arena, index, generation: slot.generation, announcement, not_send: PhantomData })
    }

    #[expect(unsafe_code, reason = "slots stand in locked pages")]
    #[inline]
    pub(super) fn state(&self) -> &KeyState {
        // SAFETY: the slot was live when it was pinned, so its state was expanded; no reference to it is mutable while
        // it is pinned. A forced wipe may write zeroes meanwhile; `is_intact` tells, and the output is then discarded.
        unsafe { (*self.arena.view(self.index)).state() }
    }

    /// Tells, after computing with the key, whether the output may be used.
    #[inline]
    pub(super) fn is_intact(&self) -> bool {
        self.arena.control(self.index).is_intact(self.generation)
    }
}

impl Drop for Pin<'_> {
    #[inline]
    fn drop(&mut self) {
        match self.announcement {
            Some(own) => own.clear(),
            None => self.arena.control(self.index).unpin(),
        }
    }
}
