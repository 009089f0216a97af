//! What a factory refuses, what it keeps within bounds, and that nothing is left of it.

mod support;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keyward::kms::{StaticKms, SystemKey};
use keyward::stores::InMemoryMetastore;
use keyward::{
    BuildError, CacheScope, CryptoPolicy, DataRowRecord, Error, EvictionPolicy, PolicyError, Session, SessionFactory,
    SessionFactoryBuilder,
};
use proptest::prelude::*;
use support::{Calls, DAY, Fault, HOUR, MINUTE, SECOND, TestResult, World, eventually, poll_and_drop};

#[tokio::test]
async fn unusable_configurations_are_refused_with_a_type() -> TestResult {
    let world = World::new().await?;
    type Change = (fn(&mut CryptoPolicy), &'static str);
    let changes: [Change; 3] = [
        (|policy| policy.intermediate_key_cache_size = 0, "intermediate_key_cache_size"),
        (|policy| policy.system_key_cache_size = 0, "system_key_cache_size"),
        (|policy| policy.session_cache_size = 0, "session_cache_size"),
    ];
    for (change, expected) in changes {
        let built = world.another_with(|setup| change(&mut setup.policy)).await;
        assert!(
            matches!(built, Err(BuildError::Policy(PolicyError::Capacity { option })) if option == expected),
            "{expected}: {built:?}"
        );
    }
    let built = world.another_with(|setup| setup.policy.expire_after = Duration::ZERO).await;
    assert!(matches!(built, Err(BuildError::Policy(PolicyError::Lifetime(_)))));
    let built = world.another_with(|setup| setup.policy.session_cache_ttl = Duration::MAX).await;
    assert!(matches!(built, Err(BuildError::Policy(PolicyError::TooLong { .. }))));
    let built = SessionFactory::builder("svc", "prod").kms(Arc::clone(&world.kms)).build().await;
    assert!(matches!(built, Err(BuildError::Missing("metastore"))));
    let built = SessionFactory::builder("svc", "prod").metastore(InMemoryMetastore::new()).build().await;
    assert!(matches!(built, Err(BuildError::Missing(_))));
    Ok(())
}

#[tokio::test]
async fn the_extremes_of_a_usable_policy_work() -> TestResult {
    let longest = Duration::from_secs(100_000_000_000);
    let policies = [EvictionPolicy::Lru, EvictionPolicy::Lfu, EvictionPolicy::TinyLfu, EvictionPolicy::S3Fifo];
    for eviction in policies {
        let world = World::with_policy(|policy| {
            policy.expire_after = longest;
            policy.revoke_check_interval = longest;
            policy.created_precision = longest;
            policy.session_cache_ttl = longest;
            policy.max_stale = longest;
            policy.rotate_ahead = Some(longest);
            policy.clock_skew_tolerance = longest;
            policy.max_wraps = 1 << 32;
            policy.cache_sessions = true;
            policy.intermediate_key_cache_size = 1 << 24;
            policy.intermediate_key_cache_eviction = eviction;
            policy.system_key_cache_size = 1 << 24;
            policy.session_cache_size = 1 << 24;
            policy.session_cache_eviction = eviction;
        })
        .await?;
        let record = world.encrypt("alice", b"tea").await?;
        assert_eq!(world.decrypt("alice", &record).await?, b"tea");
        world.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_full_cache_stays_at_its_bound_and_so_does_the_memory() -> TestResult {
    for (cache_sessions, partitions) in [(false, 5000), (true, 1000)] {
        let world = World::with_policy(|policy| {
            policy.intermediate_key_cache_size = 100;
            policy.cache_sessions = cache_sessions;
            policy.session_cache_size = 50;
        })
        .await?;
        let locked = world.factory.status().memory.locked_bytes;
        let mut samples: Vec<(String, DataRowRecord)> = Vec::new();
        for number in 0..partitions {
            let partition = format!("partition {number}");
            let record = world.encrypt(&partition, b"tea").await?;
            if number % 1000 == 0 {
                samples.push((partition, record));
            }
            if number % 500 == 499 {
                let status = world.factory.status();
                assert!(status.cached_keys <= 101, "{} keys", status.cached_keys);
                // Beside the keys an index entry stays for each session that is kept, and for a load that just ended.
                assert!(status.cached_key_ids <= 101 + 50 + 1, "{} ids", status.cached_key_ids);
                assert!(status.open_sessions <= if cache_sessions { 50 } else { 0 });
                assert!(status.live_keys <= 103, "{} live", status.live_keys);
                assert_eq!(status.memory.locked_bytes, locked);
            }
        }
        for (partition, record) in &samples {
            assert_eq!(world.decrypt(partition, record).await?, b"tea");
        }
        world.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_could_not_be_loaded_leaves_nothing_in_the_index() -> TestResult {
    let world = World::with(|setup| setup.operation_timeout = Duration::from_millis(20)).await?;
    let ids = |count: usize| (0..count).map(|number| format!("p{number}"));
    world.store.control.fail(100, None, None, Fault::Transient);
    for id in ids(100) {
        assert!(world.encrypt(&id, b"tea").await.is_err());
    }
    eventually("failed loads are forgotten", || world.factory.status().cached_key_ids == 0).await;
    // Their callers went away before the loads failed.
    let mut gates = Vec::new();
    for id in ids(10) {
        gates.push(world.store.control.block(&world.intermediate_key(&id)));
        assert!(matches!(world.encrypt(&id, b"tea").await, Err(Error::Timeout { .. })));
    }
    world.store.control.fail(10, None, None, Fault::Transient);
    for gate in gates {
        gate.open();
    }
    eventually("loads without callers are forgotten", || world.factory.status().cached_key_ids == 0).await;
    world.close().await
}

#[tokio::test]
async fn forged_creation_times_cost_few_reads_and_leave_nothing_in_the_index() -> TestResult {
    let world = World::with(|setup| setup.readable = vec!["east".to_owned()]).await?;
    let record = world.encrypt("alice", b"tea").await?;
    let session = world.session("alice").await?;
    let before = world.calls();
    let (mut not_found, mut throttled) = (0, 0);
    for created in 0..1000 {
        let parent = support::key("_IK_alice_svc_prod_east", created);
        let forged = DataRowRecord::from_parts(0, record.encrypted_key().to_vec(), parent, record.data().to_vec());
        match session.decrypt(&forged).await {
            Err(Error::KeyNotFound { .. }) => not_found += 1,
            Err(error @ Error::Throttled { .. }) if error.is_transient() => throttled += 1,
            other => return Err(format!("{other:?}").into()),
        }
    }
    assert_eq!((not_found, throttled), (256, 744));
    assert_eq!(world.calls() - before, support::Calls { load_ik: 256, ..support::Calls::NONE });
    assert_eq!(session.decrypt(&record).await?, b"tea", "what is loaded is not affected");
    eventually("only the own keys are indexed", || world.factory.status().cached_key_ids == 2).await;
    Ok(())
}

#[tokio::test]
async fn a_forged_key_is_read_once_and_changes_nothing() -> TestResult {
    let world = World::new().await?;
    let record = world.encrypt("alice", b"tea").await?;
    let session = world.session("alice").await?;
    let parent = support::key(&world.intermediate_key("alice"), 9_999_999_999);
    let forged = DataRowRecord::from_parts(0, record.encrypted_key().to_vec(), parent, record.data().to_vec());
    let (rows, before) = (world.store.len(), world.calls());
    for _ in 0..100 {
        assert!(matches!(session.decrypt(&forged).await, Err(Error::KeyNotFound { .. })));
    }
    assert_eq!(world.calls() - before, support::Calls { load_ik: 1, ..support::Calls::NONE });
    assert_eq!(world.store.len(), rows);
    assert_eq!(session.encrypt(b"tea").await?.parent_key(), record.parent_key());
    Ok(())
}

#[tokio::test]
async fn a_session_with_keys_of_its_own_takes_them_along() -> TestResult {
    let world = World::with_policy(|policy| policy.intermediate_key_cache_scope = CacheScope::Session).await?;
    let one = world.session("alice").await?;
    let other = world.session("alice").await?;
    let record = one.encrypt(b"tea").await?;
    other.decrypt(&record).await?;
    assert_eq!(world.factory.status().live_keys, 3, "the system key and one intermediate key each");
    drop(one);
    eventually("the keys of the first session are gone", || world.factory.status().live_keys == 2).await;
    let (payload, calls) = world.counting(other.decrypt(&record)).await;
    assert_eq!((payload?.as_slice(), calls), (b"tea".as_slice(), Calls::NONE));
    Ok(())
}

/// One step of a random life.
#[derive(Debug, Clone)]
enum Step {
    Encrypt(u8),
    Decrypt(usize),
    Advance(u32),
    Revoke(u8),
    Fail,
    Abandon(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..6).prop_map(Step::Encrypt),
        3 => any::<usize>().prop_map(Step::Decrypt),
        2 => (0_u32..200 * 24 * 3600).prop_map(Step::Advance),
        1 => (0_u8..7).prop_map(Step::Revoke),
        1 => Just(Step::Fail),
        1 => (0_u8..6).prop_map(Step::Abandon),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_a_closed_factory_holds_no_keys(
        steps in steps(),
        size in 1_usize..5,
        session_scope in any::<bool>(),
        cache_sessions in any::<bool>(),
        caches in any::<(bool, bool)>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let outcome = runtime.block_on(async {
            let world = World::with_policy(|policy| {
                policy.intermediate_key_cache_size = size;
                policy.system_key_cache_size = size;
                policy.session_cache_size = size;
                policy.cache_sessions = cache_sessions;
                policy.cache_intermediate_keys = caches.0;
                policy.cache_system_keys = caches.1;
                if session_scope {
                    policy.intermediate_key_cache_scope = CacheScope::Session;
                }
            })
            .await?;
            live(&world, steps).await
        });
        prop_assert!(outcome.is_ok(), "{:?}", outcome);
    }
}

async fn live(world: &World, steps: Vec<Step>) -> TestResult {
    let mut sessions: Vec<Session> = Vec::new();
    let mut records: Vec<(String, DataRowRecord)> = Vec::new();
    for step in steps {
        match step {
            Step::Encrypt(partition) => {
                let partition = format!("p{partition}");
                let session = world.session(&partition).await?;
                records.push((partition, session.encrypt(b"tea").await?));
                sessions.push(session);
            }
            Step::Decrypt(index) if !records.is_empty() => {
                let (partition, record) = &records[index % records.len()];
                assert_eq!(world.decrypt(partition, record).await?, b"tea");
            }
            Step::Decrypt(_) => {}
            Step::Advance(seconds) => world.advance(seconds * SECOND),
            Step::Revoke(partition) => {
                let id = match partition {
                    6 => world.system_key(),
                    other => world.intermediate_key(&format!("p{other}")),
                };
                if !world.store.rows(&id).is_empty() {
                    world.store.revoke_latest(&id);
                }
            }
            Step::Fail => {
                world.store.control.fail(1, None, None, Fault::Transient);
                let outcome = world.encrypt("p0", b"tea").await;
                assert!(matches!(outcome, Ok(_) | Err(Error::Metastore(_) | Error::Kms(_))), "{outcome:?}");
                world.store.control.heal();
            }
            Step::Abandon(partition) => {
                let session = world.session(&format!("p{partition}")).await?;
                let _ = poll_and_drop(session.encrypt(b"tea"), 1);
            }
        }
        sessions.truncate(3);
    }
    world.factory.close().await?;
    // A load that its close cut off may hold its last reference for a moment longer.
    eventually("no key is left", || world.factory.status().live_keys == 0).await;
    Ok(())
}

#[tokio::test]
async fn evicted_and_replaced_keys_are_gone_at_once() -> TestResult {
    let world = World::with_policy(|policy| policy.intermediate_key_cache_size = 2).await?;
    for name in ["a", "b", "c", "d", "e"] {
        world.encrypt(name, b"tea").await?;
    }
    eventually("two of five are left, and a system key", || world.factory.status().live_keys == 3).await;
    for _ in 0..5 {
        world.advance(90 * DAY + MINUTE);
        world.encrypt("a", b"tea").await?;
    }
    assert!(world.factory.status().cached_keys <= 2 + 6);
    eventually("rotations keep the bound", || world.factory.status().live_keys <= 2 + 6).await;
    world.advance(HOUR + SECOND);
    world.encrypt("a", b"tea").await?;
    world.close().await
}

#[tokio::test]
async fn kept_sessions_end_with_their_time() -> TestResult {
    let world = World::with_policy(|policy| policy.cache_sessions = true).await?;
    world.session("alice").await?;
    let messages = world.factory.status().messages;
    world.session("alice").await?;
    assert_eq!(world.factory.status().messages, messages, "a kept session costs no message");
    assert_eq!(world.factory.status().open_sessions, 1);
    world.advance(2 * HOUR + SECOND);
    world.session("bob").await?;
    assert_eq!(world.factory.status().open_sessions, 1, "alice's time is over");
    Ok(())
}

#[test]
fn sessions_and_their_futures_go_where_tasks_go() {
    fn is_send_and_sync<T: Send + Sync + 'static>() {}
    fn is_send<T: Send>(_: &T) {}
    fn futures_are_send(factory: &SessionFactory, session: &Session, record: &DataRowRecord) {
        is_send(&factory.session("p"));
        is_send(&factory.close());
        is_send(&session.encrypt(b""));
        is_send(&session.encrypt_json(b""));
        is_send(&session.decrypt(record));
        is_send(&session.decrypt_json(b""));
        is_send(&session.close());
    }
    fn building_is_send(builder: SessionFactoryBuilder) {
        is_send(&builder.build());
    }
    let _ = (futures_are_send as fn(&_, &_, &_), building_is_send as fn(_));
    is_send_and_sync::<SessionFactory>();
    is_send_and_sync::<Session>();
    is_send_and_sync::<Error>();
}

/// Tells whether a type has a trait: the inherent constant wins over the trait's where the bound holds.
macro_rules! has {
    ($type:ty: $bound:path) => {{
        #[allow(dead_code, reason = "used where the bound does not hold")]
        trait Otherwise {
            const HAS: bool = false;
        }
        impl<T: ?Sized> Otherwise for T {}
        struct Probe<T: ?Sized>(std::marker::PhantomData<T>);
        impl<T: ?Sized + $bound> Probe<T> {
            #[allow(dead_code, reason = "used where the bound holds")]
            const HAS: bool = true;
        }
        <Probe<$type>>::HAS
    }};
}

#[test]
fn secrets_can_be_neither_compared_nor_printed_nor_serialised() {
    assert!(has!(u8: Clone) && has!(u8: fmt::Display) && has!(u8: serde::Serialize), "the probe works");
    assert!(!has!(StaticKms: Clone) && !has!(StaticKms: PartialEq) && !has!(StaticKms: fmt::Display));
    assert!(!has!(StaticKms: serde::Serialize));
    assert!(!has!(SystemKey<'static>: PartialEq) && !has!(SystemKey<'static>: fmt::Display));
    assert!(!has!(SystemKey<'static>: serde::Serialize) && !has!(SystemKey<'static>: AsRef<[u8]>));
    let kms = StaticKms::new(support::MASTER_KEY).expect("32 bytes");
    assert_eq!(format!("{kms:?}"), "StaticKms");
}

#[tokio::test]
async fn debug_output_shows_no_partition_and_no_key() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    session.encrypt(b"tea").await?;
    for text in [format!("{session:?}"), format!("{:?}", world.factory)] {
        assert!(!text.contains("alice"), "{text}");
    }
    Ok(())
}
