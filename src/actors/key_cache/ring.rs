//! What the key cache publishes and callers read: key versions, and verdicts on them. No message, no shared write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;

use crate::ids::{KeyId, KeyMeta};
use crate::memory::LockedKey;
use crate::policy::{CryptoPolicy, Freshness};

/// What is known of one key version's row; shared by everything that depends on it.
#[derive(Debug)]
pub(super) struct KeyStatus {
    created: i64,
    /// Once set, never cleared.
    revoked: AtomicBool,
    /// When the row was last seen, in Unix milliseconds.
    checked: AtomicI64,
    /// Spreads refreshes of keys that were loaded together.
    jitter: u8,
}

impl KeyStatus {
    pub(super) fn new(created: i64, revoked: bool, checked: i64, jitter: u8) -> Self {
        Self { created, revoked: revoked.into(), checked: checked.into(), jitter }
    }

    /// Takes note of what a row said at `checked`, in Unix milliseconds.
    pub(super) fn observe(&self, revoked: bool, checked: i64) {
        if revoked {
            self.revoked.store(true, Ordering::Release);
        }
        self.checked.store(checked, Ordering::Release);
    }

    fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    fn freshness(&self, policy: &CryptoPolicy, now: i64) -> Freshness {
        policy.freshness(self.checked.load(Ordering::Acquire), self.jitter, now)
    }
}

/// Whether a key may encrypt at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Yes.
    Usable,
    /// Yes, and its row should be looked at soon.
    Aging,
    /// Not before its row, or its parent's, was looked at.
    Stale,
    /// Never again: it or its parent is expired or revoked.
    Invalid,
}

/// One version of a key, loaded.
#[derive(Debug)]
pub(crate) struct CachedKey {
    meta: KeyMeta,
    key: Arc<LockedKey>,
    status: Arc<KeyStatus>,
    parent: Option<Arc<KeyStatus>>,
    refreshing: AtomicBool,
    touched: AtomicBool,
}

impl CachedKey {
    pub(super) fn new(
        meta: KeyMeta,
        key: Arc<LockedKey>,
        status: Arc<KeyStatus>,
        parent: Option<Arc<KeyStatus>>,
    ) -> Self {
        Self { meta, key, status, parent, refreshing: false.into(), touched: true.into() }
    }

    pub(crate) fn meta(&self) -> &KeyMeta {
        &self.meta
    }

    /// Returns the key to compute with, noting that it was used.
    pub(crate) fn key(&self) -> &Arc<LockedKey> {
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
        &self.key
    }

    pub(super) fn status(&self) -> &Arc<KeyStatus> {
        &self.status
    }

    /// Judges the key for encrypting at `now`, in Unix milliseconds. A key under an invalid system key is invalid.
    pub(crate) fn verdict(&self, policy: &CryptoPolicy, now: i64) -> Verdict {
        let mut verdict = Verdict::Usable;
        for status in std::iter::once(&self.status).chain(&self.parent) {
            if status.is_revoked() || policy.is_expired(status.created, now) {
                return Verdict::Invalid;
            }
            verdict = match (status.freshness(policy, now), verdict) {
                (Freshness::Stale, _) | (_, Verdict::Stale) => Verdict::Stale,
                (Freshness::Aging, _) => Verdict::Aging,
                (Freshness::Fresh, other) => other,
            };
        }
        verdict
    }

    /// Tells the first caller, and no other, that it should ask for a refresh.
    pub(crate) fn claim_refresh(&self) -> bool {
        !self.refreshing.load(Ordering::Relaxed) && !self.refreshing.swap(true, Ordering::Relaxed)
    }

    /// Lets the next caller ask again, when the request could not be sent.
    pub(super) fn reset_refresh(&self) {
        self.refreshing.store(false, Ordering::Relaxed);
    }

    /// Tells whether the key was used since the last call.
    pub(super) fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }
}

/// Which version of a key is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wanted {
    /// The newest one, valid for encrypting.
    Latest,
    /// The one created then (Unix seconds), whatever its state.
    Exact(i64),
    /// The one created then, its row seen lately enough to say whether it is valid.
    Checked(i64),
}

/// The loaded versions of one key id.
#[derive(Debug)]
pub(crate) struct KeyRing {
    id: KeyId,
    /// Tells rings of one id apart, which sessions with caches of their own have.
    serial: u64,
    latest: ArcSwapOption<CachedKey>,
    versions: ArcSwap<Vec<Arc<CachedKey>>>,
}

impl KeyRing {
    /// Creates an empty ring that the index does not know.
    pub(crate) fn new(id: KeyId) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Self { id, serial, latest: ArcSwapOption::empty(), versions: ArcSwap::default() }
    }

    pub(crate) fn id(&self) -> &KeyId {
        &self.id
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// Lends the newest version to `work` if it may encrypt at `now` (Unix milliseconds).
    pub(crate) fn with_latest<R>(
        &self,
        policy: &CryptoPolicy,
        now: i64,
        work: impl FnOnce(&Arc<CachedKey>, Verdict) -> R,
    ) -> Option<R> {
        let latest = self.latest.load();
        let key = latest.as_ref()?;
        match key.verdict(policy, now) {
            verdict @ (Verdict::Usable | Verdict::Aging) => Some(work(key, verdict)),
            Verdict::Stale | Verdict::Invalid => None,
        }
    }

    /// Lends the version created at `created` to `work`, if it is loaded.
    pub(crate) fn with_version<R>(&self, created: i64, work: impl FnOnce(&Arc<CachedKey>) -> R) -> Option<R> {
        self.versions.load().iter().find(|key| key.meta.created == created).map(work)
    }

    pub(super) fn find(&self, wanted: Wanted, policy: &CryptoPolicy, now: i64) -> Option<Arc<CachedKey>> {
        match wanted {
            Wanted::Latest => self.with_latest(policy, now, |key, _| Arc::clone(key)),
            Wanted::Exact(created) => self.with_version(created, Arc::clone),
            // What is invalid stays so; what is valid must have been looked at lately.
            Wanted::Checked(created) => self
                .with_version(created, Arc::clone)
                .filter(|key| matches!(key.verdict(policy, now), Verdict::Invalid | Verdict::Usable)),
        }
    }

    /// Publishes a version in place of what was known of it; as the newest one too, if it is that.
    pub(super) fn publish(&self, key: &Arc<CachedKey>, latest: bool) {
        let created = key.meta.created;
        self.versions.rcu(|versions| {
            let others = versions.iter().filter(|other| other.meta.created != created).cloned();
            others.chain([Arc::clone(key)]).collect::<Vec<_>>()
        });
        if latest {
            self.latest.store(Some(Arc::clone(key)));
        }
    }

    /// Forgets the version created at `created`.
    pub(super) fn withdraw(&self, created: i64) {
        self.versions
            .rcu(|versions| versions.iter().filter(|key| key.meta.created != created).cloned().collect::<Vec<_>>());
        if self.latest.load().as_ref().is_some_and(|key| key.meta.created == created) {
            self.latest.store(None);
        }
    }

    pub(super) fn clear(&self) {
        self.latest.store(None);
        self.versions.store(Arc::default());
    }

    pub(super) fn versions(&self) -> Arc<Vec<Arc<CachedKey>>> {
        self.versions.load_full()
    }
}

/// All rings that sessions share, by key id.
#[derive(Debug, Default)]
pub(crate) struct KeyIndex {
    rings: DashMap<KeyId, Arc<KeyRing>>,
}

impl KeyIndex {
    /// Returns the ring of `id`, an empty one if nothing is loaded.
    pub(crate) fn ring(&self, id: &KeyId) -> Arc<KeyRing> {
        if let Some(ring) = self.rings.get(id) {
            return Arc::clone(&ring);
        }
        Arc::clone(&self.rings.entry(id.clone()).or_insert_with(|| Arc::new(KeyRing::new(id.clone()))))
    }

    /// Gives a ring back; it leaves the index when it is empty and nobody else holds it.
    pub(crate) fn release(&self, ring: Arc<KeyRing>) {
        let id = ring.id.clone();
        drop(ring);
        self.rings.remove_if(&id, |_, ring| Arc::strong_count(ring) == 1 && ring.versions.load().is_empty());
    }

    pub(super) fn all(&self) -> Vec<Arc<KeyRing>> {
        self.rings.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    /// Returns how many ids and how many versions are known.
    pub(super) fn size(&self) -> (usize, usize) {
        let versions = self.rings.iter().map(|entry| entry.versions.load().len()).sum();
        (self.rings.len(), versions)
    }
}
