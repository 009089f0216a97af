//! One owner's keys in the arena: sealed under one key, closed together.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use zeroize::Zeroize;

use super::arena::{Arena, MUST_STAY};
use super::claimed::ClaimedSlot;
use super::key::LockedKey;
#[cfg(feature = "aws-kms")]
use super::lease::Lease;
use super::registers::clear_registers;
use super::sealing::{Sealing, nonce};
use super::settings::{ArenaSettings, ArenaStatus};
use super::slot::SlotRef;
use super::state::{KeyState, NotAuthentic, SealedKey};
use super::worker::system_random;
use crate::error::{MemoryError, RandomError};

/// Fills a buffer with random bytes fit for keys, or fails and leaves it unfit.
pub(crate) type RandomFill = Arc<dyn Fn(&mut [u8]) -> Result<(), RandomError> + Send + Sync>;

/// What closing a vault did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WipeReport {
    /// Keys that were resident and are zeroed now.
    pub wiped: usize,
    /// Operations that were still computing when the time to drain was over; their output is discarded.
    pub forced: usize,
}

/// What a vault and its keys share.
pub(super) struct VaultCore {
    pub(super) arena: Arc<Arena>,
    pub(super) owner: u32,
    pub(super) sealing: Sealing,
    random: RandomFill,
    closed: AtomicBool,
    pub(super) live: AtomicUsize,
}

impl VaultCore {
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Fails once the vault closes, in a forked child, and when everything was wiped.
    pub(super) fn check(&self) -> Result<(), MemoryError> {
        self.arena.check()?;
        if self.is_closed() { Err(MemoryError::Closed) } else { Ok(()) }
    }

    /// As [`check`](Self::check), after a use that a wipe may have overlapped.
    pub(super) fn check_after(&self) -> Result<(), MemoryError> {
        self.arena.check_after()?;
        self.check()
    }
}

impl Drop for VaultCore {
    fn drop(&mut self) {
        self.arena.wipe_owner(self.owner);
    }
}

/// Keys that are sealed under one key and closed together, in the process's arena.
///
/// Cloning shares it. A key is 32 bytes in a slot of locked memory, expanded and ready for use, and sealed in ordinary memory
/// when other keys need the slot more. Wiped when the last handle and the last key are dropped; [`close`](Self::close) does
/// not wait for that.
///
/// ```
/// use std::time::Duration;
///
/// use keyward::memory::{ArenaSettings, Vault};
///
/// let vault = Vault::open(&ArenaSettings::default())?;
/// let mut outside = [7; 32];
/// let (parent, child) = (vault.import(b"parent", &mut outside)?, vault.generate(b"child")?);
/// assert_eq!(outside, [0; 32], "wiped at its source");
/// let wrapped = parent.wrap(&child, &[1; 12])?;
/// let again = vault.unwrap(b"child", &parent, &wrapped)?;
/// vault.close(Duration::from_millis(10));
/// assert!(again.using(|_| ()).is_err());
/// # Ok::<(), keyward::MemoryError>(())
/// ```
#[derive(Clone)]
pub struct Vault {
    core: Arc<VaultCore>,
}

impl Vault {
    /// Makes a vault in the process's arena, which is mapped with `settings` if it was not.
    ///
    /// # Errors
    /// [`MemoryError`] when locked memory is not to be had, or is full of keys that must stay.
    pub fn open(settings: &ArenaSettings) -> Result<Self, MemoryError> {
        Self::open_in(Arena::shared(Some(settings))?, system_random())
    }

    /// As [`open`](Self::open), with the generator of a session factory.
    pub(crate) fn with_random(random: RandomFill) -> Result<Self, MemoryError> {
        Self::open_in(Arena::shared(None)?, random)
    }

    /// Fails once the vault closes, in a forked child, and when everything was wiped.
    pub(super) fn check(&self) -> Result<(), MemoryError> {
        self.core.check()
    }

    /// Makes a random key; `label` is what it is called, for the sealed copy.
    ///
    /// # Errors
    /// [`MemoryError::Closed`], [`MemoryError::Forked`], [`MemoryError::Exhausted`] when there is neither a slot nor scratch,
    /// [`MemoryError::Random`] when the generator fails.
    pub fn generate(&self, label: &[u8]) -> Result<Arc<LockedKey>, MemoryError> {
        self.reserve()?.generate(label)
    }

    /// Takes a key from outside and wipes it there, also on failure.
    ///
    /// # Errors
    /// As for [`generate`](Self::generate).
    pub fn import(&self, label: &[u8], outside: &mut [u8; 32]) -> Result<Arc<LockedKey>, MemoryError> {
        let imported = self.reserve().and_then(|place| {
            place.fill::<MemoryError>(label, |key| {
                key.copy_from_slice(outside);
                Ok(())
            })
        });
        outside.zeroize();
        clear_registers();
        imported
    }

    /// Takes a key that is wrapped under `parent`, in the format's own layout; it never leaves locked memory.
    ///
    /// # Errors
    /// [`MemoryError::NotAuthentic`], and as for [`generate`](Self::generate).
    pub fn unwrap(&self, label: &[u8], parent: &LockedKey, wrapped: &SealedKey) -> Result<Arc<LockedKey>, MemoryError> {
        self.reserve()?.fill(label, |key| Ok(parent.using(|lease| lease.unwrap(wrapped, &[], key))??))
    }

    /// Wipes everything, after at most `drain` for uses under way; blocks the thread meanwhile.
    ///
    /// Uses that last longer end in [`MemoryError::Closed`], their output discarded. Idempotent.
    pub fn close(&self, drain: Duration) -> WipeReport {
        self.close_now(drain)
    }

    pub(super) fn open_in(arena: Arc<Arena>, random: RandomFill) -> Result<Self, MemoryError> {
        let owner = arena.new_owner();
        let sealing = Sealing::new(&arena, owner, &random)?;
        let core =
            VaultCore { arena, owner, sealing, random, closed: AtomicBool::new(false), live: AtomicUsize::new(0) };
        Ok(Self { core: Arc::new(core) })
    }

    /// Sets a place aside for a key: a slot if one can be had, and else only its sealed copy.
    pub(crate) fn reserve(&self) -> Result<Reservation, MemoryError> {
        self.core.check()?;
        let slot = self.core.arena.claim(self.core.owner);
        Ok(Reservation { core: Arc::clone(&self.core), slot })
    }

    /// Makes a key of this vault resident again; nothing happens when no slot can be had, or once the vault is closed.
    ///
    /// # Errors
    /// As for [`generate`](Self::generate).
    pub fn promote(&self, key: &LockedKey) -> Result<(), MemoryError> {
        if key.is_resident() || self.core.is_closed() || !key.is_of(&self.core) {
            return Ok(());
        }
        let before = key.hint();
        let Some(mut slot) = self.core.arena.claim(self.core.owner) else { return Ok(()) };
        key.unseal_into(&mut slot.bytes().key)?;
        let slot = slot.publish()?;
        if !key.set_slot(before, slot) {
            // Another thread has made it resident, and nobody knows of this slot.
            self.core.arena.wipe_now(slot);
        }
        self.wipe_if_closed();
        Ok(())
    }

    /// Looks for damage, and exchanges the sealing key if that is due at `now`: `false` when there is more to do of that.
    ///
    /// Takes some microseconds for the canaries and, during an exchange, some 300 ns for each of up to 512 keys. A session
    /// factory does it by itself.
    ///
    /// # Errors
    /// [`MemoryError::Damaged`] when something wrote over the arena, and as for [`generate`](Self::generate).
    pub fn maintain(&self, now: Instant) -> Result<bool, MemoryError> {
        const STEPS: usize = 512;
        self.core.check()?;
        let VaultCore { arena, owner, sealing, random, .. } = &*self.core;
        if !sealing.is_due(arena, now) {
            arena.audit();
            return arena.check().map(|()| true);
        }
        let done = sealing.exchange((arena, *owner), random, (now, STEPS));
        self.wipe_if_closed();
        done
    }

    /// Returns how often [`maintain`](Self::maintain) wants to be called.
    pub(crate) fn maintenance_interval(&self) -> Duration {
        let settings = &self.core.arena.settings;
        settings.audit_interval.min(settings.sealing_key_lifetime).max(Duration::from_millis(1))
    }

    /// Returns how many keys of this vault exist, resident or sealed.
    #[must_use]
    pub fn live(&self) -> usize {
        self.core.live.load(Ordering::Acquire)
    }

    /// Returns what the arena is and how full it is; costs some nanoseconds a slot.
    #[must_use]
    pub fn status(&self) -> ArenaStatus {
        self.core.arena.status()
    }

    /// Refuses new operations at once; those under way may finish.
    pub(crate) fn begin_close(&self) {
        self.core.closed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.core.arena.drain(self.core.owner);
    }

    /// Tells whether nothing computes with a key of this vault any more.
    pub(crate) fn is_drained(&self) -> bool {
        self.core.arena.busy(self.core.owner) == 0
    }

    /// Wipes the sealing key, and with it every sealed copy, and all resident keys. Idempotent.
    pub(crate) fn finish_close(&self) -> WipeReport {
        let forced = self.core.arena.busy(self.core.owner);
        WipeReport { wiped: self.core.arena.wipe_owner(self.core.owner), forced }
    }

    /// Closes without waiting longer than `drain` for operations under way; spins, so `drain` is short.
    pub(crate) fn close_now(&self, drain: Duration) -> WipeReport {
        self.begin_close();
        let began = Instant::now();
        while !self.is_drained() && began.elapsed() < drain {
            std::thread::yield_now();
        }
        self.finish_close()
    }

    /// Settles the race of a key published while the vault closed: whoever comes second wipes it.
    fn wipe_if_closed(&self) {
        fence(Ordering::SeqCst);
        if self.core.is_closed() {
            self.core.arena.wipe_owner(self.core.owner);
        }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("live", &self.live()).finish_non_exhaustive()
    }
}

/// A place for one key, to be filled by whoever obtains the key.
pub(crate) struct Reservation {
    core: Arc<VaultCore>,
    slot: Option<ClaimedSlot>,
}

impl Reservation {
    /// Fills the place by `fill`, which writes the 32 bytes straight into locked memory.
    ///
    /// `label` and the arena's number are authenticated with the sealed copy, so that copies cannot be exchanged.
    pub(crate) fn fill<E>(
        self,
        label: &[u8],
        fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>,
    ) -> Result<Arc<LockedKey>, E>
    where
        E: From<MemoryError>,
    {
        let Self { core, slot } = self;
        let nonce = nonce(&core.random).map_err(MemoryError::from)?;
        let resident = slot.is_some();
        let mut place = match slot {
            Some(slot) => slot,
            None => core.arena.scratch(core.owner)?,
        };
        fill(&mut place.bytes().key)?;
        let plain = &place.bytes().key;
        let label = [label, &core.arena.id().to_le_bytes()].concat();
        let key = core.sealing.enter(&core.arena, (plain, nonce, &label), |copy| {
            Arc::new(LockedKey::new(Arc::clone(&core), copy, label.as_slice().into()))
        })?;
        if resident {
            key.set_slot(SlotRef::NONE, place.publish()?);
        }
        Vault { core }.wipe_if_closed();
        clear_registers();
        Ok(key)
    }

    /// Makes a new random key.
    pub(crate) fn generate<E>(self, label: &[u8]) -> Result<Arc<LockedKey>, E>
    where
        E: From<MemoryError>,
    {
        let random = Arc::clone(&self.core.random);
        self.fill(label, |key| Ok(random(key).map_err(MemoryError::from)?))
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("resident", &self.slot.is_some()).finish_non_exhaustive()
    }
}

/// Lends a key from outside, expanded in a scratch slot for the time of one use: for keys that come and go with it.
///
/// # Errors
/// [`MemoryError::Exhausted`] when all scratch slots are in use, [`MemoryError::Closed`] when everything was wiped meanwhile.
#[cfg(feature = "aws-kms")]
pub(crate) fn with_passing_key<R>(outside: &[u8; 32], work: impl FnOnce(&Lease<'_>) -> R) -> Result<R, MemoryError> {
    let arena = Arena::shared(None)?;
    let mut scratch = arena.scratch(arena.new_owner())?;
    scratch.bytes().key.copy_from_slice(outside);
    let result = work(&Lease::new(scratch.expand()));
    clear_registers();
    arena.check()?;
    Ok(result)
}

/// A master key that a local key management service holds: resident for as long as the service lives.
pub(crate) struct MasterKey {
    arena: Arc<Arena>,
    slot: SlotRef,
}

impl MasterKey {
    /// Takes a key that came from outside and wipes it there, also on failure.
    pub(crate) fn import(outside: &mut [u8; 32]) -> Result<Self, MemoryError> {
        let imported = Self::copy(outside);
        outside.zeroize();
        clear_registers();
        imported
    }

    fn copy(outside: &[u8; 32]) -> Result<Self, MemoryError> {
        let arena = Arena::shared(None)?;
        let owner = arena.new_owner() | MUST_STAY;
        let mut slot = arena.claim(owner).ok_or(MemoryError::Full { slots: arena.status().slots })?;
        slot.bytes().key.copy_from_slice(outside);
        let slot = slot.publish()?;
        Ok(Self { arena, slot })
    }

    /// Wraps a key, in the format's own layout.
    pub(crate) fn wrap(&self, key: &[u8; 32], nonce: &[u8; 12]) -> Result<SealedKey, MemoryError> {
        self.using(|state| state.wrap(key, nonce, &[]))
    }

    /// Unwraps a key into `key`, which is untouched when it is not authentic.
    pub(crate) fn unwrap(
        &self,
        sealed: &SealedKey,
        key: &mut [u8; 32],
    ) -> Result<Result<(), NotAuthentic>, MemoryError> {
        self.using(|state| state.unwrap(sealed, &[], key))
    }

    fn using<R>(&self, work: impl FnOnce(&KeyState) -> R) -> Result<R, MemoryError> {
        self.arena.check()?;
        let pin = self.arena.pin(self.slot).map_err(|_| MemoryError::Closed)?;
        let result = work(pin.state());
        if pin.is_intact() { Ok(result) } else { Err(MemoryError::Closed) }
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.arena.release(self.slot);
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}
