//! Segmented LRU: entries on probation, and protected ones that were used again.

use super::list::{Links, List, Place};
use super::order::{Order, set};

pub(super) struct Slru {
    links: Links,
    probation: List,
    protected: List,
    is_protected: Vec<bool>,
    protected_capacity: usize,
}

impl Slru {
    /// Protects 80 % of `capacity` entries at most.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            links: Links::default(),
            probation: List::default(),
            protected: List::default(),
            is_protected: Vec::new(),
            protected_capacity: capacity * 4 / 5,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.probation.len() + self.protected.len()
    }

    #[cfg(test)]
    pub(super) fn protected_capacity(&self) -> usize {
        self.protected_capacity
    }
}

impl Order for Slru {
    fn admit(&mut self, place: Place, _: u64) {
        self.probation.push(&mut self.links, place);
        set(&mut self.is_protected, place, false);
    }

    fn access(&mut self, place: Place) {
        let Self { links, probation, protected, is_protected, .. } = self;
        if is_protected[place as usize] {
            protected.renew(links, place);
            return;
        }
        probation.remove(links, place);
        protected.push(links, place);
        is_protected[place as usize] = true;
        if protected.len() > self.protected_capacity
            && let Some(demoted) = protected.oldest()
        {
            protected.remove(links, demoted);
            probation.push(links, demoted);
            is_protected[demoted as usize] = false;
        }
    }

    fn candidate(&mut self) -> Option<Place> {
        self.probation.oldest().or_else(|| self.protected.oldest())
    }

    fn remove(&mut self, place: Place) {
        let list = if self.is_protected[place as usize] { &mut self.protected } else { &mut self.probation };
        list.remove(&mut self.links, place);
    }

    #[cfg(test)]
    fn largest(&self) -> usize {
        self.len()
    }
}
