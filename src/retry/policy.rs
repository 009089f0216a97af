//! What can be set.

use std::time::Duration;

use crate::memory::RandomFill;

/// How calls to a metastore or a key management service are repeated, and when they are not made at all.
///
/// Only failures that may pass are repeated: an unreachable or overloaded server, a lost reply. The delay before the n-th
/// repetition is drawn between nothing and `first_delay` × 2ⁿ⁻¹, so that many callers do not come back at once.
///
/// # Defaults
/// * `attempts` 4: with delays of up to 50, 100 and 200 ms a restarted pooler or a deadlock is outlasted; a server that is
///   away longer is left to the next operation.
/// * `attempt_timeout` 3 s: three attempts fit into the 10 s that a call has.
/// * `first_delay` 50 ms, `most_delay` 2 s.
/// * `budget` 10 %: when everything fails, repetitions add a tenth to the load, not a multiple of it.
/// * `breaker`: [`BreakerPolicy::default`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How often a call is made at most; 1 repeats nothing.
    pub attempts: u32,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// The longest delay before the first repetition.
    pub first_delay: Duration,
    /// The longest delay before any.
    pub most_delay: Duration,
    /// Repetitions per call, over all calls; some more are allowed at the start and after quiet times.
    pub budget: f64,
    /// When the store is not asked; `None`: it always is.
    pub breaker: Option<BreakerPolicy>,
}

/// When a service that keeps failing is not asked, and when it is again.
///
/// # Defaults
/// * `failures` 10 in a row: more than one call with all its attempts.
/// * `first_pause` 500 ms, doubled after each trial that fails, up to `most_pause` 5 s: that long after it is back, at most,
///   it is used again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerPolicy {
    /// Failures in a row after which the store is not asked for a while.
    pub failures: u32,
    /// How long at first.
    pub first_pause: Duration,
    /// How long at most.
    pub most_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 4,
            attempt_timeout: Duration::from_secs(3),
            first_delay: Duration::from_millis(50),
            most_delay: Duration::from_secs(2),
            budget: 0.1,
            breaker: Some(BreakerPolicy::default()),
        }
    }
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { failures: 10, first_pause: Duration::from_millis(500), most_pause: Duration::from_secs(5) }
    }
}

impl RetryPolicy {
    /// Makes each call once and always: for stores that repeat calls themselves.
    #[must_use]
    pub fn none() -> Self {
        Self { attempts: 1, attempt_timeout: Duration::MAX, breaker: None, ..Self::default() }
    }

    /// Draws how long to wait before the `repetition`-th repetition, from 1.
    pub(crate) fn drawn_delay(&self, repetition: u32, random: &RandomFill) -> Duration {
        let mut drawn = [0; 4];
        // Without random numbers everybody waits the longest.
        let drawn = if random(&mut drawn).is_ok() { u32::from_ne_bytes(drawn) } else { u32::MAX };
        self.delay(repetition, drawn)
    }

    /// Returns how long to wait before the `repetition`-th repetition; `random` decides, uniformly.
    fn delay(&self, repetition: u32, random: u32) -> Duration {
        let most = self.first_delay.saturating_mul(1 << repetition.saturating_sub(1).min(16)).min(self.most_delay);
        most.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// Draws a number from a half to one: many processes that start at once do not ask at once.
pub(crate) fn half_to_one(random: &RandomFill) -> f64 {
    let mut drawn = [0];
    // Without random numbers everybody waits the whole time.
    if random(&mut drawn).is_ok() { 0.5 + f64::from(drawn[0]) / 512.0 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_most_and_may_be_nothing() {
        let policy = RetryPolicy::default();
        for (repetition, most) in [(1, 50), (2, 100), (3, 200), (6, 1600), (7, 2000), (u32::MAX, 2000)] {
            assert_eq!(policy.delay(repetition, u32::MAX), Duration::from_millis(most), "{repetition}");
            assert_eq!(policy.delay(repetition, 0), Duration::ZERO);
        }
    }
}
