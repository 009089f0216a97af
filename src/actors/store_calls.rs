//! Calls to one store: each within its deadline, repeated while that may help, not made while the store keeps failing.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::error::StoreError;
use crate::ids::{KeyId, KeyMeta};
use crate::memory::RandomFill;
use crate::metrics::{CallMeters, StoreMeters};
use crate::record::EnvelopeKeyRecord;
use crate::retry::{Breaker, Budget, Change, Pass, RetryPolicy};
use crate::stores::{Metastore, StoreOutcome};

/// Calls to one store at once; more wait their turn.
const AT_ONCE: usize = 64;

/// A kind of call, as its durations are told apart.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
    Load,
    LoadLatest,
    Store,
}

impl Call {
    pub(super) fn operation(self) -> &'static str {
        match self {
            Self::Load => "load a key",
            Self::LoadLatest => "load the latest key",
            Self::Store => "store a key",
        }
    }
}

/// The calls to one store.
pub(super) struct StoreCalls {
    store: Arc<dyn Metastore>,
    policy: RetryPolicy,
    budget: Budget,
    breaker: Option<Breaker>,
    turns: Semaphore,
    times: CallMeters<3>,
    meters: StoreMeters,
    random: RandomFill,
}

impl StoreCalls {
    pub(super) fn new(
        store: Arc<dyn Metastore>,
        policy: RetryPolicy,
        times: CallMeters<3>,
        meters: StoreMeters,
        random: RandomFill,
    ) -> Self {
        let (budget, breaker) = (Budget::new(policy.budget), policy.breaker.clone().map(Breaker::new));
        Self { store, policy, budget, breaker, turns: Semaphore::new(AT_ONCE), times, meters, random }
    }

    pub(super) fn place(&self) -> &str {
        self.store.place()
    }

    /// Loads one version of a key.
    pub(super) async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.repeat(Call::Load, || self.load_checked(key)).await
    }

    /// Loads one version of a key, asking once.
    pub(super) async fn load_once(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.attempt(Call::Load, self.load_checked(key)).await
    }

    /// Loads the latest version of a key.
    pub(super) async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.repeat(Call::LoadLatest, || self.store.load_latest(id)).await
    }

    /// Inserts a version of a key, and finds out what became of inserts whose reply was lost.
    pub(super) async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        self.budget.called();
        let mut is_unsure = false;
        for repetition in 1.. {
            let outcome = self.attempt(Call::Store, self.store.store(id, record)).await;
            let error = match outcome {
                // The row that is there may be the one of an earlier attempt.
                Ok(StoreOutcome::Duplicate) if is_unsure => {
                    return Ok(self.look(id, record).await?.unwrap_or(StoreOutcome::Duplicate));
                }
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            is_unsure |= matches!(error, StoreError::Transient { .. } | StoreError::Timeout { .. });
            if !self.may_repeat(&error, repetition) {
                let is_repeating = self.policy.attempts > 1;
                if is_unsure
                    && is_repeating
                    && let Ok(Some(outcome)) = self.look(id, record).await
                {
                    return Ok(outcome);
                }
                // Not the error itself, which its caller tells: it may name a partition.
                let (store, class) = (self.place(), error.class());
                tracing::warn!(store, class, attempts = repetition, "a key could not be stored");
                return Err(error);
            }
            self.pause(repetition).await;
        }
        unreachable!("the loop ends by returning")
    }

    /// Tells by what is stored what became of an insert; `None` when it did not happen.
    async fn look(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<Option<StoreOutcome>, StoreError> {
        self.meters.lost_replies.increment(1);
        // Whoever shreds a key has its rows deleted a moment later.
        let latest = self.attempt(Call::LoadLatest, self.store.load_latest(id)).await;
        if matches!(&latest, Ok(Some(latest)) if latest.is_tombstone() && latest != record) {
            return Ok(Some(StoreOutcome::Duplicate));
        }
        let key = KeyMeta { id: id.clone(), created: record.created };
        match self.load_once(&key).await {
            Ok(None) => Ok(None),
            Ok(Some(stored)) if stored == *record => Ok(Some(StoreOutcome::Stored)),
            Ok(Some(_)) | Err(StoreError::Corrupt { .. }) => Ok(Some(StoreOutcome::Duplicate)),
            Err(error) => Err(error),
        }
    }

    async fn load_checked(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        match self.store.load(key).await? {
            Some(record) if record.created != key.created => Err(StoreError::Corrupt {
                id: key.id.to_string(),
                created: Some(key.created),
                source: format!("the record says it was created {}", record.created).into(),
            }),
            answer => Ok(answer),
        }
    }

    async fn repeat<T, F>(&self, call: Call, make: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.budget.called();
        for repetition in 1.. {
            match self.attempt(call, make()).await {
                Err(error) if self.may_repeat(&error, repetition) => self.pause(repetition).await,
                answer => return answer,
            }
        }
        unreachable!("the loop ends by returning")
    }

    fn may_repeat(&self, error: &StoreError, repetition: u32) -> bool {
        // A store that is not asked, or whose connections are all in use, is not helped by more calls.
        let may_pass = matches!(error, StoreError::Transient { .. } | StoreError::Timeout { .. });
        may_pass && repetition < self.policy.attempts && self.budget.take()
    }

    async fn pause(&self, repetition: u32) {
        self.meters.retries.increment(1);
        sleep(self.policy.drawn_delay(repetition, &self.random)).await;
    }

    /// Makes a call once.
    async fn attempt<T>(
        &self,
        call: Call,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let _turn = self.turns.acquire().await.expect("the semaphore is never closed");
        let trial = Trial::begin(self, call)?;
        let timer = self.times.time(call as usize);
        let after = self.policy.attempt_timeout;
        let late = |_| {
            let (operation, place) = (call.operation(), self.place().to_owned());
            Err(StoreError::Timeout { operation, place, after })
        };
        let answer = timeout(after, answer).await.unwrap_or_else(late);
        drop(timer);
        trial.end(&answer);
        answer
    }
}

/// A call under way, whose end the breaker must learn of; one that is given up counts as failed.
struct Trial<'a> {
    calls: &'a StoreCalls,
    /// Until the end is told.
    pass: Option<Pass>,
}

impl<'a> Trial<'a> {
    fn begin(calls: &'a StoreCalls, call: Call) -> Result<Self, StoreError> {
        match calls.breaker.as_ref().map_or(Ok(Pass::default()), |breaker| breaker.admit(Instant::now())) {
            Ok(pass) => Ok(Self { calls, pass: Some(pass) }),
            Err(refusal) => {
                let (operation, place) = (call.operation(), calls.place().to_owned());
                let error =
                    StoreError::Open { operation, place, failures: refusal.failures, retry_in: refusal.retry_in };
                calls.meters.count_failure(error.class());
                Err(error)
            }
        }
    }

    fn end<T>(mut self, answer: &Result<T, StoreError>) {
        let pass = self.pass.take().expect("a trial ends once");
        let Err(error) = answer else { return self.answered(pass) };
        self.calls.meters.count_failure(error.class());
        match error {
            StoreError::Transient { .. } | StoreError::Timeout { .. } => self.failed(pass),
            // Nobody knows how the server is.
            StoreError::PoolTimeout { .. } | StoreError::Open { .. } => {
                if let Some(breaker) = &self.calls.breaker {
                    let _ = breaker.told_nothing(pass);
                }
            }
            StoreError::Permanent { .. } | StoreError::Corrupt { .. } => self.answered(pass),
        }
    }

    fn answered(&self, pass: Pass) {
        if let Some(Change::Closed) = self.calls.breaker.as_ref().map(|breaker| breaker.succeeded(pass)) {
            self.calls.meters.open.set(0.0);
            tracing::warn!(store = self.calls.place(), "the metastore answers again");
        }
    }

    fn failed(&self, pass: Pass) {
        if let Some(Change::Opened) = self.calls.breaker.as_ref().map(|breaker| breaker.failed(pass, Instant::now())) {
            self.calls.meters.open.set(1.0);
            tracing::warn!(store = self.calls.place(), "the metastore keeps failing and is not asked for a while");
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.failed(pass);
        }
    }
}
