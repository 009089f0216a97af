//! A bounded map that tells of every departure exactly once.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroUsize;

use hashbrown::HashTable;

use super::choice::EvictionPolicy;
use super::list::{Links, List, Place};
use super::order::Order;

/// How many entries that turn out to have been used one eviction passes over; the next one leaves all the same.
const SPARED: usize = 32;

/// What a cache must know of its values. Users of a value need not tell the cache of every use.
pub(crate) trait Cached {
    /// Tells whether the value was used since the last call without the cache being told.
    fn take_used(&self) -> bool {
        false
    }

    /// Returns when the value was used last, for caches whose entries have a time to live.
    fn last_used(&self) -> i64 {
        i64::MIN
    }
}

/// Why an entry left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    /// The cache was full.
    Evicted,
    /// It was not used for longer than its time to live.
    Expired,
    /// Another value took its place.
    Replaced,
    /// It was taken out, alone or with all others.
    Removed,
    /// The cache was dropped.
    Dropped,
}

/// What hears of departures.
type Departed<K, V> = Box<dyn FnMut(K, V, Departure) + Send>;

/// A map of at most `capacity` entries. Every operation is O(1), clearing and [`sweep`](Self::sweep) for each entry that
/// leaves.
///
/// Keys are hashed with a keyed hash, so chosen keys do not collide on purpose. Times are milliseconds of any one clock.
pub(crate) struct Cache<K, V: Cached> {
    capacity: usize,
    entries: Vec<Option<Entry<K, V>>>,
    /// Places of `entries` that hold none.
    free: Vec<Place>,
    places: HashTable<Place>,
    hasher: RandomState,
    order: Box<dyn Order>,
    ages: Option<Ages>,
    departed: Departed<K, V>,
}

struct Entry<K, V> {
    key: K,
    value: V,
    hash: u64,
    /// When it was stored or used last, as far as the cache was told.
    used: i64,
}

/// Entries in the order in which the cache heard of their last use.
struct Ages {
    time_to_live: i64,
    links: Links,
    entries: List,
}

impl<K: Hash + Eq, V: Cached> Cache<K, V> {
    /// Makes an empty cache; `departed` is called for every entry that leaves it, however it does.
    pub(crate) fn new(
        policy: EvictionPolicy,
        capacity: NonZeroUsize,
        departed: impl FnMut(K, V, Departure) + Send + 'static,
    ) -> Self {
        Self {
            capacity: capacity.get(),
            entries: Vec::new(),
            free: Vec::new(),
            places: HashTable::new(),
            hasher: RandomState::new(),
            order: policy.order(capacity),
            ages: None,
            departed: Box::new(departed),
        }
    }

    /// Lets entries leave when they were not used for more than `milliseconds`.
    pub(crate) fn with_time_to_live(mut self, milliseconds: i64) -> Self {
        self.ages = Some(Ages { time_to_live: milliseconds, links: Links::default(), entries: List::default() });
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Returns the value of `key` and counts that as a use; an outdated one leaves instead.
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, now: i64) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let place = self.find(self.hasher.hash_one(key), key)?;
        if self.is_outdated(place, now) {
            self.depart(place, Departure::Expired);
            return None;
        }
        self.order.access(place);
        self.renew(place, now);
        self.entries[place as usize].as_ref().map(|entry| &entry.value)
    }

    /// Stores `value`, at the expense of the value that `key` had, or of another entry when the cache is full.
    ///
    /// An entry that was used without the cache being told is passed over once.
    pub(crate) fn insert(&mut self, key: K, value: V, now: i64) {
        let hash = self.hasher.hash_one(&key);
        if let Some(place) = self.find(hash, &key) {
            self.order.access(place);
            self.renew(place, now);
            if let Some(entry) = &mut self.entries[place as usize] {
                let replaced = std::mem::replace(&mut entry.value, value);
                (self.departed)(key, replaced, Departure::Replaced);
            }
            return;
        }
        if self.len() == self.capacity {
            self.evict();
        }
        let entry = Some(Entry { key, value, hash, used: now });
        let place = match self.free.pop() {
            Some(place) => {
                self.entries[place as usize] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                Place::try_from(self.entries.len() - 1).expect("a cache has fewer than 2^32 entries")
            }
        };
        let entries = &self.entries;
        self.places.insert_unique(hash, place, |&place| hash_at(entries, place));
        self.order.admit(place, hash);
        if let Some(ages) = &mut self.ages {
            ages.entries.push(&mut ages.links, place);
        }
    }

    /// Takes an entry out and tells whether it was there.
    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let place = self.find(self.hasher.hash_one(key), key);
        place.map(|place| self.depart(place, Departure::Removed)).is_some()
    }

    /// Lets the entries leave that were not used for longer than their time to live.
    ///
    /// One that was used without the cache being told may be found later than it could be, by its time to live at most.
    pub(crate) fn sweep(&mut self, now: i64) {
        while let Some(place) = self.ages.as_ref().and_then(|ages| ages.entries.oldest()) {
            if self.is_outdated(place, now) {
                self.depart(place, Departure::Expired);
                continue;
            }
            let told = self.entries[place as usize].as_ref().map_or(now, |entry| entry.used);
            let last = self.entries[place as usize].as_ref().map_or(now, |entry| entry.value.last_used());
            if last <= told {
                return;
            }
            // Goes on with the next oldest: every turn takes note of one use that was not told.
            self.renew(place, last);
        }
    }

    /// Takes all entries out.
    pub(crate) fn clear(&mut self) {
        for place in 0..self.entries.len() {
            if self.entries[place].is_some() {
                self.depart(Place::try_from(place).expect("a cache has fewer than 2^32 entries"), Departure::Removed);
            }
        }
    }

    /// Returns all entries in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().flatten().map(|entry| (&entry.key, &entry.value))
    }

    fn find<Q: Eq + ?Sized>(&self, hash: u64, key: &Q) -> Option<Place>
    where
        K: Borrow<Q>,
    {
        let is_it = |&place: &Place| {
            self.entries[place as usize].as_ref().is_some_and(|entry| entry.hash == hash && entry.key.borrow() == key)
        };
        self.places.find(hash, is_it).copied()
    }

    fn evict(&mut self) {
        let Some(mut place) = self.order.candidate() else { return };
        for _ in 0..SPARED {
            if !self.entries[place as usize].as_ref().is_some_and(|entry| entry.value.take_used()) {
                break;
            }
            self.order.access(place);
            place = self.order.candidate().unwrap_or(place);
        }
        self.depart(place, Departure::Evicted);
    }

    fn depart(&mut self, place: Place, why: Departure) {
        let Some(entry) = self.entries[place as usize].take() else { return };
        if let Ok(found) = self.places.find_entry(entry.hash, |&other| other == place) {
            found.remove();
        }
        match why {
            Departure::Evicted => self.order.evict(place),
            _ => self.order.remove(place),
        }
        if let Some(ages) = &mut self.ages {
            ages.entries.remove(&mut ages.links, place);
        }
        self.free.push(place);
        (self.departed)(entry.key, entry.value, why);
    }

    fn is_outdated(&self, place: Place, now: i64) -> bool {
        let (Some(ages), Some(entry)) = (&self.ages, &self.entries[place as usize]) else { return false };
        now.saturating_sub(entry.used.max(entry.value.last_used())) > ages.time_to_live
    }

    fn renew(&mut self, place: Place, now: i64) {
        if let Some(entry) = &mut self.entries[place as usize] {
            entry.used = now;
        }
        if let Some(ages) = &mut self.ages {
            ages.entries.renew(&mut ages.links, place);
        }
    }

    /// How many entries the largest of all internal maps and lists holds.
    #[cfg(test)]
    pub(super) fn largest(&self) -> usize {
        assert_eq!(self.entries.len(), self.free.len() + self.len());
        let ages = self.ages.as_ref().map_or(0, |ages| ages.entries.len());
        self.entries.len().max(self.order.largest()).max(ages)
    }
}

impl<K, V: Cached> Drop for Cache<K, V> {
    fn drop(&mut self) {
        for entry in self.entries.drain(..).flatten() {
            (self.departed)(entry.key, entry.value, Departure::Dropped);
        }
    }
}

fn hash_at<K, V>(entries: &[Option<Entry<K, V>>], place: Place) -> u64 {
    entries[place as usize].as_ref().map_or(0, |entry| entry.hash)
}
