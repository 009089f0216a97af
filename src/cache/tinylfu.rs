//! W-TinyLFU: a small window of new entries before a segmented LRU, and a sketch that decides who passes.

use std::num::NonZeroUsize;

use super::doorkeeper::Doorkeeper;
use super::list::{Links, List, Place};
use super::order::{Order, set};
use super::sketch::Sketch;
use super::slru::Slru;

/// Sights per entry after which old ones weigh half.
const SAMPLE: usize = 8;

pub(super) struct TinyLfu {
    links: Links,
    window: List,
    window_capacity: usize,
    main: Slru,
    known: Vec<Known>,
    sights: Sights,
}

/// What is known of an entry.
#[derive(Clone, Copy, Default)]
struct Known {
    hash: u64,
    in_window: bool,
}

impl TinyLfu {
    /// Returns how many entries of a cache are its window: 1 %.
    pub(super) fn window_of(capacity: NonZeroUsize) -> usize {
        capacity.get() / 100
    }

    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        let window_capacity = Self::window_of(capacity);
        Self {
            links: Links::default(),
            window: List::default(),
            window_capacity,
            main: Slru::new(capacity.get() - window_capacity),
            known: Vec::new(),
            sights: Sights::new(capacity.get()),
        }
    }

    fn hash(&self, place: Place) -> u64 {
        self.known[place as usize].hash
    }

    fn pass_on(&mut self, place: Place) {
        self.window.remove(&mut self.links, place);
        self.known[place as usize].in_window = false;
        self.main.admit(place, self.hash(place));
    }
}

impl Order for TinyLfu {
    fn admit(&mut self, place: Place, hash: u64) {
        self.sights.count(hash);
        if self.window.len() >= self.window_capacity
            && let Some(oldest) = self.window.oldest()
        {
            self.pass_on(oldest);
        }
        self.window.push(&mut self.links, place);
        set(&mut self.known, place, Known { hash, in_window: true });
    }

    fn access(&mut self, place: Place) {
        let Known { hash, in_window } = self.known[place as usize];
        self.sights.count(hash);
        if in_window {
            self.window.renew(&mut self.links, place);
        } else {
            self.main.access(place);
        }
    }

    fn candidate(&mut self) -> Option<Place> {
        let (Some(new), Some(old)) = (self.window.oldest(), self.main.candidate()) else {
            return self.window.oldest().or_else(|| self.main.candidate());
        };
        if self.sights.estimate(self.hash(new)) > self.sights.estimate(self.hash(old)) {
            self.pass_on(new);
            return Some(old);
        }
        Some(new)
    }

    fn remove(&mut self, place: Place) {
        if self.known[place as usize].in_window {
            self.window.remove(&mut self.links, place);
        } else {
            self.main.remove(place);
        }
    }

    #[cfg(test)]
    fn largest(&self) -> usize {
        assert!(self.window.len() <= self.window_capacity);
        self.window.len() + self.main.len()
    }
}

/// How often keys were seen lately, those that are not cached too.
struct Sights {
    doorkeeper: Doorkeeper,
    sketch: Sketch,
    counted: usize,
    sample: usize,
}

impl Sights {
    fn new(capacity: usize) -> Self {
        Self {
            doorkeeper: Doorkeeper::new(2 * capacity),
            sketch: Sketch::new(capacity),
            counted: 0,
            sample: SAMPLE * capacity,
        }
    }

    fn count(&mut self, hash: u64) {
        self.counted += 1;
        if self.counted >= self.sample {
            self.doorkeeper.clear();
            self.sketch.halve();
            self.counted = 0;
        }
        if self.doorkeeper.put(hash) {
            self.sketch.increment(hash);
        }
    }

    fn estimate(&self, hash: u64) -> u64 {
        self.sketch.estimate(hash) + u64::from(self.doorkeeper.contains(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_a_hundredth_and_four_fifths_of_the_rest() {
        for (capacity, window, protected, sample) in
            [(100, 1, 79, 800), (1000, 10, 792, 8000), (10_000, 100, 7920, 80_000)]
        {
            let order = TinyLfu::new(NonZeroUsize::new(capacity).unwrap());
            assert_eq!((order.window_capacity, order.main.protected_capacity()), (window, protected));
            assert_eq!(order.sights.sample, sample);
        }
    }

    #[test]
    fn one_sight_is_the_doorkeepers_and_the_next_ones_are_counted() {
        let mut sights = Sights::new(100);
        for expected in 1..=16 {
            sights.count(42);
            assert_eq!(sights.estimate(42), expected);
        }
        assert_eq!(sights.estimate(43), 0);
    }

    #[test]
    fn old_sights_fade() {
        let mut sights = Sights::new(100);
        (0..11).for_each(|_| sights.count(42));
        (0..789).for_each(|_| sights.count(7)); // the 800th halves
        assert_eq!(sights.estimate(42), 5);
    }
}
