//! When a service that keeps failing is asked again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::BreakerPolicy;

/// Counts failures in a row; after too many it refuses calls, and then lets one through at a time to try.
pub(crate) struct Breaker {
    policy: BreakerPolicy,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    failures: u32,
    /// From when on one may try; `None` while calls go through.
    paused_until: Option<Instant>,
    pause: Duration,
    /// Whether one is trying.
    is_tried: bool,
}

/// What a call that is let through is to the breaker; it goes back with the call's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Pass {
    /// One of many, while calls go through.
    Usual,
    /// The one that tries whether the service is back.
    Trial,
}

/// Why a call is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) failures: u32,
    pub(crate) retry_in: Duration,
}

/// What a call's end changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// Calls are refused from now on.
    Opened,
    /// Calls are made again from now on.
    Closed,
}

impl Breaker {
    pub(crate) fn new(policy: BreakerPolicy) -> Self {
        let state = State { failures: 0, paused_until: None, pause: policy.first_pause, is_tried: false };
        Self { policy, state: Mutex::new(state) }
    }

    /// Lets a call through, or says why not. Whoever is let through must report how it ended.
    pub(crate) fn admit(&self, now: Instant) -> Result<Pass, Refusal> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(until) = state.paused_until else { return Ok(Pass::Usual) };
        if now >= until && !state.is_tried {
            state.is_tried = true;
            return Ok(Pass::Trial);
        }
        let retry_in = if state.is_tried { state.pause } else { until - now };
        Err(Refusal { failures: state.failures, retry_in })
    }

    /// Counts a call that the service answered.
    pub(crate) fn succeeded(&self) -> Change {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let change = if state.paused_until.is_some() { Change::Closed } else { Change::None };
        *state = State { failures: 0, paused_until: None, pause: self.policy.first_pause, is_tried: false };
        change
    }

    /// Counts a call that the service failed.
    pub(crate) fn failed(&self, pass: Pass, now: Instant) -> Change {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = state.failures.saturating_add(1);
        match pass {
            Pass::Trial => {
                state.is_tried = false;
                state.pause = state.pause.saturating_mul(2).min(self.policy.most_pause);
                state.paused_until = Some(now + state.pause);
                Change::None
            }
            Pass::Usual if state.paused_until.is_none() && state.failures >= self.policy.failures => {
                state.paused_until = Some(now + state.pause);
                Change::Opened
            }
            Pass::Usual => Change::None,
        }
    }

    /// Notes the end of a call that tells nothing about the service; another may try at once.
    pub(crate) fn told_nothing(&self, pass: Pass) {
        if pass == Pass::Trial {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).is_tried = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn breaker() -> (Breaker, Instant) {
        let policy = BreakerPolicy { failures: 3, first_pause: 100 * MS, most_pause: 300 * MS };
        (Breaker::new(policy), Instant::now())
    }

    #[test]
    fn failures_in_a_row_end_the_calls_and_successes_between_do_not_count() {
        let (breaker, now) = breaker();
        for _ in 0..2 {
            assert_eq!(breaker.failed(Pass::Usual, now), Change::None);
        }
        assert_eq!(breaker.succeeded(), Change::None);
        for _ in 0..2 {
            assert_eq!(breaker.failed(Pass::Usual, now), Change::None);
            assert_eq!(breaker.admit(now), Ok(Pass::Usual));
        }
        assert_eq!(breaker.failed(Pass::Usual, now), Change::Opened);
        assert_eq!(breaker.admit(now + 40 * MS), Err(Refusal { failures: 3, retry_in: 60 * MS }));
    }

    #[test]
    fn one_at_a_time_tries_and_each_failure_makes_the_pause_longer() {
        let (breaker, mut now) = breaker();
        for _ in 0..3 {
            let _ = breaker.failed(Pass::Usual, now);
        }
        for pause in [100, 200, 300, 300] {
            assert!(breaker.admit(now + (pause - 1) * MS).is_err());
            now += pause * MS;
            assert_eq!(breaker.admit(now), Ok(Pass::Trial));
            assert!(breaker.admit(now).is_err(), "one is trying");
            assert_eq!(breaker.failed(Pass::Trial, now), Change::None);
        }
        now += 300 * MS;
        assert_eq!(breaker.admit(now), Ok(Pass::Trial));
        assert_eq!(breaker.succeeded(), Change::Closed);
        assert_eq!((breaker.admit(now), breaker.admit(now)), (Ok(Pass::Usual), Ok(Pass::Usual)));
    }

    #[test]
    fn stragglers_that_fail_while_it_pauses_do_not_make_the_pause_longer() {
        let (breaker, now) = breaker();
        for _ in 0..50 {
            let _ = breaker.failed(Pass::Usual, now);
        }
        assert_eq!(breaker.admit(now + 100 * MS), Ok(Pass::Trial));
    }

    #[test]
    fn a_straggler_does_not_end_the_trial_and_a_trial_that_tells_nothing_makes_way_for_another() {
        let (breaker, now) = breaker();
        for _ in 0..3 {
            let _ = breaker.failed(Pass::Usual, now);
        }
        let later = now + 100 * MS;
        assert_eq!(breaker.admit(later), Ok(Pass::Trial));
        assert_eq!(breaker.failed(Pass::Usual, later), Change::None);
        assert!(breaker.admit(later).is_err(), "one is still trying");
        breaker.told_nothing(Pass::Usual);
        assert!(breaker.admit(later).is_err(), "one is still trying");
        breaker.told_nothing(Pass::Trial);
        assert_eq!(breaker.admit(later), Ok(Pass::Trial));
    }
}
