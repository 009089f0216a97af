//! One version of a key, loaded, and the verdict on it.

use std::sync::Arc;

use super::checks::Checks;
use super::status::KeyStatus;
use super::sync::{AtomicBool, Ordering};
use crate::ids::KeyMeta;
use crate::memory::LockedKey;
use crate::policy::{CryptoPolicy, Freshness, Wraps};

/// Whether a key may encrypt at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Yes.
    Usable,
    /// Yes, and its row should be looked at, or its successor made, soon.
    Aging,
    /// Yes, although its row should have been looked at by now: that failed, and is tried again.
    Overdue,
    /// Not before its row, or its parent's, was looked at.
    Stale,
    /// Never again: it or its parent is expired or revoked, or it encrypted as much as it may.
    Invalid,
}

/// What a caller who is to have a key looked at gives back when it could not ask for that.
pub(crate) struct Claim<'a>(&'a Checks);

impl<'a> Claim<'a> {
    pub(super) fn of(checks: &'a Checks, now: i64) -> Option<Self> {
        checks.claim(now).then_some(Self(checks))
    }

    pub(crate) fn give_back(self) {
        self.0.unclaim();
    }
}

/// One version of a key, loaded.
#[derive(Debug)]
pub(crate) struct CachedKey {
    key: Arc<LockedKey>,
    status: Arc<KeyStatus>,
    parent: Option<Arc<KeyStatus>>,
    /// The last millisecond at which it may encrypt, and when its successor is to be made, in Unix milliseconds.
    expires: i64,
    due: i64,
    touched: AtomicBool,
}

impl CachedKey {
    pub(super) fn new(
        policy: &CryptoPolicy,
        key: Arc<LockedKey>,
        status: Arc<KeyStatus>,
        parent: Option<Arc<KeyStatus>>,
    ) -> Self {
        let created = status.meta().created;
        let earliest = parent.as_ref().map_or(created, |parent| created.min(parent.meta().created));
        let expires = policy.expires_at(earliest);
        // A system key comes first, so that what is under it has a successor to be put under.
        let jitter = if parent.is_some() { status.checks().jitter() } else { 0 };
        let due = policy.due_at(expires, jitter);
        Self { key, status, parent, expires, due, touched: AtomicBool::new(true) }
    }

    /// Returns the same key under what is known of its parent now.
    pub(super) fn under(&self, policy: &CryptoPolicy, parent: Option<Arc<KeyStatus>>) -> Self {
        Self::new(policy, Arc::clone(&self.key), Arc::clone(&self.status), parent)
    }

    pub(crate) fn meta(&self) -> &KeyMeta {
        self.status.meta()
    }

    /// Returns the key to compute with, noting that it was used.
    pub(crate) fn key(&self) -> &Arc<LockedKey> {
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
        &self.key
    }

    /// Returns what counts the keys that it encrypts.
    pub(crate) fn wraps(&self) -> &Wraps {
        self.status.wraps()
    }

    pub(super) fn status(&self) -> &Arc<KeyStatus> {
        &self.status
    }

    /// Returns when its row was looked at and is to be again.
    pub(super) fn checks(&self) -> &Checks {
        self.status.checks()
    }

    /// Tells the first caller, and no other, that it should have the key looked at or replaced.
    ///
    /// Where the system key alone is to be looked at, one caller does so for all keys under it.
    pub(crate) fn claim(&self, policy: &CryptoPolicy, now: i64) -> Option<Claim<'_>> {
        let own = self.checks();
        let is_own = own.is_failing(now) || own.freshness(policy, now) != Freshness::Fresh || self.is_due(policy, now);
        let parent = self.parent.as_ref().filter(|_| !is_own);
        let checks = parent.map_or(own, |parent| parent.checks());
        Claim::of(checks, now)
    }

    pub(super) fn parent(&self) -> Option<&Arc<KeyStatus>> {
        self.parent.as_ref()
    }

    /// Judges the key for encrypting at `now`, in Unix milliseconds. A key under an invalid system key is invalid.
    pub(crate) fn verdict(&self, policy: &CryptoPolicy, now: i64) -> Verdict {
        let wraps = self.wraps().get();
        if self.is_revoked() || now > self.expires || policy.is_spent(wraps) {
            return Verdict::Invalid;
        }
        match self.freshness(policy, now) {
            Freshness::Fresh if now >= self.due || policy.is_nearly_spent(wraps) => Verdict::Aging,
            Freshness::Fresh => Verdict::Usable,
            Freshness::Aging => Verdict::Aging,
            Freshness::Stale if self.status.checks().is_failing(now) && policy.may_serve_stale(self.checked(), now) => {
                Verdict::Overdue
            }
            Freshness::Stale => Verdict::Stale,
        }
    }

    /// Tells whether the successor is to be made, although the key may encrypt.
    pub(super) fn is_due(&self, policy: &CryptoPolicy, now: i64) -> bool {
        now >= self.due || policy.is_nearly_spent(self.wraps().get())
    }

    /// Tells whether the key or its parent was revoked or is too old.
    pub(super) fn is_invalid(&self, now: i64) -> bool {
        self.is_revoked() || now > self.expires
    }

    /// Returns how long ago the rows of the key and its parent were seen, by the older of the two.
    pub(super) fn freshness(&self, policy: &CryptoPolicy, now: i64) -> Freshness {
        let own = self.status.checks().freshness(policy, now);
        let parent = self.parent.as_ref().map_or(own, |parent| parent.checks().freshness(policy, now));
        match (own, parent) {
            (Freshness::Stale, _) | (_, Freshness::Stale) => Freshness::Stale,
            (Freshness::Aging, _) | (_, Freshness::Aging) => Freshness::Aging,
            _ => Freshness::Fresh,
        }
    }

    /// Returns when the rows of the key and its parent were last seen, the earlier of the two, in Unix milliseconds.
    pub(super) fn checked(&self) -> i64 {
        let own = self.status.checks().checked();
        self.parent.as_ref().map_or(own, |parent| own.min(parent.checks().checked()))
    }

    fn is_revoked(&self) -> bool {
        self.status.is_revoked() || self.parent.as_ref().is_some_and(|parent| parent.is_revoked())
    }

    /// Tells whether the key was used since the last call.
    pub(super) fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }
}
