//! A key that callers compute with: sealed in ordinary memory, and in a slot while it is in use often enough.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::slot::SlotRef;
use super::state::{KeyState, SealedKey};
use super::vault::VaultCore;
use crate::error::MemoryError;

/// A system or intermediate key. Its slot, if it has one, is wiped when the last reference is dropped.
pub(crate) struct LockedKey {
    core: Arc<VaultCore>,
    sealed: SealedKey,
    label: Box<[u8]>,
    /// The packed [`SlotRef`] that held the key last; it may hold another one by now.
    slot: AtomicU64,
    used_cold: AtomicBool,
}

impl LockedKey {
    pub(super) fn new(core: Arc<VaultCore>, sealed: SealedKey, label: Box<[u8]>, slot: Option<SlotRef>) -> Self {
        core.live.fetch_add(1, Ordering::AcqRel);
        let slot = AtomicU64::new(slot.map_or(SlotRef::NONE, SlotRef::pack));
        Self { core, sealed, label, slot, used_cold: AtomicBool::new(false) }
    }

    /// Pins the key, lends its state to `work`, and returns the result only if the key was not wiped meanwhile.
    ///
    /// Costs some 10 ns for a resident key, some 300 ns for any other. `work` is synchronous, so a pin never outlives a
    /// poll.
    ///
    /// # Errors
    /// [`MemoryError::Closed`] once the vault closes, [`MemoryError::Forked`] in a forked child,
    /// [`MemoryError::Exhausted`] when the key is not resident and all scratch slots are in use.
    #[inline]
    pub(crate) fn using<R>(&self, work: impl FnOnce(&KeyState) -> R) -> Result<R, MemoryError> {
        let hint = self.slot.load(Ordering::Acquire);
        let Some(pin) = SlotRef::unpack(hint).and_then(|slot| self.core.arena.pin(slot)) else {
            // Forgotten, unless it was renewed meanwhile: generations come round again after 2^29 keys.
            let _ = self.slot.compare_exchange(hint, SlotRef::NONE, Ordering::AcqRel, Ordering::Relaxed);
            return self.using_cold(work);
        };
        let result = work(pin.state());
        if pin.is_intact() { Ok(result) } else { Err(MemoryError::Closed) }
    }

    /// Lends the plain 32 bytes to `work`, out of a scratch slot.
    pub(crate) fn with_bytes<R>(&self, work: impl FnOnce(&[u8; 32]) -> R) -> Result<R, MemoryError> {
        let mut scratch = self.core.arena.scratch(self.core.owner)?;
        self.unseal_into(&mut scratch.bytes().key)?;
        let result = work(&scratch.bytes().key);
        if self.core.is_closed() { Err(MemoryError::Closed) } else { Ok(result) }
    }

    /// Tells whether the key was used while not resident since the last call; it then wants to be promoted.
    #[inline]
    pub(crate) fn take_used_cold(&self) -> bool {
        self.used_cold.load(Ordering::Relaxed) && self.used_cold.swap(false, Ordering::Relaxed)
    }

    pub(super) fn is_resident(&self) -> bool {
        SlotRef::unpack(self.slot.load(Ordering::Acquire)).is_some_and(|slot| self.core.arena.pin(slot).is_some())
    }

    #[cfg(test)]
    pub(super) fn slot(&self) -> Option<SlotRef> {
        SlotRef::unpack(self.slot.load(Ordering::Acquire))
    }

    pub(super) fn set_slot(&self, slot: SlotRef) {
        self.slot.store(slot.pack(), Ordering::Release);
    }

    pub(super) fn unseal_into(&self, key: &mut [u8; 32]) -> Result<(), MemoryError> {
        let unsealed = self.core.with_sealing_key(|sealing| sealing.unwrap(&self.sealed, &self.label, key))?;
        unsealed.map_err(|_| MemoryError::Damaged)
    }

    #[cold]
    fn using_cold<R>(&self, work: impl FnOnce(&KeyState) -> R) -> Result<R, MemoryError> {
        if self.core.is_closed() {
            return Err(MemoryError::Closed);
        }
        let mut scratch = self.core.arena.scratch(self.core.owner)?;
        self.unseal_into(&mut scratch.bytes().key)?;
        let result = work(scratch.expand());
        self.used_cold.store(true, Ordering::Relaxed);
        if self.core.is_closed() { Err(MemoryError::Closed) } else { Ok(result) }
    }
}

impl Drop for LockedKey {
    fn drop(&mut self) {
        if let Some(slot) = SlotRef::unpack(self.slot.load(Ordering::Acquire)) {
            self.core.arena.release(slot);
        }
        self.core.live.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for LockedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedKey")
    }
}
