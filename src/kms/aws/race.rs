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

/// When an operation is over, however many places are left to be asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    time: Duration,
}

impl Deadline {
    pub(super) fn after(time: Duration) -> Self {
        let now = Instant::now();
        Self { at: now.checked_add(time).unwrap_or(now + Duration::from_secs(86_400)), time }
    }

    /// Returns the end, or the moment after `time` where that is earlier.
    pub(super) fn or_after(self, time: Duration) -> Instant {
        Instant::now().checked_add(time).map_or(self.at, |at| at.min(self.at))
    }

    fn is_over(self) -> bool {
        Instant::now() >= self.at
    }

    /// Returns what a place failed with that has not answered by then.
    fn missed(self, place: &str) -> KmsFailure {
        let reason = format!("it has not answered when the time of the operation, {:?}, was over", self.time);
        KmsFailure::new(place, KmsFailureKind::Timeout, reason).advise("look at the network between")
    }
}

/// A place that can be asked.
pub(super) trait Place: Copy + PartialEq {
    /// Returns its name.
    fn name(&self) -> &str;
}

/// Asks places until one answers: the next one when one fails, or takes longer than `patience` says. Whoever is slow may
/// still win.
///
/// # Errors
/// When all have failed, or the time is over.
///
/// # Cancel safety
/// What was asked is dropped, once one has answered too.
async fn first<P, T, F>(
    places: &[P],
    deadline: Deadline,
    patience: impl Fn(P) -> Option<Duration>,
    ask: impl Fn(P) -> F,
) -> Result<T, Failures<P>>
where
    P: Place,
    F: Future<Output = Result<T, KmsFailure>>,
{
    let mut asked = FuturesUnordered::new();
    let mut failures: Failures<P> = Vec::new();
    for (at, &place) in places.iter().enumerate() {
        let answer = ask(place);
        asked.push(async move { answer.await.map_err(|failure| (place, failure)) });
        let is_last = at + 1 == places.len();
        let until = deadline.or_after(patience(place).filter(|_| !is_last).unwrap_or(Duration::MAX));
        loop {
            match timeout_at(until, asked.next()).await {
                Ok(Some(Ok(value))) => return Ok(value),
                Ok(Some(Err(failure))) => {
                    failures.push(failure);
                    if !is_last {
                        break;
                    }
                }
                // All have failed, or the next one is to be asked.
                Ok(None) | Err(_) => break,
            }
        }
        if deadline.is_over() {
            break;
        }
    }
    for &place in places {
        if failures.iter().all(|(failed, _)| *failed != place) {
            failures.push((place, deadline.missed(place.name())));
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
        deadline: Deadline,
        patience: impl Fn(P) -> Option<Duration>,
        ask: impl Fn(P) -> F,
    ) -> Result<T, Vec<KmsFailure>>
    where
        P: Place,
        F: Future<Output = Result<T, KmsFailure>>,
    {
        self.budget.called();
        let mut last: Vec<Option<KmsFailure>> = vec![None; places.len()];
        let mut asked = places.to_vec();
        for repetition in 1.. {
            match first(&asked, deadline, &patience, &ask).await {
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
            if asked.is_empty() || !self.pause(repetition, deadline).await {
                break;
            }
        }
        Err(last.into_iter().flatten().collect())
    }

    /// Asks one place until it answers or will not.
    ///
    /// # Errors
    /// What it failed with at last.
    pub(super) async fn of_one<P, T, F>(
        &self,
        place: P,
        deadline: Deadline,
        ask: impl Fn(P) -> F,
    ) -> Result<T, KmsFailure>
    where
        P: Place,
        F: Future<Output = Result<T, KmsFailure>>,
    {
        let answer = self.until_one_answers(&[place], deadline, |_| None, ask).await;
        answer.map_err(|mut failures| failures.pop().expect("one place was asked, and has failed"))
    }

    /// Waits before a repetition; tells whether there is to be one.
    async fn pause(&self, repetition: u32, deadline: Deadline) -> bool {
        let delay = self.policy.drawn_delay(repetition, &self.random);
        let is_in_time = deadline.or_after(delay) < deadline.at;
        let may_repeat = repetition < self.policy.attempts && is_in_time && self.budget.take();
        if may_repeat {
            sleep(delay).await;
        }
        may_repeat
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

    impl Place for usize {
        fn name(&self) -> &str {
            "here"
        }
    }

    fn minute() -> Deadline {
        Deadline::after(60_000 * MS)
    }

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
        assert_eq!(first(&[0, 1], minute(), |_| None, ask).await.unwrap(), 1);
        let ask = |place| async move { if place == 0 { pending().await } else { Ok(place) } };
        assert_eq!(first(&[0, 1], minute(), |_| Some(MS), ask).await.unwrap(), 1);
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
        assert_eq!(first(&[0, 1, 2], minute(), |_| Some(MS), ask).await.unwrap(), 0);
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
        let failures = rounds(3, 1.0).until_one_answers(&[0, 1, 2, 3], minute(), |_| None, ask).await.unwrap_err();
        assert_eq!(failures.iter().map(|failure| failure.kind).collect::<Vec<_>>(), kinds);
        assert_eq!(*asked.borrow(), [1, 3, 1, 1]);
    }

    #[tokio::test]
    async fn repetitions_end_with_the_budget() {
        for (budget, expected) in [(0.0, 1), (1.0, 10)] {
            let asked = RefCell::new(0);
            let ask = |_| {
                *asked.borrow_mut() += 1;
                async { failed::<()>(KmsFailureKind::Network) }
            };
            assert!(rounds(10, budget).of_one(0, minute(), ask).await.is_err());
            assert_eq!(*asked.borrow(), expected);
        }
    }

    #[tokio::test]
    async fn when_the_time_is_over_everybody_who_did_not_answer_is_told_of() {
        let ask =
            |place| async move { if place == 1 { failed(KmsFailureKind::AccessDenied) } else { pending().await } };
        for places in [vec![0, 1, 2], vec![1, 0, 2]] {
            let deadline = Deadline::after(5 * MS);
            let failures =
                rounds(3, 1.0).until_one_answers::<_, (), _>(&places, deadline, |_| Some(MS), ask).await.unwrap_err();
            let expected =
                |place: &usize| if *place == 1 { KmsFailureKind::AccessDenied } else { KmsFailureKind::Timeout };
            let kinds: Vec<KmsFailureKind> = failures.iter().map(|failure| failure.kind).collect();
            assert_eq!(kinds, places.iter().map(expected).collect::<Vec<_>>());
        }
        let failures =
            rounds(3, 1.0).until_one_answers::<_, (), _>(&[0, 1, 2], Deadline::after(MS), |_| None, ask).await;
        assert!(
            failures.unwrap_err().iter().all(|failure| failure.kind == KmsFailureKind::Timeout),
            "nobody was asked twice"
        );
    }
}
