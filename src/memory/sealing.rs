//! The keys that sealed copies stand under: one at a time, exchanged for another before it is worn out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::arena::{Arena, MUST_STAY};
use super::claimed::Pin;
use super::key::LockedKey;
use super::slot::{Pinned, SlotRef};
use super::state::{KeyState, SealedKey};
use crate::error::{MemoryError, RandomError};
use crate::memory::RandomFill;

/// Bytes of the nonce of a sealed copy.
const NONCE: usize = 12;

/// A key sealed under one of the vault's sealing keys: the authoritative copy, in ordinary memory.
#[derive(Clone, Copy)]
pub(super) struct SealedCopy {
    bytes: SealedKey,
    /// Where the sealing key stands.
    under: SlotRef,
}

/// The sealing keys of one vault, and what is sealed under them.
pub(super) struct Sealing {
    /// The packed [`SlotRef`] of the key that new copies are sealed under.
    current: AtomicU64,
    uses: AtomicU64,
    books: Mutex<Books>,
}

/// What changes when keys come and when sealing keys go.
struct Books {
    /// Every key of the vault that may be alive.
    keys: Vec<Weak<LockedKey>>,
    /// How many of them were, when the dead were last thrown out.
    alive: usize,
    /// When the current sealing key was made.
    since: Instant,
    /// A sealing key that copies still stand under, and how many of `keys` have been gone through to renew theirs.
    retiring: Option<(SlotRef, usize)>,
}

impl Sealing {
    /// Makes the first sealing key.
    pub(super) fn new(arena: &Arc<Arena>, owner: u32, random: &RandomFill) -> Result<Self, MemoryError> {
        let first = new_key(arena, owner, random)?;
        let books = Books { keys: Vec::new(), alive: 0, since: Instant::now(), retiring: None };
        Ok(Self { current: AtomicU64::new(first.pack()), uses: AtomicU64::new(0), books: Mutex::new(books) })
    }

    /// Seals `key` and enters what `make` makes of the copy into the books, before the sealing key can change.
    pub(super) fn enter(
        &self,
        arena: &Arena,
        (key, nonce, label): (&[u8; 32], [u8; NONCE], &[u8]),
        make: impl FnOnce(SealedCopy) -> Arc<LockedKey>,
    ) -> Result<Arc<LockedKey>, MemoryError> {
        let mut books = self.books();
        let made = make(self.seal(arena, key, nonce, label)?);
        if books.keys.len() > 64.max(2 * books.alive) && books.retiring.is_none() {
            books.keys.retain(|key| key.strong_count() > 0);
            books.alive = books.keys.len();
        }
        books.keys.push(Arc::downgrade(&made));
        Ok(made)
    }

    fn seal(&self, arena: &Arena, key: &[u8; 32], nonce: [u8; NONCE], label: &[u8]) -> Result<SealedCopy, MemoryError> {
        let under = SlotRef::unpack(self.current.load(Ordering::Acquire)).ok_or(MemoryError::Closed)?;
        self.uses.fetch_add(1, Ordering::Relaxed);
        let bytes = with(arena, under, |sealing| sealing.wrap(key, &nonce, label))?;
        Ok(SealedCopy { bytes, under })
    }

    /// Tells whether the sealing key is to be exchanged at `now`, or an exchange is under way.
    pub(super) fn is_due(&self, arena: &Arena, now: Instant) -> bool {
        let books = self.books();
        let settings = &arena.settings;
        books.retiring.is_some()
            || now.saturating_duration_since(books.since) >= settings.sealing_key_lifetime
            || self.uses.load(Ordering::Relaxed) >= settings.sealing_key_uses
    }

    /// Exchanges the sealing key, or goes on with that, for at most `steps` keys; `true` when no copy stands under the old
    /// one any more and it is wiped. Readers are never stopped: both keys are there until then.
    pub(super) fn exchange(
        &self,
        (arena, owner): (&Arc<Arena>, u32),
        random: &RandomFill,
        (now, steps): (Instant, usize),
    ) -> Result<bool, MemoryError> {
        let mut books = self.books();
        let (old, from) = match books.retiring {
            Some(under_way) => under_way,
            None => {
                let next = new_key(arena, owner, random)?;
                let old = self.current.swap(next.pack(), Ordering::AcqRel);
                self.uses.store(0, Ordering::Relaxed);
                books.since = now;
                (SlotRef::unpack(old).expect("there is always a sealing key"), 0)
            }
        };
        books.retiring = Some((old, from));
        let to = books.keys.len().min(from + steps);
        for index in from..to {
            if let Some(key) = books.keys[index].upgrade().filter(|key| key.copy().under == old) {
                let nonce = nonce(random)?;
                let mut scratch = arena.scratch(owner)?;
                key.copy().open(arena, key.label(), &mut scratch.bytes().key)?;
                key.set_copy(self.seal(arena, &scratch.bytes().key, nonce, key.label())?);
            }
            books.retiring = Some((old, index + 1));
        }
        if to < books.keys.len() {
            return Ok(false);
        }
        books.retiring = None;
        drop(books);
        // Whoever unseals under it at this moment finishes; whoever comes later finds the renewed copy.
        arena.release(old);
        arena.counters.exchanges.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SealedCopy {
    /// Unseals into `key`.
    ///
    /// # Errors
    /// [`MemoryError::Closed`] when the sealing key is gone: retired, if the copy was renewed meanwhile, or wiped.
    pub(super) fn open(&self, arena: &Arena, label: &[u8], key: &mut [u8; 32]) -> Result<(), MemoryError> {
        let opened = with(arena, self.under, |sealing| sealing.unwrap(&self.bytes, label, key))?;
        opened.map_err(|_| {
            arena.damaged(None);
            MemoryError::DamagedCopy
        })
    }

    /// Tells whether both stand under the same sealing key.
    pub(super) fn is_under_that_of(&self, other: &Self) -> bool {
        self.under == other.under
    }

    /// Changes a byte, as a stray write would.
    #[cfg(test)]
    pub(super) fn damage(&mut self) {
        self.bytes[0] ^= 1;
    }
}

/// Lends the sealing key at `slot` to `work`; its result is discarded when the key was wiped meanwhile.
fn with<R>(arena: &Arena, slot: SlotRef, work: impl FnOnce(&KeyState) -> R) -> Result<R, MemoryError> {
    arena.check()?;
    let pin: Pin<'_> = arena.pin(slot).map_err(|_: Pinned| MemoryError::Closed)?;
    let result = work(pin.state());
    if pin.is_intact() { Ok(result) } else { Err(MemoryError::Closed) }
}

fn new_key(arena: &Arc<Arena>, owner: u32, random: &RandomFill) -> Result<SlotRef, MemoryError> {
    arena.check()?;
    let mut slot = arena.claim(owner | MUST_STAY).ok_or(MemoryError::Full { slots: arena.status().slots })?;
    random(&mut slot.bytes().key)?;
    slot.publish()
}

pub(super) fn nonce(random: &RandomFill) -> Result<[u8; NONCE], RandomError> {
    let mut nonce = [0; NONCE];
    random(&mut nonce)?;
    Ok(nonce)
}
