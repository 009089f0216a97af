//! Calls to the key management service: in turn, each within its deadline, repeated while that may help, not made while the
//! service keeps failing.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::error::{KmsError, KmsFailureKind};
use crate::kms::{Gate, KeyManagementService, KmsHealth};
use crate::memory::RandomFill;
use crate::metrics::CallMeters;
use crate::retry::{Budget, RetryPolicy};

/// Calls to the service at once; more wait their turn.
const AT_ONCE: usize = 16;

/// A kind of call, as its durations are told apart.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
    Wrap,
    Unwrap,
}

impl Call {
    pub(super) fn operation(self) -> &'static str {
        match self {
            Self::Wrap => "wrap a system key",
            Self::Unwrap => "unwrap a system key",
        }
    }
}

/// The calls to one service.
pub(super) struct KmsCalls {
    kms: Arc<dyn KeyManagementService>,
    policy: RetryPolicy,
    budget: Budget,
    /// Where the service does not do this itself.
    gate: Option<Gate>,
    turns: Semaphore,
    times: CallMeters<2>,
    random: RandomFill,
}

impl KmsCalls {
    pub(super) fn new(
        kms: Arc<dyn KeyManagementService>,
        policy: RetryPolicy,
        times: CallMeters<2>,
        random: RandomFill,
    ) -> Self {
        let gate = (!kms.repeats_calls()).then(|| Gate::new(kms.kind(), policy.breaker.clone()));
        let (budget, turns) = (Budget::new(policy.budget), Semaphore::new(AT_ONCE));
        Self { kms, policy, budget, gate, turns, times, random }
    }

    /// Returns how each place that keeps the master key has answered lately.
    pub(super) fn health(&self) -> Vec<KmsHealth> {
        self.gate.as_ref().map_or_else(|| self.kms.health(), |gate| vec![gate.health()])
    }

    /// Has the service asked what `ask` says.
    pub(super) async fn make<T, F>(
        &self,
        call: Call,
        ask: impl Fn(Arc<dyn KeyManagementService>) -> F,
    ) -> Result<T, KmsError>
    where
        F: Future<Output = Result<T, KmsError>>,
    {
        let _turn = self.turns.acquire().await.expect("the semaphore is never closed");
        let Some(gate) = &self.gate else {
            let _timer = self.times.time(call as usize);
            return ask(Arc::clone(&self.kms)).await;
        };
        self.budget.called();
        let mut repetition = 1;
        loop {
            let outcome = self.attempt(gate, call, ask(Arc::clone(&self.kms))).await;
            match &outcome {
                Err(error) if self.may_repeat(error, repetition) => {
                    sleep(self.policy.drawn_delay(repetition, &self.random)).await;
                }
                _ => return outcome,
            }
            repetition += 1;
        }
    }

    fn may_repeat(&self, error: &KmsError, repetition: u32) -> bool {
        // A service that is not asked is not helped by not being asked again.
        let may_pass = error.is_transient() && error.kind() != Some(KmsFailureKind::Paused);
        may_pass && repetition < self.policy.attempts && self.budget.take()
    }

    async fn attempt<T>(
        &self,
        gate: &Gate,
        call: Call,
        answer: impl Future<Output = Result<T, KmsError>>,
    ) -> Result<T, KmsError> {
        let operation = call.operation();
        let entry = gate.enter().map_err(|failure| KmsError::Failed { operation, failures: vec![failure] })?;
        let _timer = self.times.time(call as usize);
        let after = self.policy.attempt_timeout;
        let answer = timeout(after, answer).await.unwrap_or(Err(KmsError::Timeout { operation, after }));
        entry.end(answer.as_ref().err().and_then(KmsError::kind));
        answer
    }
}

#[cfg(all(test, feature = "aws-kms"))]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use secrecy::SecretSlice;
    use tokio::time::Instant;

    use super::*;
    use crate::crypto::system_random;
    use crate::kms::SystemKey;
    use crate::metrics::Meters;

    /// A service that answers so many calls in each tenth of a second, and refuses others.
    struct Limited;

    #[async_trait::async_trait]
    impl KeyManagementService for Limited {
        async fn encrypt_key(&self, _: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
            Ok(Vec::new())
        }

        async fn decrypt_key(&self, _: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
            Ok(SecretSlice::from(Vec::new()))
        }
    }

    /// Lets a hundred processes that start at once ask a service which answers twenty calls in a tenth of a second; returns
    /// how many were made in each tenth, and how many processes got their answer.
    async fn start_at_once(policy: &RetryPolicy) -> (Vec<usize>, usize) {
        let meters = Meters::new("memory", "custom", &[], &[]);
        let calls = RefCell::new(vec![0; 100]);
        let began = Instant::now();
        let process = || {
            let own = KmsCalls::new(Arc::new(Limited), policy.clone(), meters.kms.clone(), system_random());
            let calls = &calls;
            async move {
                let ask = |_| async {
                    let tenth = usize::try_from(began.elapsed().as_millis() / 100).unwrap();
                    calls.borrow_mut()[tenth] += 1;
                    let is_over = calls.borrow()[tenth] > 20;
                    let refused = KmsError::Transient { operation: "ask", source: "too many calls".into() };
                    if is_over { Err(refused) } else { Ok(()) }
                };
                own.make(Call::Unwrap, ask).await.is_ok()
            }
        };
        let ends = futures_util::future::join_all((0..100).map(|_| process())).await;
        let served = ends.into_iter().filter(|is_served| *is_served).count();
        (calls.into_inner(), served)
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_processes_that_start_at_once_do_not_come_back_at_once() {
        let second = Duration::from_secs(1);
        let policy =
            RetryPolicy { attempts: 6, first_delay: second, budget: 1.0, breaker: None, ..RetryPolicy::default() };
        let (calls, served) = start_at_once(&policy).await;
        assert!(calls[0] >= 100 && served == 100, "{served}: {calls:?}");
        // Those that were refused come back within a second or two, spread over it: eight in a tenth on average.
        let most = calls[1..].iter().max().copied().unwrap_or_default();
        assert!(most <= 24, "{calls:?}");
    }
}
