//! How often a key encrypted others, counted without a write that threads share on every use.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counter moves in steps of this at most.
const LARGEST_STEP: u64 = 256;

/// The step is so small that a budget has this many steps at least, unless it is smaller itself.
const STEPS: u64 = 4096;

/// Counts the wraps of one key against its budget.
///
/// Nonces of 96 random bits are safe for 2^32 uses of a key ([NIST SP 800-38D](https://doi.org/10.6028/NIST.SP.800-38D),
/// section 8.3). A wrap is counted with a probability of one in a step, by that step, decided by bits of its nonce, which
/// are random and no secret: a thread writes here once in 256 wraps. The count is off by about the square root of budget
/// times step, a few hundredths of a percent of the default budget; budgets below 8,192 are counted exactly.
#[derive(Debug)]
pub(crate) struct Wraps {
    count: AtomicU64,
    /// A power of two.
    step: u64,
}

impl Wraps {
    pub(crate) fn new(budget: u64) -> Self {
        let step = (budget / STEPS).clamp(1, LARGEST_STEP);
        Self { count: AtomicU64::new(0), step: 1 << step.ilog2() }
    }

    /// Counts a wrap under `nonce`.
    pub(crate) fn count(&self, nonce: &[u8; 12]) {
        if u64::from(nonce[11]) & (self.step - 1) == 0 {
            self.count.fetch_add(self.step, Ordering::Relaxed);
        }
    }

    /// Returns about how many wraps were counted.
    pub(crate) fn get(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_budgets_are_counted_exactly_and_large_ones_in_steps() {
        for (budget, step) in [(1, 1), (4096, 1), (8191, 1), (8192, 2), (1 << 20, 256), (1 << 31, 256), (1 << 32, 256)]
        {
            assert_eq!(Wraps::new(budget).step, step, "{budget}");
        }
    }

    #[test]
    fn a_count_is_what_it_is_on_average() {
        let wraps = Wraps::new(1 << 31);
        // Every value of the byte that decides equally often.
        for number in 0..=u8::MAX {
            let mut nonce = [0; 12];
            nonce[11] = number;
            wraps.count(&nonce);
        }
        assert_eq!(wraps.get(), 256);
    }
}
