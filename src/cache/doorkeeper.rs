//! A Bloom filter that keeps what was seen once out of the sketch.

use super::sketch::halves;

/// Bits per expected entry for one false answer in ten: -ln 0.1 / (ln 2)².
const BITS_PER_ENTRY: f64 = 4.792_529;

/// Whether a hash was seen since the last [`clear`](Self::clear), or perhaps another one.
///
/// Source: Bloom, [Space/time trade-offs in hash coding with allowable errors](https://doi.org/10.1145/362686.362692).
pub(super) struct Doorkeeper {
    words: Vec<u64>,
    mask: u32,
    hashes: u32,
}

impl Doorkeeper {
    /// Makes a filter that tells one in ten hashes falsely when `expected` were put in.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "sizes of caches are far below the precision of a double, and positive"
    )]
    pub(super) fn new(expected: usize) -> Self {
        let bits = ((expected as f64 * BITS_PER_ENTRY) as usize).max(1).next_power_of_two();
        let hashes = (std::f64::consts::LN_2 * bits as f64 / expected.max(1) as f64) as u32;
        let mask = u32::try_from(bits - 1).unwrap_or(u32::MAX);
        Self { words: vec![0; bits.div_ceil(64)], mask, hashes: hashes.max(1) }
    }

    /// Puts `hash` in and tells whether it, or all that it consists of, was there.
    pub(super) fn put(&mut self, hash: u64) -> bool {
        let mut known = true;
        for number in 0..self.hashes {
            let (word, bit) = self.bit(hash, number);
            known &= self.words[word] & bit != 0;
            self.words[word] |= bit;
        }
        known
    }

    pub(super) fn contains(&self, hash: u64) -> bool {
        (0..self.hashes).all(|number| {
            let (word, bit) = self.bit(hash, number);
            self.words[word] & bit != 0
        })
    }

    pub(super) fn clear(&mut self) {
        self.words.fill(0);
    }

    fn bit(&self, hash: u64, number: u32) -> (usize, u64) {
        let [low, high] = halves(hash);
        let bit = low.wrapping_add(number.wrapping_mul(high)) & self.mask;
        ((bit / 64) as usize, 1 << (bit % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_follow_from_the_entries_expected() {
        for (expected, bits, hashes) in [(200, 1024, 3), (2000, 16_384, 5), (20_000, 131_072, 4), (0, 1, 1)] {
            let filter = Doorkeeper::new(expected);
            assert_eq!((filter.mask + 1, filter.hashes), (bits, hashes), "{expected}");
        }
    }

    proptest! {
        #[test]
        fn what_was_put_in_is_there_until_it_is_cleared(hashes in proptest::collection::vec(any::<u64>(), 1..200)) {
            let mut filter = Doorkeeper::new(hashes.len());
            prop_assert!(!filter.put(hashes[0]));
            for &hash in &hashes {
                filter.put(hash);
                prop_assert!(filter.contains(hash) && filter.put(hash));
            }
            filter.clear();
            prop_assert!(hashes.iter().all(|&hash| !filter.contains(hash)));
        }
    }
}
