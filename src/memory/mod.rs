//! Secret memory: where plain keys live, and the only `unsafe` code of the crate.
//!
//! One arena per process is mapped, locked, excluded from core dumps and touched once at start. Its slots hold the
//! expanded AES-256-GCM state of system and intermediate keys. A slot is a cache: the authoritative copy of a key is
//! sealed under a key that itself never leaves the arena, so more keys than slots work, at the cost of unsealing.
//!
//! * `sys/` are the calls of each system; `pages.rs` maps, guards and locks; `backend.rs` finds the best kind of memory.
//! * `process.rs` knows a fork from its parent; `wipe.rs` wipes everything from anywhere.
//! * `slot.rs` is the words that arbitrate between readers and wipers of a slot, `readers.rs` the announcements of all
//!   threads; `tests/slot_model.rs` has loom check them.
//! * `control.rs` holds an arena's words, `sizing.rs` finds its size, `arena.rs` hands out its slots and scratch, `claimed.rs` is a slot in someone's
//!   hands; `state.rs` is what stands in them, by `aes.rs`. `settings.rs` is what the arena is told and tells.
//! * `worker.rs` is what each thread has: a place for a data row key, and random bytes that become keys.
//! * `registers.rs` clears what keys went through.
//! * `vault.rs` is one owner's keys, closed together; `sealing.rs` what they are sealed under; `key.rs` a key that callers
//!   compute with, through a `lease.rs`.
//! * `secret.rs` is what a single secret is to those who use it; `placed.rs` its mapping, `protected.rs` one that is
//!   inaccessible at rest, `buffer.rs` one to work on, `enclave.rs` one that is sealed, `stream.rs` and `pipe.rs` some that flow.
//! * `signals/` wipes at the end of the process; `harden.rs` keeps others from its memory; `report.rs` says what protects it.

mod aes;
mod arena;
mod atomics;
mod backend;
mod buffer;
mod claimed;
mod control;
mod enclave;
mod harden;
mod key;
mod lease;
mod pages;
mod pipe;
mod placed;
mod process;
mod protected;
mod readers;
mod registers;
mod report;
mod sealing;
mod secret;
mod settings;
#[cfg(unix)]
pub mod signals;
mod sizing;
mod slot;
mod state;
mod stream;
mod sys;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
mod vault;
mod wipe;
mod worker;

pub use crate::error::MemoryError;
pub use backend::{Backend, MemoryPolicy, Protection};
pub use buffer::Buffer;
pub use enclave::Enclave;
pub use harden::harden;
pub use key::LockedKey;
pub use lease::Lease;
pub use pages::{Access, Limits, Pages, disable_core_dumps, limits};
pub use pipe::{StreamReader, StreamWriter};
pub use protected::{GuardedMemory, GuardedMemoryFactory, ProtectedMemory, ProtectedMemoryFactory};
pub use report::{Report, report};
pub use secret::{Secret, SecretExt, SecretFactory, SecretReader};
pub use settings::{ArenaSettings, ArenaStatus, OnDamage};
pub use state::{NotAuthentic, SealedKey, WRAPPED_KEY};
pub use stream::Stream;
#[cfg(feature = "aws-kms")]
pub(crate) use vault::with_passing_key;
pub(crate) use vault::{MasterKey, RandomFill, Reservation};
pub use vault::{Vault, WipeReport};
pub use wipe::{Wiped, purge};
pub(crate) use worker::system_random;

/// Maps the process's arena with `settings`, unless it is mapped already.
///
/// Without this call the first session factory or local master key maps it with the defaults. The arena lives as long as
/// the process; closing a session factory wipes that factory's part of it.
///
/// # Errors
/// [`MemoryError`] when locked memory is not to be had; the message says what to change.
pub fn init(settings: &ArenaSettings) -> Result<ArenaStatus, MemoryError> {
    Ok(arena::Arena::shared(Some(settings))?.status())
}
