//! Doubly linked lists through an array of places: no allocation per entry, no pointer.

/// Where an entry stands in the arrays of a cache and its order.
pub(super) type Place = u32;

/// No entry.
const NONE: Place = Place::MAX;

/// The links of all places; a place is in one of the lists that share them at most.
#[derive(Default)]
pub(super) struct Links(Vec<Link>);

#[derive(Clone, Copy)]
struct Link {
    newer: Place,
    older: Place,
}

impl Links {
    fn of(&mut self, place: Place) -> &mut Link {
        &mut self.0[place as usize]
    }

    fn make_room_for(&mut self, place: Place) {
        if place as usize >= self.0.len() {
            self.0.resize(place as usize + 1, Link { newer: NONE, older: NONE });
        }
    }
}

/// Places in the order in which they were put here. Every operation is O(1).
pub(super) struct List {
    newest: Place,
    oldest: Place,
    len: usize,
}

impl Default for List {
    fn default() -> Self {
        Self { newest: NONE, oldest: NONE, len: 0 }
    }
}

impl List {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn oldest(&self) -> Option<Place> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    pub(super) fn push(&mut self, links: &mut Links, place: Place) {
        self.insert_before(links, place, NONE);
    }

    pub(super) fn push_oldest(&mut self, links: &mut Links, place: Place) {
        self.insert_before(links, place, self.oldest);
    }

    /// Puts `place` directly after `older` in time.
    pub(super) fn insert_after(&mut self, links: &mut Links, place: Place, older: Place) {
        let newer = links.of(older).newer;
        self.insert_before(links, place, newer);
    }

    /// Returns the place that came directly after `place`.
    pub(super) fn after(links: &mut Links, place: Place) -> Option<Place> {
        Some(links.of(place).newer).filter(|&newer| newer != NONE)
    }

    pub(super) fn remove(&mut self, links: &mut Links, place: Place) {
        let Link { newer, older } = *links.of(place);
        *self.link_from_newer(links, newer) = older;
        *self.link_from_older(links, older) = newer;
        self.len -= 1;
    }

    /// Makes `place`, which is in the list, its newest.
    pub(super) fn renew(&mut self, links: &mut Links, place: Place) {
        if self.newest != place {
            self.remove(links, place);
            self.push(links, place);
        }
    }

    fn insert_before(&mut self, links: &mut Links, place: Place, newer: Place) {
        links.make_room_for(place);
        let older = std::mem::replace(self.link_from_newer(links, newer), place);
        *self.link_from_older(links, older) = place;
        *links.of(place) = Link { newer, older };
        self.len += 1;
    }

    /// What points from `newer`, or from the end of the list, to the next older place.
    fn link_from_newer<'a>(&'a mut self, links: &'a mut Links, newer: Place) -> &'a mut Place {
        if newer == NONE { &mut self.newest } else { &mut links.of(newer).older }
    }

    /// What points from `older`, or from the beginning of the list, to the next newer place.
    fn link_from_older<'a>(&'a mut self, links: &'a mut Links, older: Place) -> &'a mut Place {
        if older == NONE { &mut self.oldest } else { &mut links.of(older).newer }
    }
}
