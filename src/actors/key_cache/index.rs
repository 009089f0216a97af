//! All rings: those that sessions share, by key id, and those that sessions have to themselves.

use std::ops::Deref;
use std::sync::{Arc, Weak};

use dashmap::DashMap;

use super::cached_key::CachedKey;
use super::ring::KeyRing;
use crate::ids::{KeyId, KeyMeta};

/// Finds rings.
#[derive(Debug, Default)]
pub(crate) struct KeyIndex {
    shared: DashMap<KeyId, Arc<KeyRing>>,
    own: DashMap<u64, Weak<KeyRing>>,
}

impl KeyIndex {
    /// Returns the ring of `id` that all share, an empty one if nothing is loaded.
    pub(crate) fn ring(&self, id: &KeyId) -> Arc<KeyRing> {
        if let Some(ring) = self.shared.get(id) {
            return Arc::clone(&ring);
        }
        Arc::clone(&self.shared.entry(id.clone()).or_insert_with(|| Arc::new(KeyRing::new(id.clone()))))
    }

    /// Returns the ring of `id` that all share, to be given back when that is dropped.
    pub(crate) fn lend(self: &Arc<Self>, id: &KeyId) -> LentRing {
        LentRing { ring: Some(self.ring(id)), index: Arc::clone(self) }
    }

    /// Makes a ring of `id` for one session.
    pub(crate) fn own_ring(&self, id: &KeyId) -> Arc<KeyRing> {
        let ring = Arc::new(KeyRing::new(id.clone()));
        self.own.insert(ring.serial(), Arc::downgrade(&ring));
        ring
    }

    /// Gives a ring back; it leaves the index when nobody else holds it and, if it is shared, nothing is loaded.
    pub(crate) fn release(&self, ring: Arc<KeyRing>) {
        let (id, serial) = (ring.id().clone(), ring.serial());
        drop(ring);
        if self.own.remove_if(&serial, |_, ring| ring.strong_count() == 0).is_none() {
            self.shared.remove_if(&id, |_, ring| Arc::strong_count(ring) == 1 && ring.is_empty());
        }
    }

    /// Forgets rings that were given back while somebody else looked at them.
    pub(super) fn sweep(&self) {
        self.own.retain(|_, ring| ring.strong_count() > 0);
        self.shared.retain(|_, ring| Arc::strong_count(ring) > 1 || !ring.is_empty());
    }

    pub(super) fn all(&self) -> Vec<Arc<KeyRing>> {
        let shared = self.shared.iter().map(|entry| Arc::clone(entry.value()));
        shared.chain(self.own.iter().filter_map(|entry| entry.value().upgrade())).collect()
    }

    /// Has a version encrypt no more, in whatever ring, and nothing that is under it.
    pub(super) fn revoke(&self, key: &KeyMeta) {
        for ring in self.all() {
            for cached in ring.versions().iter().chain(&ring.latest()) {
                for status in std::iter::once(cached.status()).chain(cached.parent()) {
                    if status.meta() == key {
                        status.revoke();
                    }
                }
            }
            self.release(ring);
        }
    }

    /// Returns all rings of one id.
    pub(super) fn of(&self, id: &KeyId) -> Vec<Arc<KeyRing>> {
        let mut rings = self.all();
        rings.retain(|ring| ring.id() == id);
        rings
    }

    /// Returns how many ids and how many versions are known, and how many of the newest ones `is_it` is true of.
    pub(super) fn size(&self, is_it: impl Fn(&CachedKey) -> bool) -> (usize, usize, usize) {
        let (mut versions, mut newest) = (0, 0);
        let mut count = |ring: &KeyRing| {
            versions += ring.versions().len();
            newest += usize::from(ring.latest().is_some_and(|key| is_it(&key)));
        };
        // Without holding a ring beyond its turn: whoever gives one back meanwhile waits, and does not leave it.
        self.shared.iter().for_each(|entry| count(entry.value()));
        self.own.iter().filter_map(|entry| entry.value().upgrade()).for_each(|ring| count(&ring));
        (self.shared.len() + self.own.len(), versions, newest)
    }
}

/// A ring that goes back to the index when it is dropped.
pub(crate) struct LentRing {
    /// Present until drop.
    ring: Option<Arc<KeyRing>>,
    index: Arc<KeyIndex>,
}

impl Deref for LentRing {
    type Target = Arc<KeyRing>;

    fn deref(&self) -> &Arc<KeyRing> {
        self.ring.as_ref().expect("present until drop")
    }
}

impl Drop for LentRing {
    fn drop(&mut self) {
        if let Some(ring) = self.ring.take() {
            self.index.release(ring);
        }
    }
}
