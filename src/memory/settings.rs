//! What is asked of the arena, and what it says of itself.

use std::time::Duration;

use metrics::{counter, gauge};
use serde::Serialize;

use super::backend::{Backend, MemoryPolicy, Protection};

/// How the arena is mapped and kept.
///
/// # Defaults
/// * `bytes` 2 MiB: some 4,600 keys ready for use, a quarter of the lock limit that systems usually grant. Where the limit
///   is lower the arena shrinks to fit, down to three pages.
/// * `scratch_slots` 16: keys beyond the arena's size are unsealed into these, one per thread at a time.
/// * `policy` strict, `require` nothing: `memfd_secret` where the kernel has it, and else locked memory.
/// * `read_only_view` off: it counts twice against the lock limit.
/// * `leave_unlocked` 256 KiB, at most a quarter of what may be locked: for the pages of threads and what else the process
///   locks.
/// * `audit_interval` 5 s: looking at every canary costs some ten microseconds.
/// * `sealing_key_lifetime` 15 minutes, `sealing_key_uses` 2^28: sealed copies are renewed long before the 2^32 messages
///   that NIST SP 800-38D allows one key with random nonces.
/// * `on_damage` exit: a process whose memory is written over has no business going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArenaSettings {
    /// Bytes of locked memory wanted.
    pub bytes: usize,
    /// Slots kept for keys that are not resident.
    pub scratch_slots: usize,
    /// What happens when a protection is not to be had.
    pub policy: MemoryPolicy,
    /// The backend without which nothing starts.
    pub require: Option<Backend>,
    /// Readers see the keys through a second mapping that cannot be written; for `memfd_secret` alone.
    pub read_only_view: bool,
    /// Bytes of the lock limit that are left to others when the arena has to shrink.
    pub leave_unlocked: u64,
    /// How often a session factory looks at all canaries and publishes the numbers; a program that has vaults alone calls
    /// [`Vault::maintain`](super::Vault::maintain).
    pub audit_interval: Duration,
    /// How long sealed copies stay under one key, where something calls [`Vault::maintain`](super::Vault::maintain) as above.
    pub sealing_key_lifetime: Duration,
    /// How many copies are sealed under one key.
    pub sealing_key_uses: u64,
    /// What happens when something wrote over the arena.
    pub on_damage: OnDamage,
}

impl Default for ArenaSettings {
    fn default() -> Self {
        Self {
            bytes: 2 * 1024 * 1024,
            scratch_slots: 16,
            policy: MemoryPolicy::default(),
            require: None,
            read_only_view: false,
            leave_unlocked: 256 * 1024,
            audit_interval: Duration::from_secs(5),
            sealing_key_lifetime: Duration::from_secs(15 * 60),
            sealing_key_uses: 1 << 28,
            on_damage: OnDamage::default(),
        }
    }
}

/// What happens, after everything was wiped, when something wrote over the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamage {
    /// The process ends with exit code 70 and a line on stderr.
    #[default]
    Exit,
    /// Every later use of a key is [`MemoryError::Damaged`](crate::MemoryError::Damaged).
    Error,
}

/// What the arena is and how full it is.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ArenaStatus {
    /// The memory that keys live in.
    pub backend: Backend,
    /// The policy under which it was mapped.
    pub policy: MemoryPolicy,
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
    /// Keys that are resident; sealing and master keys do not count.
    pub hot: usize,
    /// Keys that are sealed in ordinary memory and nowhere else.
    pub cold: usize,
    /// Keys that were ever made or loaded.
    pub allocated: u64,
    /// Times that a key gave its slot to another.
    pub demotions: u64,
    /// Uses refused because all scratch slots were taken.
    pub exhausted: u64,
    /// Uses whose key was wiped before they ended.
    pub forced_wipes: u64,
    /// Times that a sealing key gave way to the next, and all sealed copies were renewed.
    pub exchanges: u64,
    /// Slots found written over.
    pub canary_failures: u64,
    /// Each protection of the pages.
    pub protections: Vec<Protection>,
}

impl ArenaStatus {
    /// Records these numbers with the recorder of the crate `metrics`, under names that begin with `secret_`.
    ///
    /// A session factory does it at every audit; a program that is scraped does it before each answer.
    pub fn publish(&self) {
        use crate::metrics::{self, secret};
        #[expect(clippy::cast_precision_loss, reason = "gauges are floating-point, and these are small")]
        let set = |name, value: usize| gauge!(name).set(value as f64);
        let count = |name, value| counter!(name).absolute(value);
        metrics::describe();
        count(secret::ALLOCATED, self.allocated);
        set(secret::IN_USE, self.slots_in_use);
        set(secret::LOCKED_BYTES, self.locked_bytes);
        set(secret::HOT, self.hot);
        set(secret::COLD, self.cold);
        count(secret::DEMOTIONS, self.demotions);
        count(secret::EXHAUSTED, self.exhausted);
        count(secret::FORCED_WIPES, self.forced_wipes);
        count(secret::EXCHANGES, self.exchanges);
        count(secret::CANARY_FAILURES, self.canary_failures);
        set(secret::DEGRADED, usize::from(self.is_degraded()));
    }

    /// Tells whether something lacks that the strict policy asks for.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.protections.iter().any(|protection| protection.required && !protection.active)
    }
}
