//! Counts durations in buckets whose width grows with them: sixteen for each power of two, so a bucket is right to 6 %.

use std::time::Duration;

/// Buckets for each power of two, as a power of two.
const PRECISION: u32 = 4;
const SPLIT: u64 = 1 << PRECISION;
const BUCKETS: usize = ((u64::BITS - PRECISION + 1) as usize) << PRECISION;

#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    longest: Duration,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, longest: Duration::ZERO }
    }

    pub(crate) fn add(&mut self, took: Duration) {
        self.counts[bucket(nanos(took))] += 1;
        self.total += 1;
        self.longest = self.longest.max(took);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count += other);
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn longest(&self) -> Duration {
        self.longest
    }

    /// Returns what all but `part` in a million did not take longer than.
    pub(crate) fn all_but(&self, part: u64) -> Duration {
        let mut left = self.total - self.total * part / 1_000_000;
        for (bucket, &count) in self.counts.iter().enumerate() {
            if count >= left {
                return Duration::from_nanos(upper_bound(bucket)).min(self.longest);
            }
            left -= count;
        }
        self.longest
    }

    /// Counts what took from `2^power` nanoseconds up to twice that.
    pub(crate) fn at_power(&self, power: u32) -> u64 {
        (0..SPLIT).map(|sub| self.counts[bucket((1 << power) + (sub << power >> PRECISION))]).sum()
    }
}

fn bucket(nanos: u64) -> usize {
    let index = if nanos < SPLIT {
        nanos
    } else {
        let power = nanos.ilog2();
        (u64::from(power - PRECISION + 1) << PRECISION) + (nanos >> (power - PRECISION)) - SPLIT
    };
    usize::try_from(index).expect("there are about a thousand buckets")
}

/// The longest nanoseconds of a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SPLIT {
        return bucket;
    }
    let power = (bucket >> PRECISION) - 1;
    ((SPLIT + bucket % SPLIT + 1) << power) - 1
}

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}
