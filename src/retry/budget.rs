//! How many repetitions all calls together may make.

use std::sync::atomic::{AtomicU64, Ordering};

/// Parts of one repetition that are counted.
const UNIT: u64 = 1000;

/// Repetitions that may be saved up.
const SAVED: u64 = 20 * UNIT;

/// A store of repetitions: each call puts a part of one in, each repetition takes a whole one out.
pub(crate) struct Budget {
    per_call: u64,
    left: AtomicU64,
}

impl Budget {
    /// Allows `per_call` repetitions per call.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
    pub(crate) fn new(per_call: f64) -> Self {
        let per_call = (per_call * 1000.0).clamp(0.0, 100_000.0) as u64;
        Self { per_call, left: AtomicU64::new(if per_call == 0 { 0 } else { SAVED }) }
    }

    /// Counts a call.
    pub(crate) fn called(&self) {
        let add = |left: u64| Some(left.saturating_add(self.per_call).min(SAVED));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Takes a repetition, unless all are used up.
    pub(crate) fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(UNIT)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_a_share_of_the_calls() {
        let budget = Budget::new(0.1);
        let saved = (0..1000).filter(|_| budget.take()).count();
        assert_eq!(saved, 20);
        let taken = (0..1000)
            .filter(|_| {
                budget.called();
                budget.take()
            })
            .count();
        assert_eq!(taken, 100);
        assert!(!Budget::new(0.0).take());
    }
}
