//! Several places asked in order: the next one when one fails, or takes too long.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{KmsFailure, KmsFailureKind};
use crate::memory::RandomFill;
use crate::retry::{Budget, RetryPolicy};

/// What each place failed with, in the order in which they did.
pub(super) type Failures<P> = Vec<(P, KmsFailure)>;

/// Asks places until one answers: the next one when one fails, or takes longer than `patience` says. Whoever is slow may
/// still win.
///
/// # Errors
/// When all have failed.
///
/// # Cancel safety
/// What was asked is dropped, once one has answered too.
pub(super) async fn first<P, T, F>(
    places: &[P],
    patience: impl Fn(P) -> Option<Duration>,
    ask: impl Fn(P) -> F,
) -> Result<T, Failures<P>>
where
    P: Copy,
    F: Future<Output = Result<T, KmsFailure>>,
{
    let mut asked = FuturesUnordered::new();
    let mut failures = Vec::new();
    for (at, &place) in places.iter().enumerate() {
        let answer = ask(place);
        asked.push(async move { answer.await.map_err(|failure| (place, failure)) });
        let is_last = at + 1 == places.len();
        let until = patience(place).filter(|_| !is_last).and_then(|patience| Instant::now().checked_add(patience));
        loop {
            let answer = match until {
                Some(until) => timeout_at(until, asked.next()).await,
                None => Ok(asked.next().await),
            };
            match answer {
                Ok(Some(Ok(value))) => return Ok(value),
                Ok(Some(Err(failure))) => {
                    failures.push(failure);
                    if !is_last {
                        break;
                    }
                }
                // All have failed, or the time is up.
                Ok(None) | Err(_) => break,
            }
        }
    }
    Err(failures)
}

/// How calls are repeated, and how often they were.
pub(super) struct Rounds {
    pub(super) policy: RetryPolicy,
    pub(super) budget: Budget,
    pub(super) random: RandomFill,
}

impl Rounds {
    pub(super) fn new(policy: RetryPolicy, random: RandomFill) -> Self {
        Self { budget: Budget::new(policy.budget), policy, random }
    }

    /// Asks places in rounds: in each those whose failure may pass.
    ///
    /// # Errors
    /// What each place failed with at last, in the order of `places`.
    pub(super) async fn until_one_answers<P, T, F>(
        &self,
        places: &[P],
        patience: impl Fn(P) -> Option<Duration>,
        ask: impl Fn(P) -> F,
    ) -> Result<T, Vec<KmsFailure>>
    where
        P: Copy + PartialEq,
        F: Future<Output = Result<T, KmsFailure>>,
    {
        self.budget.called();
        let mut last: Vec<Option<KmsFailure>> = vec![None; places.len()];
        let mut asked = places.to_vec();
        for repetition in 1.. {
            match first(&asked, &patience, &ask).await {
                Ok(value) => return Ok(value),
                Err(failures) => {
                    asked.clear();
                    for (at, place) in places.iter().enumerate() {
                        if let Some((_, failure)) = failures.iter().find(|(failed, _)| failed == place) {
                            if may_pass(failure) {
                                asked.push(*place);
                            }
                            // That it was paused after its failures says less than they do.
                            if failure.kind != KmsFailureKind::Paused || last[at].is_none() {
                                last[at] = Some(failure.clone());
                            }
                        }
                    }
                }
            }
            if asked.is_empty() || !self.may_repeat(repetition) {
                break;
            }
            self.pause(repetition).await;
        }
        Err(last.into_iter().flatten().collect())
    }

    /// Asks one place until it answers or will not.
    ///
    /// # Errors
    /// What it failed with at last.
    pub(super) async fn of_one<T, F>(&self, ask: impl Fn() -> F) -> Result<T, KmsFailure>
    where
        F: Future<Output = Result<T, KmsFailure>>,
    {
        self.budget.called();
        let mut repetition = 1;
        loop {
            match ask().await {
                Err(failure) if may_pass(&failure) && self.may_repeat(repetition) => self.pause(repetition).await,
                answer => return answer,
            }
            repetition += 1;
        }
    }

    fn may_repeat(&self, repetition: u32) -> bool {
        repetition < self.policy.attempts && self.budget.take()
    }

    async fn pause(&self, repetition: u32) {
        sleep(self.policy.drawn_delay(repetition, &self.random)).await;
    }
}

/// A place that is not asked is not helped by being not asked again.
fn may_pass(failure: &KmsFailure) -> bool {
    failure.kind.is_transient() && failure.kind != KmsFailureKind::Paused
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::pending;

    use tokio::sync::Notify;

    use super::*;
    use crate::crypto::system_random;

    const MS: Duration = Duration::from_millis(1);

    fn failed<T>(kind: KmsFailureKind) -> Result<T, KmsFailure> {
        Err(KmsFailure::new("here", kind, "told to"))
    }

    fn rounds(attempts: u32, budget: f64) -> Rounds {
        let policy = RetryPolicy { attempts, budget, first_delay: Duration::ZERO, ..RetryPolicy::default() };
        Rounds::new(policy, system_random())
    }

    #[tokio::test]
    async fn the_next_is_asked_when_one_fails_or_takes_too_long() {
        let ask = |place| async move { if place == 0 { failed(KmsFailureKind::AccessDenied) } else { Ok(place) } };
        assert_eq!(first(&[0, 1], |_| None, ask).await.unwrap(), 1);
        let ask = |place| async move { if place == 0 { pending().await } else { Ok(place) } };
        assert_eq!(first(&[0, 1], |_| Some(MS), ask).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn the_slow_one_wins_when_the_others_fail() {
        let last_was_asked = Notify::new();
        let ask = |place| {
            let last_was_asked = &last_was_asked;
            async move {
                match place {
                    0 => last_was_asked.notified().await,
                    1 => return failed(KmsFailureKind::Network),
                    _ => {
                        last_was_asked.notify_one();
                        return failed(KmsFailureKind::Network);
                    }
                }
                Ok(place)
            }
        };
        assert_eq!(first(&[0, 1, 2], |_| Some(MS), ask).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn only_failures_that_may_pass_are_asked_again() {
        let asked = RefCell::new([0; 4]);
        let kinds =
            [KmsFailureKind::AccessDenied, KmsFailureKind::Throttled, KmsFailureKind::Tampered, KmsFailureKind::Paused];
        let ask = |place: usize| {
            asked.borrow_mut()[place] += 1;
            async move { failed::<()>(kinds[place]) }
        };
        let failures = rounds(3, 1.0).until_one_answers(&[0, 1, 2, 3], |_| None, ask).await.unwrap_err();
        assert_eq!(failures.iter().map(|failure| failure.kind).collect::<Vec<_>>(), kinds);
        assert_eq!(*asked.borrow(), [1, 3, 1, 1]);
    }

    #[tokio::test]
    async fn repetitions_end_with_the_budget() {
        for (budget, expected) in [(0.0, 1), (1.0, 10)] {
            let asked = RefCell::new(0);
            let ask = || {
                *asked.borrow_mut() += 1;
                async { failed::<()>(KmsFailureKind::Network) }
            };
            assert!(rounds(10, budget).of_one(ask).await.is_err());
            assert_eq!(*asked.borrow(), expected);
        }
    }
}
