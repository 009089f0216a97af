//! Secret memory: where plain keys live, and the only `unsafe` code of the crate.
//!
//! One arena per process is mapped, locked, excluded from core dumps and touched once at start. Its slots hold the
//! expanded AES-256-GCM state of system and intermediate keys. A slot is a cache: the authoritative copy of a key is
//! sealed under a key that itself never leaves the arena, so more keys than slots work, at the cost of unsealing.
//!
//! * `pages.rs` maps, guards and locks; `budget.rs` reads the lock limit.
//! * `slot.rs` is the one atomic word that arbitrates between readers and wipers of a slot.
//! * `arena.rs` hands out slots and scratch; `state.rs` is what stands in them.
//! * `random_pool.rs` keeps random bytes that become keys.
//! * `vault.rs` is one owner's keys, sealed and closed together; `key.rs` a key that callers compute with.

mod arena;
mod budget;
mod key;
mod pages;
mod random_pool;
mod slot;
mod state;
#[cfg(test)]
mod tests;
mod vault;

pub use crate::error::MemoryError;
pub use arena::{ArenaSettings, ArenaStatus, Protection};
pub(crate) use key::LockedKey;
pub(crate) use random_pool::draw;
pub(crate) use state::{SealedKey, WRAPPED_KEY};
pub(crate) use vault::{MasterKey, RandomFill, Reservation, Vault, WipeReport};

/// Maps the process's arena with `settings`, unless it is mapped already.
///
/// Without this call the first session factory or local master key maps it with the defaults. The arena lives as long as
/// the process; closing a session factory wipes that factory's part of it.
///
/// # Errors
/// [`MemoryError`] when locked memory is not to be had; the message says what to change.
pub fn init(settings: &ArenaSettings) -> Result<ArenaStatus, MemoryError> {
    Ok(arena::Arena::shared(settings)?.status())
}
