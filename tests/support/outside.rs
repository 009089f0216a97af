//! The outside world: a key table and a master key service that count, block and fail on demand.

use std::collections::{BTreeMap, HashMap};
use std::ops::Sub;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use keyward::kms::{KeyManagementService, KmsError, StaticKms, SystemKey};
use keyward::stores::{KeyAdmin, KeyRow, Metastore, Replacement, Revocation, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, KeyKind, KeyMeta, TOMBSTONE_CREATED};
use secrecy::SecretSlice;
use tokio::sync::{Semaphore, watch};

use super::{KMS, MASTER_KEY, key};

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

    /// Makes the answers to all inserts of `id` wait, the row already written, until the gate is opened.
    pub(crate) fn delay_outcomes(&self, id: &str) -> Arc<Gate> {
        self.block(&outcome_of(id))
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
        let all = key(id, i64::MIN)..=key(id, i64::MAX);
        lock(&self.rows).range(all).map(|(_, row)| row.clone()).collect()
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

    fn insert_new(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> StoreOutcome {
        let mut rows = lock(&self.rows);
        let place = |created| KeyMeta { id: id.clone(), created };
        if rows.contains_key(&place(record.created)) || is_shredded(&rows, id) {
            return StoreOutcome::Duplicate;
        }
        rows.insert(place(record.created), record.clone());
        StoreOutcome::Stored
    }
}

fn is_shredded(rows: &BTreeMap<KeyMeta, EnvelopeKeyRecord>, id: &KeyId) -> bool {
    let last = KeyMeta { id: id.clone(), created: TOMBSTONE_CREATED };
    rows.get(&last).is_some_and(EnvelopeKeyRecord::is_tombstone)
}

/// What operators do meets no gates and no faults, and is not counted.
#[async_trait]
impl KeyAdmin for Recorder {
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        let rows = lock(&self.rows);
        let rest = rows.iter().filter(|(key, _)| after.is_none_or(|after| *key > after)).take(limit);
        Ok(rest.map(|(key, record)| KeyRow { key: key.clone(), record: Ok(record.clone()) }).collect())
    }

    async fn versions(&self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
        let row = |record: EnvelopeKeyRecord| KeyRow {
            key: KeyMeta { id: id.clone(), created: record.created },
            record: Ok(record),
        };
        Ok(self.rows(id.as_str()).into_iter().map(row).collect())
    }

    async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, StoreError> {
        Ok(match lock(&self.rows).get_mut(key) {
            None => Revocation::NotFound,
            Some(row) if row.revoked => Revocation::AlreadyRevoked,
            Some(row) => {
                row.revoked = true;
                Revocation::Revoked
            }
        })
    }

    async fn shred(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError> {
        let mut rows = lock(&self.rows);
        let was_shredded = is_shredded(&rows, id);
        let stays = |key: &KeyMeta| was_shredded && key.created == TOMBSTONE_CREATED;
        let destroyed: Vec<KeyMeta> = rows.keys().filter(|key| key.id == *id && !stays(key)).cloned().collect();
        rows.retain(|key, _| key.id != *id || stays(key));
        if !was_shredded {
            rows.insert(KeyMeta { id: id.clone(), created: TOMBSTONE_CREATED }, tombstone.clone());
        }
        Ok(destroyed)
    }

    async fn replace_wrapped_key(&self, key: &KeyMeta, old: &[u8], new: &[u8]) -> Result<Replacement, StoreError> {
        Ok(match lock(&self.rows).get_mut(key).filter(|row| !row.is_tombstone()) {
            None => Replacement::NotFound,
            Some(row) if row.encrypted_key != old => Replacement::Changed,
            Some(row) => {
                row.encrypted_key = new.to_vec();
                Replacement::Replaced
            }
        })
    }
}

/// A [`Recorder`] as one region sees it.
pub(super) struct Region {
    pub(super) store: Arc<Recorder>,
    pub(super) suffix: Option<String>,
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
        let outcome = self.store.insert_new(id, record);
        self.store.control.wait(&outcome_of(id.as_str())).await;
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

fn outcome_of(id: &str) -> String {
    format!("outcome of {id}")
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
