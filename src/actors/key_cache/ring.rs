//! What the key cache publishes and callers read: the versions of one key. No message, no shared write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cached_key::{CachedKey, Claim, Verdict};
use super::checks::Checks;
use super::sync::{ArcSwap, ArcSwapOption};
use crate::ids::KeyId;
use crate::policy::{CryptoPolicy, Freshness};

/// Which version of a key is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wanted {
    /// The newest one, valid for encrypting.
    Latest,
    /// The newest one, and its successor if that is to be made by now.
    Ahead,
    /// A new one.
    Rotated,
    /// The one created then (Unix seconds), whatever its state.
    Exact(i64),
    /// The one created then, its row seen lately enough to say whether it is valid.
    Checked(i64),
    /// The one created then, some row of its key seen lately enough to say that the key was not destroyed.
    Confirmed(i64),
}

impl Wanted {
    /// Tells whether this is about what is to encrypt from now on.
    pub(super) fn is_newest(self) -> bool {
        matches!(self, Self::Latest | Self::Ahead | Self::Rotated)
    }

    /// Returns what one load serves alike: what looks at the same row.
    pub(super) fn load(self) -> Self {
        match self {
            Self::Ahead => Self::Latest,
            Self::Checked(created) | Self::Confirmed(created) => Self::Exact(created),
            other => other,
        }
    }
}

/// The loaded versions of one key id.
#[derive(Debug)]
pub(crate) struct KeyRing {
    id: KeyId,
    /// Tells rings of one id apart, which sessions with caches of their own have.
    serial: u64,
    latest: ArcSwapOption<CachedKey>,
    versions: ArcSwap<Vec<Arc<CachedKey>>>,
    /// When any row of the key was seen; all rows of a destroyed key are gone.
    checks: Checks,
}

impl KeyRing {
    /// Creates an empty ring.
    pub(super) fn new(id: KeyId) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        // As good as random among rings, and spread evenly among those made one after the other.
        let jitter = (serial.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        let checks = Checks::new(i64::MIN, jitter);
        Self { id, serial, latest: ArcSwapOption::empty(), versions: ArcSwap::default(), checks }
    }

    pub(crate) fn id(&self) -> &KeyId {
        &self.id
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// Tells the first caller, and no other for a while, that it should see whether the key was destroyed.
    pub(crate) fn claim(&self, now: i64) -> Option<Claim<'_>> {
        Claim::of(&self.checks, now)
    }

    /// Returns when the key was last seen not to be destroyed.
    pub(super) fn checks(&self) -> &Checks {
        &self.checks
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
            verdict @ (Verdict::Usable | Verdict::Aging | Verdict::Overdue) => Some(work(key, verdict)),
            Verdict::Stale | Verdict::Invalid => None,
        }
    }

    /// Returns the newest version, whatever its state.
    pub(super) fn latest(&self) -> Option<Arc<CachedKey>> {
        self.latest.load_full()
    }

    /// Lends the version created at `created` to `work`, if it is loaded.
    pub(crate) fn with_version<R>(&self, created: i64, work: impl FnOnce(&Arc<CachedKey>) -> R) -> Option<R> {
        self.versions.load().iter().find(|key| key.meta().created == created).map(work)
    }

    /// Lends the version created at `created` to `work`, if it is loaded and need not be looked for in the store first, at
    /// `now` in Unix milliseconds; `true` asks for that to be done soon.
    pub(crate) fn with_confirmed<R>(
        &self,
        created: i64,
        policy: &CryptoPolicy,
        now: i64,
        work: impl FnOnce(&Arc<CachedKey>, bool) -> R,
    ) -> Option<R> {
        let freshness = self.checks.freshness(policy, now);
        // Decrypting waits once for a store that does not answer, and from then on looks beside it.
        if freshness == Freshness::Stale && !self.checks.is_failing(now) {
            return None;
        }
        self.with_version(created, |key| work(key, freshness != Freshness::Fresh))
    }

    pub(super) fn find(&self, wanted: Wanted, policy: &CryptoPolicy, now: i64) -> Option<Arc<CachedKey>> {
        match wanted {
            Wanted::Latest => self.with_latest(policy, now, |key, _| Arc::clone(key)),
            Wanted::Ahead => self
                .with_latest(policy, now, |key, verdict| (verdict == Verdict::Usable).then(|| Arc::clone(key)))
                .flatten(),
            Wanted::Rotated => None,
            Wanted::Exact(created) => self.with_version(created, Arc::clone),
            Wanted::Confirmed(created) => self
                .with_version(created, Arc::clone)
                .filter(|_| self.checks.freshness(policy, now) == Freshness::Fresh),
            // What is invalid stays so; what is valid must have been looked at lately.
            Wanted::Checked(created) => self
                .with_version(created, Arc::clone)
                .filter(|key| key.is_invalid(now) || key.freshness(policy, now) == Freshness::Fresh),
        }
    }

    /// Publishes a version: as the newest one in place of what was known of it, and else if nothing was.
    pub(super) fn publish(&self, key: &Arc<CachedKey>, is_newest: bool) {
        let created = key.meta().created;
        self.versions.rcu(|versions| {
            if !is_newest && versions.iter().any(|known| known.meta().created == created) {
                return versions.to_vec();
            }
            let others = versions.iter().filter(|other| other.meta().created != created).cloned();
            others.chain([Arc::clone(key)]).collect::<Vec<_>>()
        });
        if is_newest {
            self.latest.store(Some(Arc::clone(key)));
        }
    }

    /// Has the newest version looked for in the store before it encrypts again, if it is older than `created`.
    pub(super) fn outdate(&self, created: i64) {
        self.take_latest_if(|latest| latest < created);
    }

    /// Forgets the version created at `created`.
    pub(super) fn withdraw(&self, created: i64) {
        self.versions
            .rcu(|versions| versions.iter().filter(|key| key.meta().created != created).cloned().collect::<Vec<_>>());
        self.take_latest_if(|latest| latest == created);
    }

    /// Has no newest version if the one there is was created then; another that is published meanwhile stays.
    fn take_latest_if(&self, created: impl Fn(i64) -> bool) {
        let latest = self.latest.load();
        if latest.as_ref().is_some_and(|key| created(key.meta().created)) {
            self.latest.compare_and_swap(&*latest, None);
        }
    }

    pub(super) fn clear(&self) {
        self.latest.store(None);
        self.versions.store(Arc::default());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.versions.load().is_empty()
    }

    pub(super) fn versions(&self) -> Arc<Vec<Arc<CachedKey>>> {
        self.versions.load_full()
    }
}
