//! Keeps to a number of records a second.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often it waits at most; timers are no finer than a millisecond.
const TICKS: u32 = 200;

/// Lets so many records through a second, spread evenly; time that was lost is not made up for.
pub(super) struct Pace {
    interval: Interval,
    per_tick: u32,
    left: u32,
}

impl Pace {
    /// To be called in a runtime.
    pub(super) fn new(rate: NonZeroU32) -> Self {
        let (period, per_tick) = split(rate);
        let mut interval = interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, per_tick, left: 0 }
    }

    /// Waits for the turn of the next record.
    pub(super) async fn wait(&mut self) {
        if self.left == 0 {
            self.interval.tick().await;
            self.left = self.per_tick;
        }
        self.left -= 1;
    }
}

/// Returns how long to wait, and for how many records.
fn split(rate: NonZeroU32) -> (Duration, u32) {
    let per_tick = rate.get().div_ceil(TICKS);
    (Duration::from_secs(1) * per_tick / rate.get(), per_tick)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_rates_go_one_by_one_and_fast_ones_by_handfuls() {
        let cases = [(1, 1000, 1), (2, 500, 1), (200, 5, 1), (1000, 5, 5), (100_000, 5, 500)];
        for (rate, millis, per_tick) in cases {
            let rate = NonZeroU32::new(rate).expect("not zero");
            assert_eq!(split(rate), (Duration::from_millis(millis), per_tick), "{rate}");
        }
        let (period, per_tick) = split(NonZeroU32::MAX);
        assert!(period >= Duration::from_millis(4) && per_tick > 0);
    }
}
