//! Least recently used, with a second chance for entries whose users do not report every use.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroUsize;

/// No entry.
const NONE: usize = usize::MAX;

/// A bounded map that knows which entry was used least recently. Every operation is O(1).
///
/// Keys are hashed with a keyed hash, so chosen keys do not collide on purpose.
pub(crate) struct Lru<K, V> {
    capacity: NonZeroUsize,
    places: HashMap<K, usize>,
    entries: Vec<Entry<K, V>>,
    /// Most recently used.
    head: usize,
    /// Least recently used.
    tail: usize,
}

struct Entry<K, V> {
    key: K,
    value: V,
    newer: usize,
    older: usize,
}

impl<K: Hash + Eq + Clone, V> Lru<K, V> {
    pub(crate) fn new(capacity: NonZeroUsize) -> Self {
        Self { capacity, places: HashMap::new(), entries: Vec::new(), head: NONE, tail: NONE }
    }

    /// Inserts or replaces the value of `key`, making it the most recently used, and returns the entry that departs:
    /// the one replaced, or the least recently used one of a full map.
    ///
    /// `was_used` may spare a candidate once by saying that it was used without anyone telling; the entry found when
    /// all are spared departs all the same.
    pub(crate) fn insert(&mut self, key: K, value: V, mut was_used: impl FnMut(&K, &V) -> bool) -> Option<(K, V)> {
        if let Some(&place) = self.places.get(&key) {
            self.detach(place);
            self.attach_newest(place);
            return Some((key, std::mem::replace(&mut self.entries[place].value, value)));
        }
        let departed = if self.entries.len() == self.capacity.get() {
            for _ in 0..self.entries.len() {
                let candidate = self.tail;
                if !was_used(&self.entries[candidate].key, &self.entries[candidate].value) {
                    break;
                }
                self.detach(candidate);
                self.attach_newest(candidate);
            }
            self.take(self.tail)
        } else {
            None
        };
        let place = self.entries.len();
        self.places.insert(key.clone(), place);
        self.entries.push(Entry { key, value, newer: NONE, older: NONE });
        self.attach_newest(place);
        departed
    }

    /// Removes and returns the least recently used entry if it satisfies `condition`.
    pub(crate) fn pop_oldest_if(&mut self, condition: impl FnOnce(&V) -> bool) -> Option<(K, V)> {
        let oldest = self.entries.get(self.tail)?;
        if condition(&oldest.value) { self.take(self.tail) } else { None }
    }

    /// Takes an entry out and moves the last one of the vector to its place.
    fn take(&mut self, place: usize) -> Option<(K, V)> {
        self.detach(place);
        let entry = self.entries.swap_remove(place);
        self.places.remove(&entry.key);
        if let Some(moved) = self.entries.get(place) {
            let (newer, older) = (moved.newer, moved.older);
            self.places.insert(moved.key.clone(), place);
            *self.link_from_newer(newer) = place;
            *self.link_from_older(older) = place;
        }
        Some((entry.key, entry.value))
    }

    fn detach(&mut self, place: usize) {
        let (newer, older) = (self.entries[place].newer, self.entries[place].older);
        *self.link_from_newer(newer) = older;
        *self.link_from_older(older) = newer;
    }

    fn attach_newest(&mut self, place: usize) {
        let head = self.head;
        self.entries[place].newer = NONE;
        self.entries[place].older = head;
        *self.link_from_older(head) = place;
        self.head = place;
    }

    /// What points from `newer`, or from the head, to the next older entry.
    fn link_from_newer(&mut self, newer: usize) -> &mut usize {
        if newer == NONE { &mut self.head } else { &mut self.entries[newer].older }
    }

    /// What points from `older`, or from the tail, to the next newer entry.
    fn link_from_older(&mut self, older: usize) -> &mut usize {
        if older == NONE { &mut self.tail } else { &mut self.entries[older].newer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lru(capacity: usize) -> Lru<u32, u32> {
        Lru::new(NonZeroUsize::new(capacity).unwrap())
    }

    #[test]
    fn the_least_recently_used_departs_unless_it_was_used_silently() {
        let mut cache = lru(2);
        assert_eq!(cache.insert(1, 10, |_, _| false), None);
        assert_eq!(cache.insert(2, 20, |_, _| false), None);
        assert_eq!(cache.insert(1, 11, |_, _| false), Some((1, 10)));
        assert_eq!(cache.insert(3, 30, |_, _| false), Some((2, 20)));
        assert_eq!(cache.insert(4, 40, |key, _| *key == 1), Some((3, 30)));
        assert_eq!(cache.insert(5, 50, |_, _| true), Some((1, 11)), "sparing everyone spares nobody");
        assert_eq!(cache.pop_oldest_if(|&value| value == 40), Some((4, 40)));
        assert_eq!(cache.pop_oldest_if(|_| false), None);
        assert_eq!(cache.pop_oldest_if(|_| true), Some((5, 50)));
        assert!(cache.entries.is_empty());
    }

    proptest! {
        #[test]
        fn every_insert_is_matched_by_one_departure_and_the_bound_holds(
            capacity in 1_usize..=200,
            steps in proptest::collection::vec((0_u32..300, 0_u8..4, any::<bool>()), 1..400),
        ) {
            let mut cache = lru(capacity);
            let mut model: Vec<u32> = Vec::new(); // oldest first
            for (step, (key, action, used)) in steps.into_iter().enumerate() {
                let value = u32::try_from(step).unwrap();
                if action == 0 {
                    let oldest = (!model.is_empty()).then(|| model.remove(0));
                    prop_assert_eq!(cache.pop_oldest_if(|_| true).map(|(k, _)| k), oldest);
                } else {
                    let departed = cache.insert(key, value, |k, _| used && *k < 150).map(|(k, _)| k);
                    let expected = if let Some(position) = model.iter().position(|&k| k == key) {
                        Some(model.remove(position))
                    } else if model.len() == capacity {
                        for _ in 0..model.len() {
                            if !(used && model[0] < 150) {
                                break;
                            }
                            model.rotate_left(1);
                        }
                        Some(model.remove(0))
                    } else {
                        None
                    };
                    prop_assert_eq!(departed, expected);
                    model.push(key);
                }
                prop_assert!(cache.entries.len() == model.len() && cache.places.len() == model.len());
                prop_assert!(model.len() <= capacity);
            }
            for key in model {
                prop_assert_eq!(cache.pop_oldest_if(|_| true).map(|(k, _)| k), Some(key));
            }
            prop_assert!(cache.entries.is_empty());
        }
    }
}
