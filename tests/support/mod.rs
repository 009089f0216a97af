//! The stage of the requirement tests: a clock that stands still, a store and a master key service that count, block
//! and fail on demand, and factories on top of them.
#![allow(dead_code, reason = "every test binary uses its own part of the stage")]

use std::collections::{BTreeMap, HashMap};
use std::error::Error as StdError;
use std::future::Future;
use std::ops::Sub;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use keyward::kms::{KeyManagementService, KmsError, StaticKms, SystemKey};
use keyward::stores::{Metastore, StoreError, StoreOutcome};
use keyward::{
    BuildError, CryptoPolicy, DataRowRecord, EnvelopeKeyRecord, Error, KeyId, KeyKind, KeyMeta, ManualClock, Session,
    SessionFactory, SessionFactoryBuilder,
};
use secrecy::SecretSlice;
use tokio::sync::{Semaphore, watch};

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
        with_suffix(format!("_SK_{service}_{product}"), suffix.as_deref())
    }

    pub(crate) fn intermediate_key(&self, partition: &str) -> String {
        let Setup { service, product, suffix, .. } = &self.setup;
        with_suffix(format!("_IK_{partition}_{service}_{product}"), suffix.as_deref())
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

fn with_suffix(id: String, suffix: Option<&str>) -> String {
    suffix.map_or_else(|| id.clone(), |suffix| format!("{id}_{suffix}"))
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
        .clock(Arc::clone(clock))
        .operation_timeout(setup.operation_timeout)
        .metastore_timeout(Duration::from_secs(30))
        .kms_timeout(Duration::from_secs(30))
        .drain_timeout(setup.drain_timeout)
        .max_payload(setup.max_payload)
}

/// A call that the library makes to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Load,
    LoadLatest,
    Store,
    Wrap,
    Unwrap,
}

/// How many calls of each kind were made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) load_ik: usize,
    pub(crate) load_sk: usize,
    pub(crate) latest_ik: usize,
    pub(crate) latest_sk: usize,
    pub(crate) store_ik: usize,
    pub(crate) store_sk: usize,
    pub(crate) wrap: usize,
    pub(crate) unwrap: usize,
}

impl Calls {
    pub(crate) const NONE: Self =
        Self { load_ik: 0, load_sk: 0, latest_ik: 0, latest_sk: 0, store_ik: 0, store_sk: 0, wrap: 0, unwrap: 0 };

    fn count(&mut self, call: Call, id: &str) {
        let system = KeyId::new(id).kind() == Some(KeyKind::System);
        *match (call, system) {
            (Call::Load, false) => &mut self.load_ik,
            (Call::Load, true) => &mut self.load_sk,
            (Call::LoadLatest, false) => &mut self.latest_ik,
            (Call::LoadLatest, true) => &mut self.latest_sk,
            (Call::Store, false) => &mut self.store_ik,
            (Call::Store, true) => &mut self.store_sk,
            (Call::Wrap, _) => &mut self.wrap,
            (Call::Unwrap, _) => &mut self.unwrap,
        } += 1;
    }

    /// Calls to the store.
    pub(crate) fn store(&self) -> usize {
        self.load_ik + self.load_sk + self.latest_ik + self.latest_sk + self.store_ik + self.store_sk
    }

    /// Calls to the key management service.
    pub(crate) fn kms(&self) -> usize {
        self.wrap + self.unwrap
    }
}

impl Sub for Calls {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            load_ik: self.load_ik - earlier.load_ik,
            load_sk: self.load_sk - earlier.load_sk,
            latest_ik: self.latest_ik - earlier.latest_ik,
            latest_sk: self.latest_sk - earlier.latest_sk,
            store_ik: self.store_ik - earlier.store_ik,
            store_sk: self.store_sk - earlier.store_sk,
            wrap: self.wrap - earlier.wrap,
            unwrap: self.unwrap - earlier.unwrap,
        }
    }
}

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Transient,
    Permanent,
    /// The row is written, the answer lost.
    LostReply,
    Panic,
}

/// Which calls go wrong.
struct Rule {
    call: Option<Call>,
    id: Option<String>,
    left: usize,
    fault: Fault,
}

/// Counts calls, lets them wait, and decides which of them fail.
#[derive(Default)]
pub(crate) struct Control {
    calls: Mutex<Calls>,
    gates: Mutex<HashMap<String, Arc<Gate>>>,
    rules: Mutex<Vec<Rule>>,
}

impl Control {
    pub(crate) fn calls(&self) -> Calls {
        *lock(&self.calls)
    }

    /// Makes all calls that concern `id` wait until the gate is opened.
    pub(crate) fn block(&self, id: &str) -> Arc<Gate> {
        let gate = Arc::new(Gate { permits: Semaphore::new(0), arrived: watch::channel(0).0 });
        lock(&self.gates).insert(id.to_owned(), Arc::clone(&gate));
        gate
    }

    /// Makes the answers to all loads of `id` wait, already read, until the gate is opened.
    pub(crate) fn delay_answers(&self, id: &str) -> Arc<Gate> {
        self.block(&answer_to(id))
    }

    async fn wait(&self, place: &str) {
        let gate = lock(&self.gates).get(place).cloned();
        if let Some(gate) = gate {
            gate.arrived.send_modify(|arrived| *arrived += 1);
            // There never is a permit: an open gate's semaphore is closed.
            let _ = gate.permits.acquire().await;
        }
    }

    /// Makes the next `count` calls of a kind, and about an id, go wrong; `None` is any.
    pub(crate) fn fail(&self, count: usize, call: Option<Call>, id: Option<&str>, fault: Fault) {
        lock(&self.rules).push(Rule { call, id: id.map(str::to_owned), left: count, fault });
    }

    /// Ends all faults.
    pub(crate) fn heal(&self) {
        lock(&self.rules).clear();
    }

    /// Counts a call, waits for its gate and tells how it goes wrong, if it does.
    async fn pass(&self, call: Call, id: &str) -> Option<Fault> {
        lock(&self.calls).count(call, id);
        self.wait(id).await;
        let fault = {
            let mut rules = lock(&self.rules);
            let rule = rules.iter_mut().find(|rule| {
                rule.left > 0
                    && rule.call.is_none_or(|wanted| wanted == call)
                    && rule.id.as_deref().is_none_or(|wanted| wanted == id)
            });
            rule.map(|rule| {
                rule.left -= 1;
                rule.fault
            })
        };
        assert_ne!(fault, Some(Fault::Panic), "told to panic in {call:?} of {id}");
        fault
    }
}

/// Where calls wait.
pub(crate) struct Gate {
    permits: Semaphore,
    arrived: watch::Sender<usize>,
}

impl Gate {
    /// Returns when `count` calls have arrived in all.
    pub(crate) async fn arrivals(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        arrived.wait_for(|arrived| *arrived >= count).await.expect("the gate holds the sender");
    }

    /// Lets everyone through, now and later.
    pub(crate) fn open(&self) {
        self.permits.close();
    }
}

/// A key table that counts, blocks and fails, and that an administrator may change.
#[derive(Default)]
pub(crate) struct Recorder {
    rows: Mutex<BTreeMap<KeyMeta, EnvelopeKeyRecord>>,
    pub(crate) control: Arc<Control>,
}

impl Recorder {
    /// Returns the rows of a key id, oldest first.
    pub(crate) fn rows(&self, id: &str) -> Vec<EnvelopeKeyRecord> {
        lock(&self.rows).iter().filter(|(key, _)| key.id.as_str() == id).map(|(_, row)| row.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.rows).len()
    }

    pub(crate) fn latest(&self, id: &str) -> EnvelopeKeyRecord {
        self.rows(id).pop().expect("the key exists")
    }

    pub(crate) fn revoke(&self, id: &str, created: i64) {
        self.change(id, created, |row| row.revoked = true);
    }

    /// Revokes the latest version of a key and returns when it was created.
    pub(crate) fn revoke_latest(&self, id: &str) -> i64 {
        let created = self.latest(id).created;
        self.revoke(id, created);
        created
    }

    pub(crate) fn change(&self, id: &str, created: i64, change: impl FnOnce(&mut EnvelopeKeyRecord)) {
        change(lock(&self.rows).get_mut(&key(id, created)).expect("the row exists"));
    }

    pub(crate) fn remove(&self, id: &str, created: i64) {
        lock(&self.rows).remove(&key(id, created)).expect("the row exists");
    }

    pub(crate) fn insert(&self, id: &str, record: EnvelopeKeyRecord) {
        lock(&self.rows).insert(key(id, record.created), record);
    }
}

/// A [`Recorder`] as one region sees it.
struct Region {
    store: Arc<Recorder>,
    suffix: Option<String>,
}

#[async_trait]
impl Metastore for Region {
    async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        check(self.store.control.pass(Call::Load, key.id.as_str()).await)?;
        let row = lock(&self.store.rows).get(key).cloned();
        self.store.control.wait(&answer_to(key.id.as_str())).await;
        Ok(row)
    }

    async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        check(self.store.control.pass(Call::LoadLatest, id.as_str()).await)?;
        let row = self.store.rows(id.as_str()).pop();
        self.store.control.wait(&answer_to(id.as_str())).await;
        Ok(row)
    }

    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        let fault = self.store.control.pass(Call::Store, id.as_str()).await;
        if fault != Some(Fault::LostReply) {
            check(fault)?;
        }
        let place = KeyMeta { id: id.clone(), created: record.created };
        let outcome = match lock(&self.store.rows).entry(place) {
            std::collections::btree_map::Entry::Occupied(_) => StoreOutcome::Duplicate,
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(record.clone());
                StoreOutcome::Stored
            }
        };
        check(fault)?;
        Ok(outcome)
    }

    fn region_suffix(&self) -> Option<&str> {
        self.suffix.as_deref()
    }
}

fn answer_to(id: &str) -> String {
    format!("answer to {id}")
}

fn check(fault: Option<Fault>) -> Result<(), StoreError> {
    match fault {
        None => Ok(()),
        Some(Fault::Permanent) => {
            Err(StoreError::Permanent { operation: "test", advice: None, source: "told to refuse".into() })
        }
        Some(_) => Err(StoreError::Transient { operation: "test", advice: None, source: "told to fail".into() }),
    }
}

/// A static master key behind gates and faults.
pub(crate) struct CountingKms {
    inner: StaticKms,
    control: Arc<Control>,
}

impl CountingKms {
    pub(crate) fn new(control: Arc<Control>) -> Result<Self, KmsError> {
        Ok(Self { inner: StaticKms::new(MASTER_KEY)?, control })
    }

    async fn pass(&self, call: Call) -> Result<(), KmsError> {
        match self.control.pass(call, KMS).await {
            None => Ok(()),
            Some(Fault::Permanent) => Err(KmsError::Permanent { operation: "test", source: "told to refuse".into() }),
            Some(_) => Err(KmsError::Transient { operation: "test", source: "told to fail".into() }),
        }
    }
}

#[async_trait]
impl KeyManagementService for CountingKms {
    async fn encrypt_key(&self, key: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
        self.pass(Call::Wrap).await?;
        self.inner.encrypt_key(key).await
    }

    async fn decrypt_key(&self, encrypted: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
        self.pass(Call::Unwrap).await?;
        self.inner.decrypt_key(encrypted).await
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

/// A number that is different each time.
pub(crate) fn unique() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
