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
        let until = patience(place).filter(|_| !is_last).map(|patience| Instant::now() + patience);
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
                            last[at] = Some(failure.clone());
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

    use super::*;
    use crate::crypto::system_random;

    const MS: Duration = Duration::from_millis(1);

    fn failure(kind: KmsFailureKind) -> KmsFailure {
        KmsFailure::new("here", kind, "told to")
    }

    /// A place that answers after a time: with its number, or by failing.
    async fn place(number: usize, after: Duration, fails: Option<KmsFailureKind>) -> Result<usize, KmsFailure> {
        sleep(after).await;
        fails.map_or(Ok(number), |kind| Err(failure(kind)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_is_asked_when_one_fails_or_takes_too_long() {
        let began = Instant::now();
        let fails = |number| (number == 0).then_some(KmsFailureKind::AccessDenied);
        let won = first(&[0, 1], |_| Some(50 * MS), |number| place(number, 10 * MS, fails(number))).await;
        assert_eq!((won.unwrap(), began.elapsed()), (1, 20 * MS));

        let began = Instant::now();
        let slow = |number| if number == 0 { 1000 * MS } else { 10 * MS };
        let won = first(&[0, 1], |_| Some(50 * MS), |number| place(number, slow(number), None)).await;
        assert_eq!((won.unwrap(), began.elapsed()), (1, 60 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn the_slow_one_wins_when_the_others_fail() {
        let slow = |number| if number == 0 { 1000 * MS } else { 10 * MS };
        let fails = |number| (number != 0).then_some(KmsFailureKind::Network);
        let won = first(&[0, 1, 2], |_| Some(50 * MS), |number| place(number, slow(number), fails(number))).await;
        assert_eq!(won.unwrap(), 0);
        let patient = first(&[0, 1], |_| None, |number| place(number, slow(number), None)).await;
        assert_eq!(patient.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_failures_that_may_pass_are_asked_again() {
        let rounds = Rounds::new(RetryPolicy { attempts: 3, ..RetryPolicy::default() }, system_random());
        let asked = RefCell::new([0; 4]);
        let kinds =
            [KmsFailureKind::AccessDenied, KmsFailureKind::Throttled, KmsFailureKind::Tampered, KmsFailureKind::Paused];
        let ask = |number: usize| {
            asked.borrow_mut()[number] += 1;
            place(number, MS, Some(kinds[number]))
        };
        let failed = rounds.until_one_answers(&[0, 1, 2, 3], |_| None, ask).await.unwrap_err();
        assert_eq!(failed.iter().map(|failure| failure.kind).collect::<Vec<_>>(), kinds);
        assert_eq!(*asked.borrow(), [1, 3, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn repetitions_end_with_the_budget() {
        let policy = RetryPolicy { attempts: 10, budget: 0.0, ..RetryPolicy::default() };
        let rounds = Rounds::new(policy, system_random());
        let asked = RefCell::new(0);
        let ask = || {
            *asked.borrow_mut() += 1;
            place(0, MS, Some(KmsFailureKind::Network))
        };
        assert!(rounds.of_one(ask).await.is_err());
        assert_eq!(*asked.borrow(), 1);
    }
}
