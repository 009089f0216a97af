//! Random lives of two processes on one store, by an injected clock.
//!
//! What must hold, whatever happens in which order:
//! * every record that was ever returned decrypts to its payload, in every process, for ever;
//! * no record is made under an intermediate key that is expired, or whose system key is, or that was revoked (or its
//!   system key) longer ago than the revoke check interval;
//! * a key is made only when the newest one is of no more use, so all but the newest row of an id are invalid;
//! * a closed factory holds no keys.

mod support;

use std::collections::HashMap;
use std::time::Duration;

use keyward::{CacheScope, Clock, DataRowRecord, Error, KeyMeta, SessionFactory};
use proptest::prelude::*;
use support::{Call, DAY, Fault, HOUR, SECOND, TestResult, World, eventually, poll_and_drop};

const PARTITIONS: [&str; 3] = ["alice", "bob", "carol"];
const EXPIRE: Duration = DAY;
const INTERVAL: Duration = HOUR;
/// The same in milliseconds, as the model counts.
const EXPIRE_MILLIS: i64 = 24 * 3600 * 1000;
const INTERVAL_MILLIS: i64 = 3600 * 1000;

#[derive(Debug, Clone)]
enum Action {
    Encrypt { process: usize, partition: usize, json: bool },
    Decrypt { process: usize, record: usize },
    RevokeIntermediate { partition: usize },
    RevokeSystem,
    Advance { seconds: u32 },
    Restart { process: usize, closing: bool },
    Cancel { process: usize, partition: usize, polls: usize },
    Fail { process: usize, partition: usize, fault: Fault, call: Option<Call> },
}

fn action() -> impl Strategy<Value = Action> {
    let (process, partition) = (0_usize..2, 0..PARTITIONS.len());
    let seconds = prop_oneof![
        3 => 0_u32..5,
        2 => 5_u32..300,
        3 => 300_u32..7200,
        2 => 7200_u32..200_000,
        1 => 200_000_u32..100 * 24 * 3600,
    ];
    let fault = prop_oneof![Just(Fault::Transient), Just(Fault::LostReply), Just(Fault::Panic)];
    let call = prop_oneof![Just(None), Just(Some(Call::Store)), Just(Some(Call::Load)), Just(Some(Call::Unwrap))];
    prop_oneof![
        8 => (process.clone(), partition.clone(), any::<bool>())
            .prop_map(|(process, partition, json)| Action::Encrypt { process, partition, json }),
        4 => (process.clone(), any::<usize>()).prop_map(|(process, record)| Action::Decrypt { process, record }),
        2 => partition.clone().prop_map(|partition| Action::RevokeIntermediate { partition }),
        1 => Just(Action::RevokeSystem),
        6 => seconds.prop_map(|seconds| Action::Advance { seconds }),
        1 => (process.clone(), any::<bool>()).prop_map(|(process, closing)| Action::Restart { process, closing }),
        1 => (process.clone(), partition.clone(), 0_usize..4)
            .prop_map(|(process, partition, polls)| Action::Cancel { process, partition, polls }),
        1 => (process, partition, fault, call)
            .prop_map(|(process, partition, fault, call)| Action::Fail { process, partition, fault, call }),
    ]
}

/// The caches of both processes.
#[derive(Debug, Clone)]
struct Caches {
    intermediate_keys: usize,
    system_keys: usize,
    sessions: Option<usize>,
    scope: CacheScope,
}

fn caches() -> impl Strategy<Value = Caches> {
    let scope = prop_oneof![Just(CacheScope::Factory), Just(CacheScope::Session)];
    (1_usize..4, 1_usize..3, proptest::option::of(1_usize..3), scope).prop_map(
        |(intermediate_keys, system_keys, sessions, scope)| Caches { intermediate_keys, system_keys, sessions, scope },
    )
}

/// What the test knows that the processes may not.
struct Model {
    world: World,
    processes: Vec<SessionFactory>,
    records: Vec<(usize, DataRowRecord, Vec<u8>)>,
    /// When keys were revoked, in Unix milliseconds.
    revoked: HashMap<KeyMeta, i64>,
    cancelled: usize,
}

impl Model {
    async fn new(caches: &Caches) -> TestResult<Self> {
        let world = World::with_policy(|policy| {
            policy.expire_after = EXPIRE;
            policy.revoke_check_interval = INTERVAL;
            policy.intermediate_key_cache_size = caches.intermediate_keys;
            policy.system_key_cache_size = caches.system_keys;
            policy.intermediate_key_cache_scope = caches.scope;
            policy.cache_sessions = caches.sessions.is_some();
            policy.session_cache_size = caches.sessions.unwrap_or(1);
        })
        .await?;
        let processes = vec![world.factory.clone(), world.another().await?];
        Ok(Self { world, processes, records: Vec::new(), revoked: HashMap::new(), cancelled: 0 })
    }

    async fn act(&mut self, action: Action) -> TestResult {
        match action {
            Action::Encrypt { process, partition, json } => {
                let payload = self.records.len().to_le_bytes().to_vec();
                let session = self.processes[process].session(PARTITIONS[partition]).await?;
                let record = if json {
                    DataRowRecord::from_json(&session.encrypt_json(&payload).await?)?
                } else {
                    session.encrypt(&payload).await?
                };
                self.check_keys_of(&record)?;
                self.records.push((partition, record, payload));
            }
            Action::Decrypt { process, record } if !self.records.is_empty() => {
                let (partition, record, payload) = &self.records[record % self.records.len()];
                let session = self.processes[process].session(PARTITIONS[*partition]).await?;
                assert_eq!(session.decrypt(record).await?, *payload);
            }
            Action::Decrypt { .. } => {}
            Action::RevokeIntermediate { partition } => {
                self.revoke(&self.world.intermediate_key(PARTITIONS[partition]));
            }
            Action::RevokeSystem => self.revoke(&self.world.system_key()),
            Action::Advance { seconds } => self.world.advance(seconds * SECOND),
            Action::Restart { process, closing } => {
                let next = self.world.another().await?;
                let last = std::mem::replace(&mut self.processes[process], next);
                if closing {
                    close(&last).await?;
                }
            }
            Action::Cancel { process, partition, polls } => {
                let session = self.processes[process].session(PARTITIONS[partition]).await?;
                let _ = poll_and_drop(session.encrypt(b"never seen"), polls);
                self.cancelled += 1;
            }
            Action::Fail { process, partition, fault, call } => {
                self.world.store.control.fail(1, call, None, fault);
                let session = self.processes[process].session(PARTITIONS[partition]).await?;
                match session.encrypt(b"perhaps").await {
                    Ok(record) => {
                        self.check_keys_of(&record)?;
                        self.records.push((partition, record, b"perhaps".to_vec()));
                    }
                    Err(Error::Metastore(_) | Error::Kms(_) | Error::Restarted { .. }) => {}
                    Err(other) => return Err(other.into()),
                }
                self.world.store.control.heal();
            }
        }
        Ok(())
    }

    fn revoke(&mut self, id: &str) {
        if self.world.store.rows(id).is_empty() {
            return;
        }
        let key = support::key(id, self.world.store.revoke_latest(id));
        let now = self.now();
        self.revoked.entry(key).or_insert(now);
    }

    fn now(&self) -> i64 {
        let since = self.world.clock.now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        i64::try_from(since.as_millis()).expect("this century")
    }

    /// Checks that no process could have known better than to use these keys.
    fn check_keys_of(&self, record: &DataRowRecord) -> TestResult {
        let intermediate = record.parent_key().clone();
        let rows = self.world.store.rows(intermediate.id.as_str());
        let row = rows.iter().find(|row| row.created == intermediate.created).ok_or("the key is stored")?;
        let system = row.parent_key.clone().ok_or("it has a parent")?;
        for key in [intermediate, system] {
            let age = self.now() - key.created * 1000;
            assert!(age <= EXPIRE_MILLIS, "{key} encrypted though it expired");
            if let Some(revoked) = self.revoked.get(&key) {
                let since = self.now() - revoked;
                assert!(since <= INTERVAL_MILLIS, "{key} encrypted {since} ms after its revocation");
            }
        }
        Ok(())
    }

    /// Counts rows that are valid and yet not the newest of their id.
    fn superfluous_rows(&self) -> usize {
        let system = self.world.system_key();
        let is_invalid = |id: &str, created: i64| {
            self.revoked.contains_key(&support::key(id, created)) || self.now() - created * 1000 > EXPIRE_MILLIS
        };
        let ids = PARTITIONS.iter().map(|partition| self.world.intermediate_key(partition)).chain([system]);
        ids.map(|id| {
            let mut rows = self.world.store.rows(&id);
            rows.pop();
            rows.retain(|row| {
                let parent_is_invalid =
                    row.parent_key.as_ref().is_some_and(|parent| is_invalid(parent.id.as_str(), parent.created));
                !is_invalid(&id, row.created) && !parent_is_invalid
            });
            rows.len()
        })
        .sum()
    }

    async fn finish(self) -> TestResult {
        // An encrypt that was given up goes on by the time it had; if it comes late it may add a row behind the newest.
        let superfluous = self.superfluous_rows();
        assert!(superfluous <= self.cancelled, "{superfluous} keys were made for nothing");
        let fresh = self.world.another().await?;
        for process in self.processes.iter().chain([&fresh]) {
            for (partition, record, payload) in &self.records {
                let session = process.session(PARTITIONS[*partition]).await?;
                assert_eq!(session.decrypt(record).await?, *payload);
                assert_eq!(session.decrypt_json(&record.to_json()).await?, *payload);
            }
            close(process).await?;
        }
        Ok(())
    }
}

async fn close(factory: &SessionFactory) -> TestResult {
    factory.close().await?;
    // What was cancelled may hold its key for a moment longer.
    eventually("no key is left", || factory.status().live_keys == 0).await;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_stay_readable_and_invalid_keys_unused(
        caches in caches(),
        actions in proptest::collection::vec(action(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let outcome: TestResult = runtime.block_on(async {
            let mut model = Model::new(&caches).await?;
            for action in actions {
                model.act(action).await?;
            }
            model.finish().await
        });
        prop_assert!(outcome.is_ok(), "{:?}", outcome);
    }
}
