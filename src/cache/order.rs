//! What every eviction policy is to a cache.

use super::list::Place;

/// The order in which the entries of a full cache leave.
///
/// The cache tells of each place once when it is filled ([`admit`](Self::admit)) and once when it is emptied
/// ([`evict`](Self::evict) or [`remove`](Self::remove)); in between of every use that it hears of. Places are small
/// numbers and are used again; a hash is that of the key, from a keyed function.
pub(super) trait Order: Send {
    /// Takes note of a new entry.
    fn admit(&mut self, place: Place, hash: u64);

    /// Takes note of a use.
    fn access(&mut self, place: Place);

    /// Returns the entry that is to leave next, or `None` when there are none.
    ///
    /// The cache may call [`access`](Self::access) on it, when it turns out to have been used, and ask again.
    fn candidate(&mut self) -> Option<Place>;

    /// Forgets an entry that leaves because the cache is full.
    fn evict(&mut self, place: Place) {
        self.remove(place);
    }

    /// Forgets an entry that leaves for another reason.
    fn remove(&mut self, place: Place);

    /// How many entries the largest of the policy's maps and lists holds.
    #[cfg(test)]
    fn largest(&self) -> usize;
}

/// Sets what an order knows of one place.
pub(super) fn set<T: Clone + Default>(known: &mut Vec<T>, place: Place, value: T) {
    let place = place as usize;
    if place >= known.len() {
        known.resize(place + 1, T::default());
    }
    known[place] = value;
}
