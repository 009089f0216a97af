//! The store calls that each combination of cached and stored keys may cost: spec section 2.6, all 81 cases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use actix::Arbiter;
use async_trait::async_trait;

use super::status::KeyStatus;
use super::{CachedKey, KeyCache, KeyIndex, KeyRing, Loader, Wanted};
use crate::actors::{Guard, KmsCalls, KmsClient, MetastoreWriter, Stores};
use crate::audit::{Audit, AuditSettings};
use crate::clock::{Clock, ManualClock};
use crate::crypto::system_random;
use crate::error::{Error, StoreError};
use crate::ids::{KeyId, KeyKind, KeyMeta, Realm};
use crate::kms::StaticKms;
use crate::memory::{LockedKey, Vault};
use crate::metrics::Meters;
use crate::policy::CryptoPolicy;
use crate::record::EnvelopeKeyRecord;
use crate::retry::RetryPolicy;
use crate::stores::{InMemoryMetastore, Metastore, StoreOutcome};

const NOW: i64 = 1_700_000_000;
const OLDER: i64 = NOW - 2_000;
const OLD: i64 = NOW - 1_000;
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Retired,
    Valid,
    Empty,
}

const STATES: [Is; 3] = [Is::Retired, Is::Valid, Is::Empty];

/// Calls by operation and kind of key.
#[derive(Debug, Default)]
struct Calls {
    load_system: AtomicU32,
    load_intermediate: AtomicU32,
    latest_system: AtomicU32,
    latest_intermediate: AtomicU32,
    store_system: AtomicU32,
    store_intermediate: AtomicU32,
}

impl Calls {
    fn get(&self) -> [u32; 6] {
        [
            &self.load_system,
            &self.load_intermediate,
            &self.latest_system,
            &self.latest_intermediate,
            &self.store_system,
            &self.store_intermediate,
        ]
        .map(|calls| calls.load(Ordering::SeqCst))
    }
}

#[derive(Default)]
struct CountingStore {
    rows: InMemoryMetastore,
    calls: Calls,
}

fn count(id: &KeyId, system: &AtomicU32, intermediate: &AtomicU32) {
    let counter = if id.kind() == Some(KeyKind::System) { system } else { intermediate };
    counter.fetch_add(1, Ordering::SeqCst);
}

#[async_trait]
impl Metastore for CountingStore {
    async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        count(&key.id, &self.calls.load_system, &self.calls.load_intermediate);
        self.rows.load(key).await
    }

    async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        count(id, &self.calls.latest_system, &self.calls.latest_intermediate);
        self.rows.load_latest(id).await
    }

    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        count(id, &self.calls.store_system, &self.calls.store_intermediate);
        self.rows.store(id, record).await
    }
}

/// One system key and one intermediate key id, with whatever a case wants to be cached and stored of them.
struct Stage {
    keys: KeyCache,
    guard: Guard,
    kms: KmsClient,
    store: Arc<CountingStore>,
    system: Arc<KeyRing>,
    intermediate: Arc<KeyRing>,
}

impl Stage {
    fn new() -> Self {
        let arbiter = Arbiter::current();
        let store = Arc::new(CountingStore::default());
        let realm = Realm::new("svc", "prod", None, &[]).unwrap();
        let index = Arc::new(KeyIndex::default());
        let guard = Guard::start(&arbiter, Vault::with_random(system_random()).unwrap());
        let kms = StaticKms::new(b"thisIsAStaticMasterKeyForTesting").unwrap();
        let meters = Arc::new(Meters::new("memory", "static", &[], &[]));
        let kms = KmsCalls::new(Arc::new(kms), RetryPolicy::none(), SECOND, meters.kms.clone(), system_random());
        let kms = KmsClient::start(&arbiter, Arc::new(kms), SECOND);
        let now = SystemTime::UNIX_EPOCH + SECOND * u32::try_from(NOW).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(now));
        let dropped = meters.audit_dropped.clone();
        let audit = Audit::start(AuditSettings::default(), Arc::clone(&clock), &system_random(), dropped).unwrap();
        let rows = Arc::clone(&store) as Arc<dyn Metastore>;
        let system = index.ring(realm.system_key());
        let intermediate = index.ring(realm.partition("p").unwrap().intermediate_key());
        let stores = Stores::new(rows, None, &RetryPolicy::none(), &meters, &system_random());
        let loader = Loader {
            store: MetastoreWriter::start(&arbiter, stores, SECOND),
            kms: kms.clone(),
            guard: guard.clone(),
            index,
            outlawed: Arc::default(),
            in_flight: Arc::default(),
            realm,
            policy: Arc::new(CryptoPolicy::default()),
            clock,
            random: system_random(),
            meters,
            audit: Arc::new(audit),
        };
        let keys = KeyCache::start(&arbiter, loader, 10 * SECOND);
        Self { keys, guard, kms, store, system, intermediate }
    }

    async fn new_key(&self) -> Arc<LockedKey> {
        self.guard.reserve().await.unwrap().generate::<Error>(b"label").unwrap()
    }

    async fn insert(&self, ring: &KeyRing, record: EnvelopeKeyRecord) {
        assert_eq!(self.store.rows.store(ring.id(), &record).await.unwrap(), StoreOutcome::Stored);
    }

    /// Sets the stage for a case. What is retired in the cache is an older version than the one in the store; a stored
    /// key that is retired was so after it was cached.
    async fn set(&self, cached_ik: Is, stored_ik: Is, cached_sk: Is, stored_sk: Is) {
        let (sk_old, sk_older) = (self.new_key().await, self.new_key().await);
        if stored_sk != Is::Empty {
            let encrypted_key = self.kms.wrap(Arc::clone(&sk_old)).await.unwrap();
            let revoked = stored_sk == Is::Retired;
            let record = EnvelopeKeyRecord { created: OLD, encrypted_key, parent_key: None, revoked };
            self.insert(&self.system, record).await;
        }
        let (parent, parent_created) = if cached_sk == Is::Retired { (&sk_older, OLDER) } else { (&sk_old, OLD) };
        match cached_sk {
            Is::Empty => {}
            Is::Valid => cache(&self.system, OLD, &sk_old, false, None),
            Is::Retired => cache(&self.system, OLDER, &sk_older, true, None),
        }
        let ik = self.new_key().await;
        if stored_ik != Is::Empty {
            let wrapped =
                ik.with_bytes(|bytes| parent.using(|state| state.wrap(bytes, &[0; 12], &[]))).unwrap().unwrap();
            let record = EnvelopeKeyRecord {
                created: OLD,
                encrypted_key: wrapped.to_vec(),
                parent_key: Some(KeyMeta { id: self.system.id().clone(), created: parent_created }),
                revoked: stored_ik == Is::Retired,
            };
            self.insert(&self.intermediate, record).await;
        }
        let valid_parent = || Some(status(&self.system, OLD, false));
        match cached_ik {
            Is::Empty => {}
            Is::Valid => cache(&self.intermediate, OLD, &ik, false, valid_parent()),
            Is::Retired => cache(&self.intermediate, OLDER, &ik, true, valid_parent()),
        }
    }
}

fn status(ring: &KeyRing, created: i64, revoked: bool) -> Arc<KeyStatus> {
    let meta = KeyMeta { id: ring.id().clone(), created };
    Arc::new(KeyStatus::new(meta, revoked, NOW * 1000, 255, &CryptoPolicy::default()))
}

fn cache(ring: &KeyRing, created: i64, key: &Arc<LockedKey>, revoked: bool, parent: Option<Arc<KeyStatus>>) {
    let status = status(ring, created, revoked);
    let key = CachedKey::new(&CryptoPolicy::default(), Arc::clone(key), status, parent);
    ring.publish(&Arc::new(key), true);
}

fn on_actors(test: impl Future<Output = ()>) {
    actix::System::new().block_on(test);
}

#[test]
fn encrypting_costs_exactly_the_calls_that_81_states_of_cache_and_store_call_for() {
    on_actors(async {
        for cached_ik in STATES {
            for stored_ik in STATES {
                for cached_sk in STATES {
                    for stored_sk in STATES {
                        encrypting_costs_the_calls_of(cached_ik, stored_ik, cached_sk, stored_sk).await;
                    }
                }
            }
        }
    });
}

async fn encrypting_costs_the_calls_of(cached_ik: Is, stored_ik: Is, cached_sk: Is, stored_sk: Is) {
    use Is::{Empty, Retired, Valid};
    let case =
        format!("cached IK {cached_ik:?}, stored IK {stored_ik:?}, cached SK {cached_sk:?}, stored SK {stored_sk:?}");
    let stage = Stage::new();
    stage.set(cached_ik, stored_ik, cached_sk, stored_sk).await;

    let key = stage.keys.get(Arc::clone(&stage.intermediate), Wanted::Latest).await.unwrap();

    let miss = cached_ik != Valid;
    let store_ik = miss && !(stored_ik == Valid && (cached_sk == Valid || (cached_sk == Empty && stored_sk == Valid)));
    let store_sk = miss && cached_sk != Valid && stored_sk != Valid;
    let load_sk = miss && stored_ik == Valid && cached_sk == Empty;
    let latest_sk = miss
        && if stored_ik == Valid {
            cached_sk == Retired || (cached_sk == Empty && stored_sk != Valid)
        } else {
            cached_sk != Valid
        };
    let expected = [load_sk, false, latest_sk, miss, store_sk, store_ik].map(u32::from);
    assert_eq!(stage.store.calls.get(), expected, "{case}: load SK, IK; load latest SK, IK; store SK, IK");
    let made_now = CryptoPolicy::default().next_created(NOW * 1000, None).unwrap();
    assert_eq!(key.meta().created, if store_ik { made_now } else { OLD }, "{case}");
}

#[test]
fn decrypting_loads_what_is_not_cached_and_nothing_else() {
    on_actors(async {
        for cached_ik in STATES {
            for cached_sk in STATES {
                for stored in [Is::Valid, Is::Retired] {
                    let stage = Stage::new();
                    stage.set(cached_ik, stored, cached_sk, stored).await;
                    let created = if cached_ik == Is::Retired { OLDER } else { OLD };
                    stage.keys.get(Arc::clone(&stage.intermediate), Wanted::Exact(created)).await.unwrap();
                    let load_ik = cached_ik == Is::Empty;
                    let load_sk = load_ik && cached_sk == Is::Empty;
                    let expected = [load_sk, load_ik, false, false, false, false].map(u32::from);
                    assert_eq!(stage.store.calls.get(), expected, "{cached_ik:?} {cached_sk:?} {stored:?}");
                }
            }
        }
    });
}
