//! What is compared: five policies of ours and two crates, used alike. Keys and values are numbers of 64 bits.

use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use quick_cache::UnitWeighter;
use quick_cache::sync::DefaultLifecycle;

use crate::cache::{Cache, Cached, EvictionPolicy};

pub(crate) const POLICIES: [EvictionPolicy; 5] =
    [EvictionPolicy::Lru, EvictionPolicy::Lfu, EvictionPolicy::Slru, EvictionPolicy::TinyLfu, EvictionPolicy::S3Fifo];

/// A value that is used by no other way than through its cache.
pub(crate) struct Value(u64);

impl Cached for Value {}

/// A cache that one thread uses.
pub(crate) trait Contestant {
    fn get(&mut self, key: u64) -> Option<u64>;

    fn insert(&mut self, key: u64);

    /// Does what the cache put off.
    fn settle(&mut self) {}
}

/// Looks `key` up and puts it there if it is not.
#[inline]
pub(crate) fn use_once(contestant: &mut impl Contestant, key: u64) -> bool {
    let hit = contestant.get(key).is_some();
    if !hit {
        contestant.insert(key);
    }
    hit
}

pub(crate) struct Ours(Cache<u64, Value>);

impl Ours {
    pub(crate) fn new(policy: EvictionPolicy, capacity: usize) -> Self {
        let capacity = NonZeroUsize::new(capacity).expect("no capacity here is zero");
        Self(Cache::new(policy, capacity, |_, _, _| ()))
    }
}

impl Contestant for Ours {
    fn get(&mut self, key: u64) -> Option<u64> {
        self.0.get(&key, 0).map(|value| value.0)
    }

    fn insert(&mut self, key: u64) {
        self.0.insert(key, Value(key), 0);
    }
}

/// One of ours behind a lock, for threads to share. A poisoned lock ends the run by the panic that poisoned it.
pub(crate) struct Locked(Mutex<Ours>);

impl Locked {
    pub(crate) fn new(policy: EvictionPolicy, capacity: usize) -> Self {
        Self(Mutex::new(Ours::new(policy, capacity)))
    }
}

impl Contestant for &Locked {
    fn get(&mut self, key: u64) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key)
    }

    fn insert(&mut self, key: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }
}

pub(crate) type Moka = moka::sync::Cache<u64, u64>;

pub(crate) fn moka(capacity: usize) -> Moka {
    Moka::new(capacity as u64)
}

impl Contestant for &Moka {
    fn get(&mut self, key: u64) -> Option<u64> {
        Moka::get(self, &key)
    }

    fn insert(&mut self, key: u64) {
        Moka::insert(self, key, key);
    }

    fn settle(&mut self) {
        self.run_pending_tasks();
    }
}

/// With the hash that it comes with, or another one.
pub(crate) type Quick<H = quick_cache::DefaultHashBuilder> = quick_cache::sync::Cache<u64, u64, UnitWeighter, H>;

pub(crate) fn quick<H: BuildHasher + Clone + Default>(capacity: usize) -> Quick<H> {
    Quick::with(capacity, capacity as u64, UnitWeighter, H::default(), DefaultLifecycle::default())
}

impl<H: BuildHasher + Clone> Contestant for &Quick<H> {
    fn get(&mut self, key: u64) -> Option<u64> {
        Quick::get(self, &key)
    }

    fn insert(&mut self, key: u64) {
        Quick::insert(self, key, key);
    }
}
