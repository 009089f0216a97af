//! Calls to the key management service: in turn, each within its deadline, repeated while that may help, not made while the
//! service keeps failing.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::SecretSlice;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::error::{KmsError, KmsFailureKind as Kind};
use crate::kms::{Entry, Gate, KeyManagementService, KmsHealth, SystemKey};
use crate::memory::{LockedKey, RandomFill};
use crate::metrics::CallMeters;
use crate::retry::{Budget, RetryPolicy, half_to_one};

/// Calls to the service at once; more wait their turn.
const AT_ONCE: usize = 16;

/// How long the service is left to itself; less where something is due, and more where it refuses.
const UPKEEP: Duration = Duration::from_secs(20);
const LEAST_PAUSE: Duration = Duration::from_secs(1);
const MOST_PAUSE: Duration = Duration::from_secs(600);

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

/// A wrapped system key.
#[derive(Clone, Default)]
struct Sample {
    bytes: Option<Vec<u8>>,
    /// Whether it was opened once, or made: what it fails with is not for what it is.
    is_good: bool,
}

/// The calls to one service.
pub(super) struct KmsCalls {
    kms: Arc<dyn KeyManagementService>,
    policy: RetryPolicy,
    budget: Budget,
    /// Where the service does not do this itself.
    gate: Option<Gate>,
    turns: Semaphore,
    /// How long a call may take, repetitions included.
    time: Duration,
    /// A wrapped system key that is asked about where the service may be of use again: one that was opened, if any was.
    sample: Mutex<Sample>,
    times: CallMeters<2>,
    random: RandomFill,
}

impl KmsCalls {
    pub(super) fn new(
        kms: Arc<dyn KeyManagementService>,
        policy: RetryPolicy,
        time: Duration,
        times: CallMeters<2>,
        random: RandomFill,
    ) -> Self {
        let gate = (!kms.repeats_calls()).then(|| Gate::new(kms.kind(), policy.breaker.clone()));
        let (budget, turns) = (Budget::new(policy.budget), Semaphore::new(AT_ONCE));
        Self { kms, policy, budget, gate, turns, time, sample: Mutex::default(), times, random }
    }

    /// Returns how each place that keeps the master key has answered lately.
    pub(super) fn health(&self) -> Vec<KmsHealth> {
        self.gate.as_ref().map_or_else(|| self.kms.health(), |gate| vec![gate.health()])
    }

    /// Wraps a system key.
    pub(super) async fn wrap(&self, key: &LockedKey) -> Result<Vec<u8>, KmsError> {
        let wrapped = self.make(Call::Wrap, || self.kms.encrypt_key(SystemKey::new(key))).await?;
        self.keep(Sample { bytes: Some(wrapped.clone()), is_good: true });
        Ok(wrapped)
    }

    /// Unwraps a system key.
    pub(super) async fn unwrap(&self, encrypted: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
        let opened = self.make(Call::Unwrap, || self.kms.decrypt_key(encrypted)).await;
        let bytes = Some(encrypted.to_vec());
        match &opened {
            Ok(_) => self.keep(Sample { bytes, is_good: true }),
            // What may be the fault of the row is not to be tried for ever.
            Err(error) if error.is_transient() || error.kind() == Some(Kind::AccessDenied) => {
                if !self.sample().is_good {
                    self.keep(Sample { bytes, is_good: false });
                }
            }
            Err(_) => {}
        }
        opened
    }

    fn keep(&self, sample: Sample) {
        *self.sample.lock().unwrap_or_else(PoisonError::into_inner) = sample;
    }

    fn sample(&self) -> Sample {
        self.sample.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the service asked what `ask` says.
    async fn make<T, F>(&self, call: Call, ask: impl Fn() -> F) -> Result<T, KmsError>
    where
        F: Future<Output = Result<T, KmsError>>,
    {
        let began = Instant::now();
        let _turn = self.turns.acquire().await.expect("the semaphore is never closed");
        let Some(gate) = &self.gate else {
            let _timer = self.times.time(call as usize);
            return ask().await;
        };
        self.budget.called();
        let operation = call.operation();
        let mut repetition = 1;
        loop {
            let entry = gate.enter().map_err(|failure| KmsError::Failed { operation, failures: vec![failure] })?;
            let outcome = {
                let _timer = self.times.time(call as usize);
                self.in_time(operation, ask()).await
            };
            settle(entry, &outcome);
            let delay = self.policy.drawn_delay(repetition, &self.random);
            // One that would be cut short tells less than the last one did.
            let is_time_left = began.elapsed() + delay + self.policy.attempt_timeout.min(self.time / 2) < self.time;
            match &outcome {
                Err(error) if is_time_left && self.may_repeat(error, repetition) => sleep(delay).await,
                _ => return outcome,
            }
            repetition += 1;
        }
    }

    /// Looks after the service for as long as its thread lives, though a service of the application's may panic.
    pub(super) async fn tend(self: Arc<Self>) {
        while tokio::task::spawn_local(Arc::clone(&self).look_after()).await.is_err_and(|error| error.is_panic()) {
            tracing::error!("looking after the key management service panicked");
            sleep(UPKEEP).await;
        }
    }

    /// Does what is due, and asks places that failed whether they answer, for ever.
    async fn look_after(self: Arc<Self>) {
        let (mut pause, mut has_failed) = (LEAST_PAUSE, false);
        loop {
            sleep(pause.mul_f64(half_to_one(&self.random))).await;
            if self.health().iter().any(|place| !place.state.is_usable()) {
                self.probe().await;
            }
            match self.in_time("look after the service", self.kms.upkeep()).await {
                Ok(due) => (pause, has_failed) = (due.clamp(LEAST_PAUSE, UPKEEP), false),
                Err(error) => {
                    // What is refused is not to be asked for until somebody is locked out for it.
                    pause = if error.is_transient() { UPKEEP } else { (2 * pause).clamp(UPKEEP, MOST_PAUSE) };
                    if !std::mem::replace(&mut has_failed, true) {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(
                            error,
                            "the key management service could not be looked after; it is tried again"
                        );
                    }
                }
            }
        }
    }

    /// Tries whether the service is of use again; the gate, or the service itself, keeps what comes of it.
    async fn probe(&self) {
        let operation = "try the service";
        let Some(gate) = &self.gate else {
            let _ = timeout(self.time, self.kms.probe()).await;
            return;
        };
        let Ok(entry) = gate.enter() else { return };
        let probe = async {
            match self.sample().bytes {
                Some(encrypted) => self.kms.decrypt_key(&encrypted).await.map(|_| true),
                None => self.kms.probe().await.map_or(Ok(false), |tried| tried.map(|()| true)),
            }
        };
        match self.in_time(operation, probe).await {
            Ok(false) => {
                entry.failed(None);
                gate.forget();
            }
            tried => settle(entry, &tried),
        }
    }

    /// Gives an attempt its time.
    async fn in_time<T>(
        &self,
        operation: &'static str,
        answer: impl Future<Output = Result<T, KmsError>>,
    ) -> Result<T, KmsError> {
        let after = self.policy.attempt_timeout.min(self.time);
        timeout(after, answer).await.unwrap_or(Err(KmsError::Timeout { operation, after }))
    }

    fn may_repeat(&self, error: &KmsError, repetition: u32) -> bool {
        // A service that is not asked is not helped by not being asked again.
        let may_pass = error.is_transient() && error.kind() != Some(Kind::Paused);
        may_pass && repetition < self.policy.attempts && self.budget.take()
    }
}

/// Tells how an attempt ended.
fn settle<T>(entry: Entry<'_>, outcome: &Result<T, KmsError>) {
    match outcome {
        Ok(_) => entry.answered(),
        Err(error) => entry.failed(error.kind()),
    }
}
