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
    /// How often calls were refused, or made again.
    changes: u64,
}

/// What a call that is let through is to the breaker; it goes back with the call's end. Where there is no breaker, the default
/// stands for one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub(crate) struct Pass {
    /// As many as there were when it was let through: what it tells later is about another time.
    changes: u64,
    /// Whether it is the one that tries whether the service is back.
    is_trial: bool,
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
    /// Calls are refused for longer: the trial failed.
    Prolonged,
    /// Calls are made again from now on.
    Closed,
    /// It says nothing any more: it was let through before calls were refused, or made again.
    Late,
}

impl Breaker {
    pub(crate) fn new(policy: BreakerPolicy) -> Self {
        let state = State { failures: 0, paused_until: None, pause: policy.first_pause, is_tried: false, changes: 0 };
        Self { policy, state: Mutex::new(state) }
    }

    /// Lets a call through, or says why not. Whoever is let through must report how it ended.
    pub(crate) fn admit(&self, now: Instant) -> Result<Pass, Refusal> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = state.changes;
        let Some(until) = state.paused_until else { return Ok(Pass { changes, is_trial: false }) };
        if now >= until && !state.is_tried {
            state.is_tried = true;
            return Ok(Pass { changes, is_trial: true });
        }
        let retry_in = if state.is_tried { state.pause } else { until - now };
        Err(Refusal { failures: state.failures, retry_in })
    }

    /// Counts a call that the service answered.
    pub(crate) fn succeeded(&self, pass: Pass) -> Change {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if pass.changes != state.changes {
            return Change::Late;
        }
        let is_closed = state.paused_until.is_some();
        let changes = state.changes + u64::from(is_closed);
        *state = State { failures: 0, paused_until: None, pause: self.policy.first_pause, is_tried: false, changes };
        if is_closed { Change::Closed } else { Change::None }
    }

    /// Counts a call that the service failed.
    pub(crate) fn failed(&self, pass: Pass, now: Instant) -> Change {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if pass.changes != state.changes {
            return Change::Late;
        }
        state.failures = state.failures.saturating_add(1);
        if pass.is_trial {
            state.is_tried = false;
            state.pause = state.pause.saturating_mul(2).min(self.policy.most_pause);
            state.paused_until = Some(now + state.pause);
            return Change::Prolonged;
        }
        if state.failures < self.policy.failures {
            return Change::None;
        }
        state.paused_until = Some(now + state.pause);
        state.changes += 1;
        Change::Opened
    }

    /// Notes the end of a call that tells nothing about whether the service answers; another may try at once.
    pub(crate) fn told_nothing(&self, pass: Pass) -> Change {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if pass.changes != state.changes {
            return Change::Late;
        }
        state.is_tried &= !pass.is_trial;
        Change::None
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

    /// Lets calls through, and has them fail.
    fn fail(breaker: &Breaker, now: Instant, times: usize) -> Vec<Change> {
        (0..times).map(|_| breaker.failed(breaker.admit(now).unwrap(), now)).collect()
    }

    #[test]
    fn failures_in_a_row_end_the_calls_and_successes_between_do_not_count() {
        let (breaker, now) = breaker();
        assert_eq!(fail(&breaker, now, 2), [Change::None; 2]);
        assert_eq!(breaker.succeeded(breaker.admit(now).unwrap()), Change::None);
        assert_eq!(fail(&breaker, now, 3), [Change::None, Change::None, Change::Opened]);
        assert_eq!(breaker.admit(now + 40 * MS), Err(Refusal { failures: 3, retry_in: 60 * MS }));
    }

    #[test]
    fn one_at_a_time_tries_and_each_failure_makes_the_pause_longer() {
        let (breaker, mut now) = breaker();
        fail(&breaker, now, 3);
        for pause in [100, 200, 300, 300] {
            assert!(breaker.admit(now + (pause - 1) * MS).is_err());
            now += pause * MS;
            let trial = breaker.admit(now).unwrap();
            assert!(breaker.admit(now).is_err(), "one is trying");
            assert_eq!(breaker.failed(trial, now), Change::Prolonged);
        }
        now += 300 * MS;
        assert_eq!(breaker.succeeded(breaker.admit(now).unwrap()), Change::Closed);
        assert!(breaker.admit(now).is_ok() && breaker.admit(now).is_ok());
    }

    #[test]
    fn stragglers_of_another_time_tell_nothing() {
        let (breaker, now) = breaker();
        let before: Vec<Pass> = (0..4).map(|_| breaker.admit(now).unwrap()).collect();
        fail(&breaker, now, 3);
        assert_eq!(breaker.failed(before[0], now), Change::Late);
        assert_eq!(breaker.succeeded(before[1]), Change::Late);
        let later = now + 100 * MS;
        let trial = breaker.admit(later).unwrap();
        assert_eq!(breaker.failed(before[2], later), Change::Late);
        assert_eq!(breaker.told_nothing(before[2]), Change::Late);
        assert!(breaker.admit(later).is_err(), "one is still trying");
        assert_eq!(breaker.succeeded(trial), Change::Closed);
        for _ in 0..5 {
            assert_eq!(breaker.failed(before[3], later), Change::Late);
        }
        assert!(breaker.admit(later).is_ok());
    }

    #[test]
    fn a_trial_that_tells_nothing_makes_way_for_another() {
        let (breaker, now) = breaker();
        fail(&breaker, now, 3);
        let later = now + 100 * MS;
        let trial = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_err());
        assert_eq!(breaker.told_nothing(trial), Change::None);
        assert!(breaker.admit(later).is_ok());
    }
}
