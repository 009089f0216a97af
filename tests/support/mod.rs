//! The stage of the requirement tests: a clock that stands still, an outside world that counts, blocks and fails on
//! demand (`outside.rs`), and factories on top of them.
#![allow(dead_code, unused_imports, reason = "every test binary uses its own part of the stage")]

mod outside;

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyward::{
    BuildError, Clock, CryptoPolicy, DataRowRecord, Error, KeyId, KeyMeta, ManualClock, RetryPolicy, Session,
    SessionFactory, SessionFactoryBuilder,
};

use outside::Region;
pub(crate) use outside::{Call, Calls, CountingKms, Fault, Recorder};

pub(crate) type TestResult<T = ()> = Result<T, Box<dyn StdError>>;

/// 2026-01-01T12:00:05Z, where every clock begins.
pub(crate) const START: i64 = 1_767_268_805;
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(crate) const MASTER_KEY: &[u8; 32] = b"thisIsAStaticMasterKeyForTesting";
/// The id under which calls of the key management service meet gates and faults.
pub(crate) const KMS: &str = "kms";

/// A service and product with all that they need, and one factory for them.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) store: Arc<Recorder>,
    pub(crate) kms: Arc<CountingKms>,
    pub(crate) factory: SessionFactory,
    pub(crate) setup: Setup,
}

/// What a test may want otherwise.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) service: String,
    pub(crate) product: String,
    pub(crate) policy: CryptoPolicy,
    pub(crate) suffix: Option<String>,
    pub(crate) readable: Vec<String>,
    pub(crate) operation_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) max_payload: usize,
    /// How calls to the store are repeated: not, so that each story tells what one failure does.
    pub(crate) retries: RetryPolicy,
    /// By how much the factory's clock is ahead of the world's.
    pub(crate) clock_ahead: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            service: "svc".to_owned(),
            product: "prod".to_owned(),
            policy: CryptoPolicy::default(),
            suffix: None,
            readable: Vec::new(),
            operation_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(2),
            max_payload: 64 * 1024 * 1024,
            retries: RetryPolicy::none(),
            clock_ahead: Duration::ZERO,
        }
    }
}

impl World {
    pub(crate) async fn new() -> TestResult<Self> {
        Self::with(|_| ()).await
    }

    /// Makes a world whose setup `change` has altered.
    pub(crate) async fn with(change: impl FnOnce(&mut Setup)) -> TestResult<Self> {
        let mut setup = Setup::default();
        change(&mut setup);
        let clock = Arc::new(ManualClock::at(UNIX_EPOCH + Duration::from_secs(START.unsigned_abs())));
        let store = Arc::new(Recorder::default());
        let kms = Arc::new(CountingKms::new(Arc::clone(&store.control))?);
        let factory = builder(&setup, &clock, &store, &kms).build().await?;
        Ok(Self { clock, store, kms, factory, setup })
    }

    pub(crate) async fn with_policy(change: impl FnOnce(&mut CryptoPolicy)) -> TestResult<Self> {
        Self::with(|setup| change(&mut setup.policy)).await
    }

    /// Builds one more factory on the same store: a second process.
    pub(crate) async fn another(&self) -> Result<SessionFactory, BuildError> {
        self.another_with(|_| ()).await
    }

    /// Builds one more factory on the same store, set up differently.
    pub(crate) async fn another_with(&self, change: impl FnOnce(&mut Setup)) -> Result<SessionFactory, BuildError> {
        let mut setup = self.setup.clone();
        change(&mut setup);
        builder(&setup, &self.clock, &self.store, &self.kms).build().await
    }

    /// Ends the process and starts it again on the same store.
    pub(crate) async fn restart(&mut self) -> TestResult {
        self.factory.close().await?;
        self.factory = self.another().await?;
        Ok(())
    }

    pub(crate) async fn session(&self, partition: &str) -> Result<Session, Error> {
        self.factory.session(partition).await
    }

    pub(crate) async fn encrypt(&self, partition: &str, payload: &[u8]) -> Result<DataRowRecord, Error> {
        self.session(partition).await?.encrypt(payload).await
    }

    pub(crate) async fn decrypt(&self, partition: &str, record: &DataRowRecord) -> Result<Vec<u8>, Error> {
        self.session(partition).await?.decrypt(record).await
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub(crate) fn system_key(&self) -> String {
        let Setup { service, product, suffix, .. } = &self.setup;
        with_suffix(&format!("_SK_{service}_{product}"), suffix.as_deref())
    }

    pub(crate) fn intermediate_key(&self, partition: &str) -> String {
        let Setup { service, product, suffix, .. } = &self.setup;
        with_suffix(&format!("_IK_{partition}_{service}_{product}"), suffix.as_deref())
    }

    pub(crate) fn calls(&self) -> Calls {
        self.store.control.calls()
    }

    /// Runs `work` and returns its output and the calls that were made meanwhile.
    pub(crate) async fn counting<R>(&self, work: impl Future<Output = R>) -> (R, Calls) {
        let before = self.calls();
        let output = work.await;
        (output, self.calls() - before)
    }

    /// Closes the factory and checks that no key is left.
    pub(crate) async fn close(&self) -> TestResult {
        self.factory.close().await?;
        assert_eq!(self.factory.status().live_keys, 0, "a closed factory holds no keys");
        Ok(())
    }
}

fn with_suffix(id: &str, suffix: Option<&str>) -> String {
    suffix.map_or_else(|| id.to_owned(), |suffix| format!("{id}_{suffix}"))
}

fn builder(
    setup: &Setup,
    clock: &Arc<ManualClock>,
    store: &Arc<Recorder>,
    kms: &Arc<CountingKms>,
) -> SessionFactoryBuilder {
    SessionFactory::builder(&setup.service, &setup.product)
        .metastore(Region { store: Arc::clone(store), suffix: setup.suffix.clone() })
        .kms(Arc::clone(kms))
        .policy(setup.policy.clone())
        .readable_region_suffixes(setup.readable.clone())
        .clock(Ahead { clock: Arc::clone(clock), by: setup.clock_ahead })
        .operation_timeout(setup.operation_timeout)
        .metastore_timeout(Duration::from_secs(30))
        .kms_timeout(Duration::from_secs(30))
        .drain_timeout(setup.drain_timeout)
        .max_payload(setup.max_payload)
        .metastore_retries(setup.retries.clone())
        .kms_retries(setup.retries.clone())
}

/// The key table as a metastore without a region.
pub(crate) fn metastore(store: &Arc<Recorder>) -> impl keyward::stores::Metastore {
    Region { store: Arc::clone(store), suffix: None }
}

/// The clock of a machine that is ahead of the others.
struct Ahead {
    clock: Arc<ManualClock>,
    by: Duration,
}

impl Clock for Ahead {
    fn now(&self) -> SystemTime {
        self.clock.now() + self.by
    }
}

pub(crate) fn key(id: &str, created: i64) -> KeyMeta {
    KeyMeta { id: KeyId::new(id), created }
}

/// The time of day, `seconds` after 1970.
pub(crate) fn at(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())
}

/// Returns a copy of `bytes` with one bit turned.
pub(crate) fn flip(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    copy[bit / 8] ^= 1 << (bit % 8);
    copy
}

/// Polls a future at most `times` times, whether it asked for it or not, and drops it.
pub(crate) fn poll_and_drop<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = Box::pin(future);
    for _ in 0..times {
        if let Poll::Ready(output) = poll_once(future.as_mut()) {
            return Some(output);
        }
    }
    None
}

pub(crate) fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Yields until `condition` holds: for what other threads do in their own time.
///
/// # Panics
/// After five seconds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(5), "never happened: {what}");
        tokio::task::yield_now().await;
    }
}

/// Returns when what was asked for in the background before is done; costs a look for a key of another partition, by
/// `number`.
pub(crate) async fn settle(factory: &SessionFactory, number: i64) {
    let session = factory.session(&format!("settle {number}")).await.expect("the id is usable");
    // The request comes after that on the same road. It fails where the store is away.
    let _ = session.encrypt(b"").await;
    eventually("all loads have ended", || factory.status().loads_in_flight == 0).await;
}
