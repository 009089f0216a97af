//! Least frequently used, by a list of frequencies, each with the list of its entries.

use super::list::{Links, List, Place};
use super::order::{Order, set};

#[derive(Default)]
pub(super) struct Lfu {
    links: Links,
    /// Frequencies that entries have, the lowest first; a frequency is a place in `buckets`.
    frequencies: List,
    frequency_links: Links,
    buckets: Vec<Bucket>,
    /// Places in `buckets` that are not in use.
    free: Vec<Place>,
    /// In which bucket each entry is.
    bucket_of: Vec<Place>,
}

#[derive(Default)]
struct Bucket {
    frequency: u64,
    entries: List,
}

impl Lfu {
    fn bucket(&mut self, bucket: Place) -> &mut Bucket {
        &mut self.buckets[bucket as usize]
    }

    /// Makes an empty bucket that no list has yet.
    fn new_bucket(&mut self, frequency: u64) -> Place {
        if let Some(bucket) = self.free.pop() {
            self.bucket(bucket).frequency = frequency;
            return bucket;
        }
        self.buckets.push(Bucket { frequency, entries: List::default() });
        Place::try_from(self.buckets.len() - 1).expect("no more buckets than places")
    }

    fn attach(&mut self, place: Place, bucket: Place) {
        let Self { buckets, links, .. } = self;
        buckets[bucket as usize].entries.push(links, place);
        set(&mut self.bucket_of, place, bucket);
    }

    fn detach(&mut self, place: Place, bucket: Place) {
        let Self { buckets, links, .. } = self;
        let entries = &mut buckets[bucket as usize].entries;
        entries.remove(links, place);
        if entries.len() == 0 {
            self.frequencies.remove(&mut self.frequency_links, bucket);
            self.free.push(bucket);
        }
    }
}

impl Order for Lfu {
    fn admit(&mut self, place: Place, _: u64) {
        let bucket = match self.frequencies.oldest().filter(|&lowest| self.buckets[lowest as usize].frequency == 1) {
            Some(bucket) => bucket,
            None => {
                let bucket = self.new_bucket(1);
                self.frequencies.push_oldest(&mut self.frequency_links, bucket);
                bucket
            }
        };
        self.attach(place, bucket);
    }

    fn access(&mut self, place: Place) {
        let bucket = self.bucket_of[place as usize];
        let frequency = self.bucket(bucket).frequency.saturating_add(1);
        let next = List::after(&mut self.frequency_links, bucket)
            .filter(|&next| self.buckets[next as usize].frequency == frequency);
        let next = next.unwrap_or_else(|| {
            let next = self.new_bucket(frequency);
            self.frequencies.insert_after(&mut self.frequency_links, next, bucket);
            next
        });
        self.detach(place, bucket);
        self.attach(place, next);
    }

    fn candidate(&mut self) -> Option<Place> {
        let lowest = self.frequencies.oldest()?;
        self.bucket(lowest).entries.oldest()
    }

    fn remove(&mut self, place: Place) {
        let bucket = self.bucket_of[place as usize];
        self.detach(place, bucket);
    }

    #[cfg(test)]
    fn largest(&self) -> usize {
        // A use makes the next bucket before the last one is emptied.
        self.frequencies.len().max(self.buckets.len().saturating_sub(1))
    }
}
