//! What was once found to be revoked or destroyed stays so, whatever a lagging store says later.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use super::cached_key::CachedKey;
use crate::cache::{Cache, Cached, EvictionPolicy};
use crate::ids::{KeyId, KeyMeta};

/// How many keys of each sort are remembered; of more, the store alone knows.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Revoked versions and destroyed keys, of the latest that were heard of.
pub(crate) struct Outlawed {
    revoked: Mutex<Cache<KeyMeta, Noted>>,
    shredded: Mutex<Cache<KeyId, Noted>>,
}

struct Noted;

impl Cached for Noted {}

impl Default for Outlawed {
    fn default() -> Self {
        Self { revoked: Mutex::new(set()), shredded: Mutex::new(set()) }
    }
}

impl Outlawed {
    /// Takes note of a revocation and tells whether it is news.
    pub(super) fn revoke(&self, key: &KeyMeta) -> bool {
        note(&self.revoked, key)
    }

    pub(super) fn is_revoked(&self, key: &KeyMeta) -> bool {
        has(&self.revoked, key)
    }

    /// Has a key that was found while it, or its parent, was revoked know that.
    pub(super) fn tell(&self, key: &CachedKey) {
        for status in std::iter::once(key.status()).chain(key.parent()) {
            if self.is_revoked(status.meta()) {
                status.revoke();
            }
        }
    }

    /// Takes note that all keys of an id were destroyed and tells whether it is news.
    pub(super) fn shred(&self, id: &KeyId) -> bool {
        note(&self.shredded, id)
    }

    pub(super) fn is_shredded(&self, id: &KeyId) -> bool {
        has(&self.shredded, id)
    }
}

fn set<K: std::hash::Hash + Eq>() -> Cache<K, Noted> {
    Cache::new(EvictionPolicy::Lru, REMEMBERED, |_, _, _| ())
}

fn note<K: std::hash::Hash + Eq + Clone>(set: &Mutex<Cache<K, Noted>>, key: &K) -> bool {
    let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
    let is_news = set.get(key, 0).is_none();
    if is_news {
        set.insert(key.clone(), Noted, 0);
    }
    is_news
}

fn has<K: std::hash::Hash + Eq>(set: &Mutex<Cache<K, Noted>>, key: &K) -> bool {
    set.lock().unwrap_or_else(PoisonError::into_inner).get(key, 0).is_some()
}
