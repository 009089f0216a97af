//! Which versions are cached, so that there are never too many.

use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};

use super::cached_key::CachedKey;
use super::index::KeyIndex;
use super::ring::KeyRing;
use crate::cache::{Cache, Cached, Departure, EvictionPolicy};
use crate::metrics::CacheMeters;

/// A version, by its ring and when it was created.
type Place = (u64, i64);

/// The versions of one kind; what leaves is withdrawn from its ring.
pub(super) struct Versions {
    cache: Cache<Place, Version>,
    meters: CacheMeters,
}

struct Version {
    ring: Weak<KeyRing>,
    created: i64,
}

impl Version {
    fn key(&self) -> Option<Arc<CachedKey>> {
        self.ring.upgrade()?.with_version(self.created, Arc::clone)
    }
}

impl Cached for Version {
    fn take_used(&self) -> bool {
        let ring = self.ring.upgrade();
        ring.and_then(|ring| ring.with_version(self.created, |key| key.take_touched())).unwrap_or(false)
    }
}

impl Versions {
    pub(super) fn new(policy: EvictionPolicy, size: usize, index: Arc<KeyIndex>, meters: CacheMeters) -> Self {
        let size = NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN);
        let evictions = meters.evictions.clone();
        let cache = Cache::new(policy, size, move |_, version: Version, why| {
            match why {
                Departure::Evicted => evictions.increment(1),
                // The version is there still, or the cache was dropped with a component that is started again.
                Departure::Replaced | Departure::Dropped => return,
                Departure::Expired | Departure::Removed => {}
            }
            if let Some(ring) = version.ring.upgrade() {
                ring.withdraw(version.created);
                index.release(ring);
            }
        });
        Self { cache, meters }
    }

    /// Notes that a version is cached, at the expense of another if there are too many.
    pub(super) fn remember(&mut self, ring: &Arc<KeyRing>, key: &CachedKey) {
        let created = key.meta().created;
        self.cache.insert((ring.serial(), created), Version { ring: Arc::downgrade(ring), created }, 0);
        self.publish_size();
    }

    /// Withdraws one version of a ring.
    pub(super) fn forget(&mut self, ring: &KeyRing, created: i64) {
        self.cache.remove(&(ring.serial(), created));
        self.publish_size();
    }

    /// Withdraws all of them.
    pub(super) fn clear(&mut self) {
        self.cache.clear();
        self.publish_size();
    }

    /// Returns the keys that are cached, those whose session is gone left out.
    pub(super) fn keys(&self) -> impl Iterator<Item = Arc<CachedKey>> {
        self.cache.iter().filter_map(|(_, version)| version.key())
    }

    /// Returns those that encrypt, one of each ring.
    pub(super) fn newest(&self) -> impl Iterator<Item = Arc<CachedKey>> {
        self.cache.iter().filter_map(|(_, version)| {
            version.ring.upgrade()?.latest().filter(|latest| latest.meta().created == version.created)
        })
    }

    fn publish_size(&self) {
        self.meters.entries.set(self.cache.len() as f64);
    }
}
