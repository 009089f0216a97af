//! A count-min sketch: about how often each hash was seen, in four bits per counter.

/// The largest count; counters stay there.
const MOST: u64 = 15;

/// Rows: an estimate is the least of as many counters.
const DEPTH: u32 = 4;

/// The low three bits of every counter.
const HALVES: u64 = 0x7777_7777_7777_7777;

/// Counts hashes up to 15, never too low, sometimes too high.
///
/// Source: Cormode, Muthukrishnan, [An improved data stream summary](https://doi.org/10.1016/j.jalgor.2003.12.001).
pub(super) struct Sketch {
    /// Four counters of each of the four rows to a word.
    words: Vec<u64>,
    mask: u32,
}

impl Sketch {
    /// Makes a sketch with at least `width` counters in each row, half a byte each.
    pub(super) fn new(width: usize) -> Self {
        let words = (width.next_power_of_two() / 4).max(1);
        Self { words: vec![0; words], mask: u32::try_from(words - 1).unwrap_or(u32::MAX) }
    }

    /// Counts one more sight of `hash`.
    pub(super) fn increment(&mut self, hash: u64) {
        for row in 0..DEPTH {
            let (word, shift) = self.counter(hash, row);
            if self.words[word] >> shift & MOST < MOST {
                self.words[word] += 1 << shift;
            }
        }
    }

    /// Returns how often `hash` was seen, or more.
    pub(super) fn estimate(&self, hash: u64) -> u64 {
        let counts = (0..DEPTH).map(|row| {
            let (word, shift) = self.counter(hash, row);
            self.words[word] >> shift & MOST
        });
        counts.min().unwrap_or(0)
    }

    /// Halves every count, rounding down, so that what was seen long ago weighs less.
    pub(super) fn halve(&mut self) {
        for word in &mut self.words {
            *word = *word >> 1 & HALVES;
        }
    }

    /// Returns the word and the shift of the counter of `hash` in a row, by double hashing.
    fn counter(&self, hash: u64, row: u32) -> (usize, u32) {
        let [low, high] = halves(hash);
        let column = low.wrapping_add(row.wrapping_mul(high));
        ((column >> 2 & self.mask) as usize, 16 * row + (column & 3) * 4)
    }
}

/// Returns the lower and the upper half of a hash.
pub(super) fn halves(hash: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_row_has_the_next_power_of_two_of_counters() {
        for (width, words) in [(1, 1), (4, 1), (5, 2), (100, 32), (1000, 256), (10_000, 4096)] {
            assert_eq!(Sketch::new(width).words.len(), words, "{width}");
        }
    }

    #[test]
    fn counts_stop_at_fifteen_and_touch_no_neighbour() {
        let mut sketch = Sketch::new(1);
        for _ in 0..100 {
            sketch.increment(0); // column 0 of every row
        }
        assert_eq!(sketch.estimate(0), 15);
        assert_eq!(sketch.words, [0x000f_000f_000f_000f]);
        assert_eq!(sketch.estimate(1), 0, "column 1 of every row");
    }

    proptest! {
        #[test]
        fn an_estimate_is_never_below_the_count(
            hashes in proptest::collection::vec(0_u64..40, 0..300),
            spread in any::<u64>(),
            width in 1_usize..200,
        ) {
            let mut sketch = Sketch::new(width);
            let mut counts: HashMap<u64, u64> = HashMap::new();
            for hash in hashes.iter().map(|hash| (hash + 1).wrapping_mul(spread | 1)) {
                sketch.increment(hash);
                *counts.entry(hash).or_default() += 1;
            }
            for (hash, count) in &counts {
                prop_assert!(sketch.estimate(*hash) >= (*count).min(MOST));
            }
            let before: Vec<u64> = counts.keys().map(|hash| sketch.estimate(*hash)).collect();
            sketch.halve();
            for (hash, before) in counts.keys().zip(before) {
                prop_assert_eq!(sketch.estimate(*hash), before / 2);
            }
        }
    }
}
