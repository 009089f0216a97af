//! The handles of one session factory: registered when it is built, so that using one is an atomic addition.

use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_histogram, gauge, histogram};

use super::names::{describe, keys};
use crate::error::StoreError;

/// What a factory measures.
pub(crate) struct Meters {
    pub(super) encrypt: Histogram,
    pub(super) decrypt: Histogram,
    pub(crate) metastore: CallMeters<3>,
    pub(crate) primary: StoreMeters,
    pub(crate) replica: StoreMeters,
    pub(crate) kms: CallMeters<2>,
    pub(crate) system_keys: KeyMeters,
    pub(crate) intermediate_keys: KeyMeters,
    pub(crate) sessions: CacheMeters,
    pub(crate) sessions_open: Gauge,
    pub(crate) stale: Counter,
    pub(crate) loads: Gauge,
    pub(crate) refresh_failures: Counter,
    pub(crate) skewed: Gauge,
    pub(crate) audit_dropped: Counter,
    errors: Vec<(&'static str, Counter)>,
}

/// What is measured of the calls to one store.
#[derive(Clone)]
pub(crate) struct StoreMeters {
    pub(crate) retries: Counter,
    pub(crate) lost_replies: Counter,
    pub(crate) open: Gauge,
    failures: Vec<(&'static str, Counter)>,
}

impl StoreMeters {
    /// Registers those of the store that has this role.
    fn new(role: &'static str) -> Self {
        let failures = StoreError::CLASSES.iter();
        Self {
            retries: counter!(keys::STORE_RETRIES, "store" => role),
            lost_replies: counter!(keys::LOST_REPLIES, "store" => role),
            open: gauge!(keys::BREAKER_OPEN, "store" => role),
            failures: failures
                .map(|&class| (class, counter!(keys::STORE_FAILURES, "store" => role, "class" => class)))
                .collect(),
        }
    }

    /// Counts an attempt that failed.
    pub(crate) fn count_failure(&self, class: &'static str) {
        count(&self.failures, class);
    }
}

/// What is measured of one place that keeps the master key.
pub(crate) struct PlaceMeters {
    pub(crate) down: Gauge,
    pub(crate) missed_wraps: Counter,
    failures: Vec<(&'static str, Counter)>,
}

impl PlaceMeters {
    /// Registers those of `place`, which may fail in these ways.
    pub(crate) fn new(place: &str, classes: impl Iterator<Item = &'static str>) -> Self {
        let of = || place.to_owned();
        Self {
            down: gauge!(keys::KMS_DOWN, "place" => of()),
            missed_wraps: counter!(keys::KMS_MISSED, "place" => of()),
            failures: classes
                .map(|class| (class, counter!(keys::KMS_FAILURES, "place" => of(), "class" => class)))
                .collect(),
        }
    }

    /// Counts a call that failed.
    pub(crate) fn count_failure(&self, class: &'static str) {
        count(&self.failures, class);
    }
}

/// Durations of the calls to a service, one histogram for each kind of call.
#[derive(Clone)]
pub(crate) struct CallMeters<const CALLS: usize>([Histogram; CALLS]);

impl<const CALLS: usize> CallMeters<CALLS> {
    fn new(part: &str, service: &str, calls: [&str; CALLS]) -> Self {
        Self(calls.map(|call| {
            let name = format!("ael_{part}_{service}_{call}_seconds");
            describe_histogram!(
                name.clone(),
                Unit::Seconds,
                format!("Time of one call {call} to the {part} {service}")
            );
            histogram!(name)
        }))
    }

    /// Times a call of a kind until what is returned is dropped, however the call ends.
    pub(crate) fn time(&self, call: usize) -> CallTimer {
        CallTimer { histogram: self.0[call].clone(), began: Instant::now() }
    }
}

/// A call that is being timed.
pub(crate) struct CallTimer {
    histogram: Histogram,
    began: Instant,
}

impl Drop for CallTimer {
    fn drop(&mut self) {
        self.histogram.record(self.began.elapsed());
    }
}

/// What is measured of a cache.
#[derive(Clone)]
pub(crate) struct CacheMeters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) evictions: Counter,
    pub(crate) entries: Gauge,
}

impl CacheMeters {
    fn new(cache: &'static str) -> Self {
        Self {
            hits: counter!(keys::HITS, "cache" => cache),
            misses: counter!(keys::MISSES, "cache" => cache),
            evictions: counter!(keys::EVICTIONS, "cache" => cache),
            entries: gauge!(keys::ENTRIES, "cache" => cache),
        }
    }
}

/// What is measured of the keys of one kind.
pub(crate) struct KeyMeters {
    pub(crate) cache: CacheMeters,
    pub(crate) age: Gauge,
    pub(crate) check_age: Gauge,
    pub(crate) versions: Gauge,
    pub(crate) wraps: Gauge,
    rotations: Vec<(&'static str, Counter)>,
}

impl KeyMeters {
    fn new(kind: &'static str, cache: &'static str, causes: &[&'static str]) -> Self {
        let rotations = |&cause| (cause, counter!(keys::ROTATIONS, "kind" => kind, "cause" => cause));
        Self {
            cache: CacheMeters::new(cache),
            age: gauge!(keys::AGE, "kind" => kind),
            check_age: gauge!(keys::CHECK_AGE, "kind" => kind),
            versions: gauge!(keys::VERSIONS, "kind" => kind),
            wraps: gauge!(keys::WRAPS, "kind" => kind),
            rotations: causes.iter().map(rotations).collect(),
        }
    }

    /// Counts a key that was made.
    pub(crate) fn count_rotation(&self, cause: &'static str) {
        count(&self.rotations, cause);
    }
}

impl Meters {
    /// Registers everything, with the words that labels are taken from.
    pub(crate) fn new(
        metastore: &'static str,
        kms: &'static str,
        causes: &[&'static str],
        classes: &[&'static str],
    ) -> Self {
        describe();
        Self {
            encrypt: histogram!(keys::ENCRYPT),
            decrypt: histogram!(keys::DECRYPT),
            metastore: CallMeters::new("metastore", metastore, ["load", "loadlatest", "store"]),
            primary: StoreMeters::new("primary"),
            replica: StoreMeters::new("replica"),
            kms: CallMeters::new("kms", kms, ["encryptkey", "decryptkey"]),
            system_keys: KeyMeters::new("system", "system_keys", causes),
            intermediate_keys: KeyMeters::new("intermediate", "intermediate_keys", causes),
            sessions: CacheMeters::new("sessions"),
            sessions_open: gauge!(keys::SESSIONS),
            stale: counter!(keys::STALE),
            loads: gauge!(keys::LOADS),
            refresh_failures: counter!(keys::REFRESH_FAILURES),
            skewed: gauge!(keys::SKEWED),
            audit_dropped: counter!(keys::AUDIT_DROPPED),
            errors: classes.iter().map(|&class| (class, counter!(keys::ERRORS, "class" => class))).collect(),
        }
    }

    /// Counts an operation that failed.
    pub(crate) fn count_error(&self, class: &'static str) {
        count(&self.errors, class);
    }
}

/// Counts one of the words that were registered.
fn count(counters: &[(&'static str, Counter)], word: &'static str) {
    if let Some((_, counter)) = counters.iter().find(|(known, _)| *known == word) {
        counter.increment(1);
    }
}
