//! Least recently used.

use super::list::{Links, List, Place};
use super::order::Order;

#[derive(Default)]
pub(super) struct Lru {
    links: Links,
    entries: List,
}

impl Order for Lru {
    fn admit(&mut self, place: Place, _: u64) {
        self.entries.push(&mut self.links, place);
    }

    fn access(&mut self, place: Place) {
        self.entries.renew(&mut self.links, place);
    }

    fn candidate(&mut self) -> Option<Place> {
        self.entries.oldest()
    }

    fn remove(&mut self, place: Place) {
        self.entries.remove(&mut self.links, place);
    }

    #[cfg(test)]
    fn largest(&self) -> usize {
        self.entries.len()
    }
}
