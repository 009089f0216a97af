//! Calls to the key management service: in turn, each within its deadline, repeated while that may help, not made while the
//! service keeps failing.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::error::{KmsError, KmsFailureKind};
use crate::kms::{Gate, KeyManagementService, KmsHealth};
use crate::memory::RandomFill;
use crate::metrics::CallMeters;
use crate::retry::{Budget, RetryPolicy, half_to_one};

/// Calls to the service at once; more wait their turn.
const AT_ONCE: usize = 16;

/// How often the service is looked after at least, and at most.
const UPKEEP: Duration = Duration::from_secs(20);
const LEAST_PAUSE: Duration = Duration::from_secs(1);

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
            let answer = async {
                let _timer = self.times.time(call as usize);
                ask(Arc::clone(&self.kms)).await
            };
            let outcome = self.attempt(gate, call.operation(), answer).await;
            match &outcome {
                Err(error) if self.may_repeat(error, repetition) => {
                    sleep(self.policy.drawn_delay(repetition, &self.random)).await;
                }
                _ => return outcome,
            }
            repetition += 1;
        }
    }

    /// Looks after the service, for ever: does what is due, and asks places that failed whether they answer.
    pub(super) async fn tend(self: Arc<Self>) {
        let (mut pause, mut has_failed) = (LEAST_PAUSE, false);
        loop {
            sleep(pause.clamp(LEAST_PAUSE, UPKEEP).mul_f64(half_to_one(&self.random))).await;
            if self.health().iter().any(|place| !place.state.is_usable()) {
                let probe = self.kms.probe();
                // The gates keep what comes of it.
                let _ = match &self.gate {
                    Some(gate) => self.attempt(gate, "ask the service whether it answers", probe).await,
                    None => probe.await,
                };
            }
            let (operation, after) = ("look after the service", self.policy.attempt_timeout);
            let outcome = timeout(after, self.kms.upkeep()).await;
            match outcome.unwrap_or(Err(KmsError::Timeout { operation, after })) {
                Ok(due) => (pause, has_failed) = (due, false),
                Err(error) => {
                    pause = UPKEEP;
                    if !std::mem::replace(&mut has_failed, true) {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "the key management service could not be looked after; this goes on");
                    }
                }
            }
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
        operation: &'static str,
        answer: impl Future<Output = Result<T, KmsError>>,
    ) -> Result<T, KmsError> {
        let entry = gate.enter().map_err(|failure| KmsError::Failed { operation, failures: vec![failure] })?;
        let after = self.policy.attempt_timeout;
        let answer = timeout(after, answer).await.unwrap_or(Err(KmsError::Timeout { operation, after }));
        entry.end(answer.as_ref().err().and_then(KmsError::kind));
        answer
    }
}
