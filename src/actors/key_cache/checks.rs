//! When something was last seen in the store, and when to look again.

use super::sync::{AtomicI64, AtomicU32, Ordering};
use crate::policy::{CryptoPolicy, Freshness};

/// How long whoever is about to look keeps others from it, in milliseconds: longer than the calls that it takes.
const CLAIM: i64 = 60_000;

/// The history of looking at something. All times are in Unix milliseconds.
#[derive(Debug)]
pub(crate) struct Checks {
    checked: AtomicI64,
    /// How often in a row looking failed.
    failures: AtomicU32,
    /// Not before this is it tried again, unless it must be.
    next_attempt: AtomicI64,
    /// Until then somebody is about to look. Whoever claimed that may not come to say that it is done: a key may be looked at
    /// by another status of its.
    claimed_until: AtomicI64,
    /// Spreads what was seen first at the same time.
    jitter: u8,
}

impl Checks {
    pub(super) fn new(checked: i64, jitter: u8) -> Self {
        Self {
            checked: AtomicI64::new(checked),
            failures: AtomicU32::new(0),
            next_attempt: AtomicI64::new(i64::MIN),
            claimed_until: AtomicI64::new(i64::MIN),
            jitter,
        }
    }

    pub(super) fn jitter(&self) -> u8 {
        self.jitter
    }

    pub(super) fn checked(&self) -> i64 {
        self.checked.load(Ordering::Acquire)
    }

    /// Tells whether looking failed lately. After a silence nobody knows: whoever comes first looks, and waits for that.
    pub(super) fn is_failing(&self, now: i64) -> bool {
        let is_forgotten = CryptoPolicy::is_forgotten(self.next_attempt.load(Ordering::Acquire), now);
        self.failures.load(Ordering::Acquire) > 0 && !is_forgotten
    }

    pub(super) fn freshness(&self, policy: &CryptoPolicy, now: i64) -> Freshness {
        policy.freshness(self.checked(), self.jitter, now)
    }

    /// Takes note that it was seen as it was at `checked`.
    pub(super) fn observe(&self, checked: i64) {
        self.checked.store(checked, Ordering::Release);
        self.failures.store(0, Ordering::Release);
        self.defer(i64::MIN);
    }

    /// Takes note that looking failed at `now`.
    pub(super) fn note_failure(&self, now: i64) {
        let failures = self.failures.load(Ordering::Acquire).saturating_add(1);
        self.failures.store(failures, Ordering::Release);
        self.defer(now.saturating_add(CryptoPolicy::retry_delay(failures, self.jitter)));
    }

    /// Has nobody look before `until`, unless it must be.
    pub(super) fn defer(&self, until: i64) {
        self.next_attempt.store(until, Ordering::Release);
        self.unclaim();
    }

    pub(super) fn may_attempt(&self, now: i64) -> bool {
        now >= self.next_attempt.load(Ordering::Acquire)
    }

    /// Tells the first caller, and no other for a while, that it should have it looked at.
    pub(super) fn claim(&self, now: i64) -> bool {
        let until = self.claimed_until.load(Ordering::Relaxed);
        let next = now.saturating_add(CLAIM);
        now >= until
            && self.may_attempt(now)
            && self.claimed_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Lets another caller ask.
    pub(super) fn unclaim(&self) {
        self.claimed_until.store(i64::MIN, Ordering::Relaxed);
    }
}
