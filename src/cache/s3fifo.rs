//! S3-FIFO: a small queue for what is new, a main queue, and a queue of hashes of what left the small one.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroUsize;

use super::list::{Links, List, Place};
use super::order::{Order, set};

/// Uses that are remembered of an entry.
const MOST: u8 = 3;

/// Uses that take an entry from the small queue to the main one. One is enough, as one that the cache hears of may stand for
/// many.
const PROMOTES: u8 = 1;

pub(super) struct S3Fifo {
    links: Links,
    small: List,
    main: List,
    ghosts: Ghosts,
    known: Vec<Known>,
    small_capacity: usize,
}

/// What is known of an entry.
#[derive(Clone, Copy, Default)]
struct Known {
    hash: u64,
    uses: u8,
    is_main: bool,
}

impl S3Fifo {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        let small_capacity = (capacity.get() / 10).max(1);
        Self {
            links: Links::default(),
            small: List::default(),
            main: List::default(),
            ghosts: Ghosts::new(capacity.get() - small_capacity),
            known: Vec::new(),
            small_capacity,
        }
    }

    fn known(&mut self, place: Place) -> &mut Known {
        &mut self.known[place as usize]
    }
}

impl Order for S3Fifo {
    fn admit(&mut self, place: Place, hash: u64) {
        let is_main = self.ghosts.take(hash);
        let queue = if is_main { &mut self.main } else { &mut self.small };
        queue.push(&mut self.links, place);
        set(&mut self.known, place, Known { hash, uses: 0, is_main });
    }

    fn access(&mut self, place: Place) {
        let known = self.known(place);
        known.uses = (known.uses + 1).min(MOST);
    }

    fn candidate(&mut self) -> Option<Place> {
        loop {
            let of_main = self.main.oldest().filter(|_| self.small.len() < self.small_capacity);
            let place = of_main.or_else(|| self.small.oldest()).or_else(|| self.main.oldest())?;
            let Known { uses, is_main, .. } = *self.known(place);
            if is_main && uses > 0 {
                self.main.renew(&mut self.links, place);
                self.known(place).uses -= 1;
            } else if !is_main && uses >= PROMOTES {
                self.small.remove(&mut self.links, place);
                self.main.push(&mut self.links, place);
                *self.known(place) = Known { uses: 0, is_main: true, ..*self.known(place) };
            } else {
                return Some(place);
            }
        }
    }

    fn evict(&mut self, place: Place) {
        let Known { hash, is_main, .. } = *self.known(place);
        self.remove(place);
        if !is_main {
            self.ghosts.add(hash);
        }
    }

    fn remove(&mut self, place: Place) {
        let queue = if self.known(place).is_main { &mut self.main } else { &mut self.small };
        queue.remove(&mut self.links, place);
    }

    #[cfg(test)]
    fn largest(&self) -> usize {
        let Ghosts { queue, turns, .. } = &self.ghosts;
        assert!(turns.len() <= queue.len());
        queue.len().max(self.small.len() + self.main.len())
    }
}

/// Hashes of what left lately, oldest first.
struct Ghosts {
    capacity: usize,
    /// Each with its turn, which tells it from an earlier ghost of the same hash.
    queue: VecDeque<(u64, u64)>,
    turns: HashMap<u64, u64, BuildHasherDefault<Hashed>>,
    turn: u64,
}

impl Ghosts {
    fn new(capacity: usize) -> Self {
        Self { capacity, queue: VecDeque::new(), turns: HashMap::default(), turn: 0 }
    }

    fn add(&mut self, hash: u64) {
        if self.capacity == 0 {
            return;
        }
        if self.queue.len() == self.capacity
            && let Some((oldest, turn)) = self.queue.pop_front()
            && self.turns.get(&oldest) == Some(&turn)
        {
            self.turns.remove(&oldest);
        }
        self.turn += 1;
        self.queue.push_back((hash, self.turn));
        self.turns.insert(hash, self.turn);
    }

    /// Tells whether `hash` left lately, and forgets it.
    fn take(&mut self, hash: u64) -> bool {
        self.turns.remove(&hash).is_some()
    }
}

/// Passes on what is a hash, of a keyed function, already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
