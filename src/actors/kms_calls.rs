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
