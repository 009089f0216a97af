//! A key that callers compute with: sealed in ordinary memory, and in a slot while it is in use often enough.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::lease::Lease;
use super::sealing::SealedCopy;
use super::slot::{Pinned, SlotRef};
use super::state::SealedKey;

use super::vault::VaultCore;
use super::worker;
use crate::error::MemoryError;

/// A key of a [`Vault`](super::Vault). Its slot, if it has one, is wiped when the last reference is dropped.
pub struct LockedKey {
    core: Arc<VaultCore>,
    copy: ArcSwap<SealedCopy>,
    label: Box<[u8]>,
    /// The packed [`SlotRef`] that held the key last; it may hold another one by now.
    slot: AtomicU64,
    used_cold: AtomicBool,
}

impl LockedKey {
    /// Makes a key that is not resident.
    pub(super) fn new(core: Arc<VaultCore>, copy: SealedCopy, label: Box<[u8]>) -> Self {
        core.live.fetch_add(1, Ordering::AcqRel);
        core.arena.counters.keys.fetch_add(1, Ordering::Relaxed);
        core.arena.counters.allocated.fetch_add(1, Ordering::Relaxed);
        let slot = AtomicU64::new(SlotRef::NONE);
        Self { core, copy: ArcSwap::from_pointee(copy), label, slot, used_cold: AtomicBool::new(false) }
    }

    /// Pins the key, lends it to `work`, and returns the result only if the key was not wiped meanwhile.
    ///
    /// Costs some 10 ns for a resident key, some 300 ns for any other; sends no message, takes no lock, calls no system.
    /// `work` is synchronous, so a pin never outlives a poll.
    ///
    /// # Errors
    /// [`MemoryError::Closed`] once the vault closes, [`MemoryError::Forked`] in a forked child,
    /// [`MemoryError::Exhausted`] when the key is not resident and all scratch slots are in use.
    #[inline]
    pub fn using<R>(&self, work: impl FnOnce(&Lease<'_>) -> R) -> Result<R, MemoryError> {
        let hint = self.slot.load(Ordering::Acquire);
        let Some(slot) = SlotRef::unpack(hint) else { return self.using_cold(work) };
        let pin = match self.core.arena.pin(slot) {
            Ok(pin) => pin,
            Err(pinned) => {
                if pinned == Pinned::Gone {
                    // Unless it was renewed meanwhile: generations come round again after 2^29 keys.
                    let _ = self.slot.compare_exchange(hint, SlotRef::NONE, Ordering::AcqRel, Ordering::Relaxed);
                }
                return self.using_cold(work);
            }
        };
        let result = work(&Lease::new(pin.state()));
        if pin.is_intact() { Ok(result) } else { Err(self.gone()) }
    }

    /// Wraps `key` under this one, in the format's own layout, with a `nonce` that was never used with it.
    ///
    /// # Errors
    /// As for [`using`](Self::using).
    pub fn wrap(&self, key: &Self, nonce: &[u8; 12]) -> Result<SealedKey, MemoryError> {
        key.with_bytes(|bytes| self.using(|lease| lease.wrap(bytes, nonce, &[])))?
    }

    /// Lends the plain 32 bytes to `work`, out of a scratch slot.
    pub(crate) fn with_bytes<R>(&self, work: impl FnOnce(&[u8; 32]) -> R) -> Result<R, MemoryError> {
        self.core.check()?;
        let mut scratch = self.core.arena.scratch(self.core.owner)?;
        self.unseal_into(&mut scratch.bytes().key)?;
        let result = work(&scratch.bytes().key);
        self.released(result)
    }

    /// Lends a place for another 32-byte key, such as a data row key, in locked memory and wiped afterwards.
    ///
    /// # Errors
    /// As for [`using`](Self::using).
    #[inline]
    pub(crate) fn with_place<R>(&self, work: impl FnOnce(&mut [u8; 32]) -> R) -> Result<R, MemoryError> {
        let work = match worker::with_place(work) {
            Ok(result) => return result,
            Err(work) => work,
        };
        let mut scratch = self.core.arena.scratch(self.core.owner)?;
        let result = work(&mut scratch.bytes().key);
        self.released(result)
    }

    /// Tells whether the key was used while not resident since the last call; it then wants to be promoted.
    #[inline]
    pub(crate) fn take_used_cold(&self) -> bool {
        self.used_cold.load(Ordering::Relaxed) && self.used_cold.swap(false, Ordering::Relaxed)
    }

    pub(super) fn is_resident(&self) -> bool {
        SlotRef::unpack(self.slot.load(Ordering::Acquire)).is_some_and(|slot| self.core.arena.holds(slot))
    }

    #[cfg(test)]
    pub(super) fn slot(&self) -> Option<SlotRef> {
        SlotRef::unpack(self.slot.load(Ordering::Acquire))
    }

    /// Tells whether the key is one of this vault's.
    pub(super) fn is_of(&self, core: &Arc<VaultCore>) -> bool {
        Arc::ptr_eq(&self.core, core)
    }

    /// Returns where the key was last, packed.
    pub(super) fn hint(&self) -> u64 {
        self.slot.load(Ordering::Acquire)
    }

    /// Notes where the key is now; `false` when it has gone elsewhere than where it was `before`.
    pub(super) fn set_slot(&self, before: u64, slot: SlotRef) -> bool {
        let noted = self.slot.compare_exchange(before, slot.pack(), Ordering::AcqRel, Ordering::Acquire);
        // A use that found it gone has noted that.
        noted
            .or_else(|now| {
                let forgotten = if now == SlotRef::NONE { Ok(now) } else { Err(now) };
                forgotten
                    .and_then(|now| self.slot.compare_exchange(now, slot.pack(), Ordering::AcqRel, Ordering::Acquire))
            })
            .is_ok()
    }

    /// Returns what is authenticated with the sealed copy.
    pub(super) fn label(&self) -> &[u8] {
        &self.label
    }

    pub(super) fn copy(&self) -> SealedCopy {
        **self.copy.load()
    }

    pub(super) fn set_copy(&self, copy: SealedCopy) {
        self.copy.store(Arc::new(copy));
    }

    pub(super) fn unseal_into(&self, key: &mut [u8; 32]) -> Result<(), MemoryError> {
        let mut copy = self.copy();
        loop {
            match copy.open(&self.core.arena, &self.label, key) {
                Err(MemoryError::Closed) => {
                    // A copy that was renewed meanwhile stands under another sealing key.
                    let renewed = self.copy();
                    if renewed.is_under_that_of(&copy) {
                        return Err(MemoryError::Closed);
                    }
                    copy = renewed;
                }
                other => return other,
            }
        }
    }

    #[cold]
    fn using_cold<R>(&self, work: impl FnOnce(&Lease<'_>) -> R) -> Result<R, MemoryError> {
        self.core.check()?;
        let mut scratch = self.core.arena.scratch(self.core.owner)?;
        self.unseal_into(&mut scratch.bytes().key)?;
        let result = work(&Lease::new(scratch.expand()));
        self.used_cold.store(true, Ordering::Relaxed);
        self.released(result)
    }

    /// Returns what was made with a key outside its slot, unless everything was wiped meanwhile.
    fn released<R>(&self, result: R) -> Result<R, MemoryError> {
        match self.core.check_after() {
            Ok(()) => Ok(result),
            Err(_) => Err(self.gone()),
        }
    }

    /// Counts that a key went while it was used, and says why.
    #[cold]
    fn gone(&self) -> MemoryError {
        self.core.arena.counters.forced_wipes.fetch_add(1, Ordering::Relaxed);
        self.core.arena.check().err().unwrap_or(MemoryError::Closed)
    }
}

impl Drop for LockedKey {
    fn drop(&mut self) {
        if let Some(slot) = SlotRef::unpack(self.slot.load(Ordering::Acquire)) {
            self.core.arena.release(slot);
        }
        self.core.live.fetch_sub(1, Ordering::AcqRel);
        self.core.arena.counters.keys.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for LockedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedKey")
    }
}
