//! One place that keeps the master key, as calls to it have gone: counted, and paused while it keeps failing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{KmsFailure, KmsFailureKind};
use crate::metrics::PlaceMeters;
use crate::retry::{Breaker, BreakerPolicy, Change, Pass};

/// How a place that keeps the master key has answered lately.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KmsHealth {
    /// Which place: `eu-west-1`; of a service without several, its kind: `vault`.
    pub place: String,
    /// Its state.
    pub state: KmsState,
    /// Calls that were made.
    pub calls: u64,
    /// Calls that failed, by kind; kinds that did not occur are not there.
    pub failures: Vec<(KmsFailureKind, u64)>,
    /// System keys that were wrapped without this place, which cannot open them.
    pub missed_wraps: u64,
}

/// Whether a place that keeps the master key is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KmsState {
    /// It was not asked yet.
    Untried,
    /// The last call was answered.
    Up,
    /// The last call was refused for a reason that is not about the key that it was made for: a right that is missing, a master
    /// key that is disabled.
    Refusing,
    /// The last call failed in a way that may pass.
    Failing,
    /// It kept failing and is not asked for a while.
    Paused,
}

impl KmsState {
    const ALL: [Self; 5] = [Self::Untried, Self::Up, Self::Refusing, Self::Failing, Self::Paused];

    /// Whether calls may succeed now, as far as is known.
    #[must_use]
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Untried | Self::Up)
    }
}

/// Lets calls to a place through, or not, and counts them.
pub(crate) struct Gate {
    place: String,
    breaker: Option<Breaker>,
    state: AtomicU8,
    /// The kind of the last failure that may pass.
    last: AtomicU8,
    calls: AtomicU64,
    failures: [AtomicU64; KmsFailureKind::ALL.len()],
    missed_wraps: AtomicU64,
    /// Registered when it is first used, which is after the recorder was installed.
    meters: OnceLock<PlaceMeters>,
}

impl Gate {
    pub(crate) fn new(place: impl Into<String>, breaker: Option<BreakerPolicy>) -> Self {
        Self {
            place: place.into(),
            breaker: breaker.map(Breaker::new),
            state: AtomicU8::new(KmsState::Untried as u8),
            last: AtomicU8::new(KmsFailureKind::Timeout as u8),
            calls: AtomicU64::new(0),
            failures: Default::default(),
            missed_wraps: AtomicU64::new(0),
            meters: OnceLock::new(),
        }
    }

    /// Lets a call through, whose end must be told; or says why not.
    pub(crate) fn enter(&self) -> Result<Entry<'_>, KmsFailure> {
        let pass = match self.breaker.as_ref().map_or(Ok(Pass::default()), |breaker| breaker.admit(Instant::now())) {
            Ok(pass) => pass,
            Err(refusal) => {
                self.count(KmsFailureKind::Paused);
                let last = KmsFailureKind::ALL[usize::from(self.last.load(Ordering::Relaxed))];
                let (failures, retry_in) = (refusal.failures, refusal.retry_in);
                let reason = format!("{failures} failures in a row, the last one: {last}; asked again in {retry_in:?}");
                return Err(KmsFailure::new(&self.place, KmsFailureKind::Paused, reason));
            }
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(Entry { gate: self, pass: Some(pass), began: Instant::now(), patience: Duration::ZERO })
    }

    /// Counts a system key that was wrapped without this place.
    #[cfg_attr(not(feature = "aws-kms"), expect(dead_code, reason = "only a service of several places misses one"))]
    pub(crate) fn missed_wrap(&self) {
        self.missed_wraps.fetch_add(1, Ordering::Relaxed);
        self.meters().missed_wraps.increment(1);
    }

    pub(crate) fn health(&self) -> KmsHealth {
        self.meters();
        let count = |(kind, count): (KmsFailureKind, &AtomicU64)| (kind, count.load(Ordering::Relaxed));
        let failures = KmsFailureKind::ALL.into_iter().zip(&self.failures).map(count);
        KmsHealth {
            place: self.place.clone(),
            state: KmsState::ALL[usize::from(self.state.load(Ordering::Relaxed))],
            calls: self.calls.load(Ordering::Relaxed),
            failures: failures.filter(|(_, count)| *count > 0).collect(),
            missed_wraps: self.missed_wraps.load(Ordering::Relaxed),
        }
    }

    fn count(&self, kind: KmsFailureKind) {
        self.failures[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.meters().count_failure(kind.as_str());
    }

    fn meters(&self) -> &PlaceMeters {
        self.meters.get_or_init(|| PlaceMeters::new(&self.place, KmsFailureKind::ALL.iter().map(|kind| kind.as_str())))
    }

    fn set(&self, state: KmsState) {
        self.state.store(state as u8, Ordering::Relaxed);
        self.meters().down.set(if state.is_usable() { 0.0 } else { 1.0 });
    }

    /// Takes the place for one that has not been asked: nothing is known of it any more.
    pub(crate) fn forget(&self) {
        self.set(KmsState::Untried);
    }

    fn answered(&self, pass: Pass, state: KmsState) {
        match self.breaker.as_ref().map_or(Change::None, |breaker| breaker.succeeded(pass)) {
            Change::Late => return,
            Change::Closed => tracing::warn!(place = self.place, "the key management service answers again"),
            _ => {}
        }
        self.set(state);
    }

    fn failed(&self, pass: Pass, kind: KmsFailureKind) {
        self.last.store(kind as u8, Ordering::Relaxed);
        let change = self.breaker.as_ref().map_or(Change::None, |breaker| breaker.failed(pass, Instant::now()));
        match change {
            Change::Late => {}
            Change::Opened | Change::Prolonged => self.set(KmsState::Paused),
            Change::None | Change::Closed => self.set(KmsState::Failing),
        }
        if change == Change::Opened {
            tracing::warn!(place = self.place, "the key management service keeps failing and is not asked for a while");
        }
    }

    fn told_nothing(&self, pass: Pass) -> Change {
        self.breaker.as_ref().map_or(Change::None, |breaker| breaker.told_nothing(pass))
    }
}

/// A call that was let through. One that is dropped took too long for whoever made it, unless they have another reason.
pub(crate) struct Entry<'a> {
    gate: &'a Gate,
    /// Until the end is told.
    pass: Option<Pass>,
    began: Instant,
    /// After what time it takes too long.
    patience: Duration,
}

impl Entry<'_> {
    /// Takes a call that is dropped earlier than after `patience` for one that tells nothing.
    #[cfg(feature = "aws-kms")]
    pub(crate) fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Tells that the place answered.
    pub(crate) fn answered(mut self) {
        let pass = self.pass.take().expect("a call ends once");
        self.gate.answered(pass, KmsState::Up);
    }

    /// Tells that the place answered, by a refusal that is about what was asked and not about the place.
    pub(crate) fn refused(mut self, kind: KmsFailureKind) {
        let pass = self.pass.take().expect("a call ends once");
        self.gate.count(kind);
        self.gate.answered(pass, KmsState::Up);
    }

    /// Tells that the call failed, and with what kind of failure of the place; `None`: it is none of its.
    pub(crate) fn failed(mut self, kind: Option<KmsFailureKind>) {
        use KmsFailureKind as Kind;
        if let Some(kind @ (Kind::Tampered | Kind::NotWrapped)) = kind {
            return self.refused(kind);
        }
        let (gate, pass) = (self.gate, self.pass.take().expect("a call ends once"));
        let Some(kind) = kind else {
            gate.told_nothing(pass);
            return;
        };
        gate.count(kind);
        match kind {
            Kind::AccessDenied | Kind::KeyDisabled | Kind::KeyNotFound => gate.answered(pass, KmsState::Refusing),
            // Nothing may have been sent, or something else have answered.
            Kind::Credentials | Kind::Refused => {
                if gate.told_nothing(pass) != Change::Late {
                    gate.set(KmsState::Refusing);
                }
            }
            _ => gate.failed(pass, kind),
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let Some(pass) = self.pass.take() else { return };
        if self.began.elapsed() >= self.patience {
            self.gate.count(KmsFailureKind::Timeout);
            self.gate.failed(pass, KmsFailureKind::Timeout);
        } else {
            let _ = self.gate.told_nothing(pass);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(pause: Duration) -> Gate {
        Gate::new("here", Some(BreakerPolicy { failures: 2, first_pause: pause, most_pause: pause }))
    }

    fn fail(gate: &Gate) {
        gate.enter().unwrap().failed(Some(KmsFailureKind::Network));
    }

    #[test]
    fn a_place_that_keeps_failing_is_paused() {
        let gate = gate(Duration::from_secs(3600));
        assert_eq!(gate.health().state, KmsState::Untried);
        for state in [KmsState::Failing, KmsState::Paused] {
            fail(&gate);
            assert_eq!(gate.health().state, state);
        }
        let refused = gate.enter().err().unwrap();
        assert_eq!(refused.kind, KmsFailureKind::Paused);
        assert!(refused.to_string().contains("the last one: network"), "{refused}");
        let health = gate.health();
        assert_eq!((health.state, health.calls), (KmsState::Paused, 2));
        assert_eq!(health.failures, [(KmsFailureKind::Network, 2), (KmsFailureKind::Paused, 1)]);
    }

    #[test]
    fn a_place_is_tried_again_after_its_pause() {
        let gate = gate(Duration::ZERO);
        fail(&gate);
        fail(&gate);
        drop(gate.enter().unwrap());
        assert_eq!(gate.health().state, KmsState::Paused, "the trial took too long");
        gate.enter().unwrap().answered();
        assert_eq!(gate.health().state, KmsState::Up);
    }

    #[cfg(feature = "aws-kms")]
    #[test]
    fn a_call_that_is_dropped_early_tells_nothing() {
        let gate = gate(Duration::ZERO);
        for _ in 0..5 {
            drop(gate.enter().unwrap().patient(Duration::MAX));
        }
        assert_eq!(gate.health().state, KmsState::Untried);
        drop(gate.enter().unwrap().patient(Duration::ZERO));
        assert_eq!(gate.health().state, KmsState::Failing);
    }

    #[test]
    fn who_refuses_is_asked_each_time_and_is_of_no_use_unless_it_is_about_the_bytes() {
        let gate = gate(Duration::from_secs(3600));
        for kind in KmsFailureKind::ALL.into_iter().filter(|kind| !kind.is_transient()) {
            for _ in 0..5 {
                gate.enter().unwrap().failed(Some(kind));
            }
            let is_about_bytes = matches!(kind, KmsFailureKind::Tampered | KmsFailureKind::NotWrapped);
            let expected = if is_about_bytes { KmsState::Up } else { KmsState::Refusing };
            assert_eq!((gate.health().state, expected.is_usable()), (expected, is_about_bytes), "{kind}");
        }
        gate.forget();
        assert_eq!(gate.health().state, KmsState::Untried);
    }

    #[test]
    fn who_was_let_through_before_the_pause_changes_nothing() {
        let gate = gate(Duration::from_secs(3600));
        let mut before: Vec<Entry<'_>> = (0..5).map(|_| gate.enter().unwrap()).collect();
        fail(&gate);
        fail(&gate);
        before.pop().unwrap().answered();
        before.pop().unwrap().refused(KmsFailureKind::KeyDisabled);
        for kind in [KmsFailureKind::Credentials, KmsFailureKind::Network, KmsFailureKind::AccessDenied] {
            before.pop().unwrap().failed(Some(kind));
        }
        assert_eq!(gate.health().state, KmsState::Paused);
    }

    #[test]
    fn what_is_no_fault_of_the_place_changes_nothing() {
        let gate = gate(Duration::ZERO);
        fail(&gate);
        gate.enter().unwrap().failed(None);
        assert_eq!(gate.health().state, KmsState::Failing);
        fail(&gate);
        gate.enter().unwrap().failed(None);
        assert_eq!(gate.health().state, KmsState::Paused);
    }

    #[test]
    fn kinds_are_counted_in_their_order() {
        for (at, kind) in KmsFailureKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
        for (at, state) in KmsState::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, at);
        }
    }
}
