//! When keys are replaced: expiry, revocation, clocks that disagree, and many writers at once.

mod support;

use std::time::Duration;

use keyward::{CacheScope, CryptoPolicy, DataRowRecord, EnvelopeKeyRecord, SessionFactory};
use proptest::prelude::*;
use support::{Calls, DAY, HOUR, MINUTE, SECOND, START, TestResult, World, at, poll_once};

/// When a fresh world makes its first keys: the full minute before its clock.
const FIRST: i64 = START - 5;

#[tokio::test]
async fn a_partition_past_expiry_seals_under_a_new_key() -> TestResult {
    let world = World::new().await?;
    let before = world.encrypt("alice", b"tea").await?;
    world.advance(90 * DAY + SECOND);
    let after = world.encrypt("alice", b"tea").await?;
    assert_eq!(before.parent_key().created, FIRST);
    assert_eq!(after.parent_key().created, FIRST + 90 * 24 * 3600);
    assert_eq!(world.decrypt("alice", &before).await?, b"tea");
    assert_eq!(world.decrypt("alice", &after).await?, b"tea");
    world.close().await
}

#[tokio::test]
async fn a_key_encrypts_up_to_the_last_millisecond_of_its_life() -> TestResult {
    let world = World::new().await?;
    let before = world.encrypt("alice", b"tea").await?;
    world.clock.set(at(FIRST + 90 * 24 * 3600));
    assert_eq!(world.encrypt("alice", b"tea").await?.parent_key(), before.parent_key());
    world.advance(Duration::from_millis(1));
    assert_ne!(world.encrypt("alice", b"tea").await?.parent_key(), before.parent_key());
    Ok(())
}

#[tokio::test]
async fn after_a_rotation_older_records_need_no_store() -> TestResult {
    let world = World::new().await?;
    let before = world.encrypt("alice", b"tea").await?;
    for _ in 0..3 {
        world.advance(90 * DAY + SECOND);
        world.encrypt("alice", b"tea").await?;
    }
    let (payload, calls) = world.counting(world.decrypt("alice", &before)).await;
    assert_eq!(payload?, b"tea");
    assert_eq!(calls, Calls::NONE);
    world.close().await
}

/// Which sessions and caches a revocation is tried with.
const CACHES: [(CacheScope, bool); 4] = [
    (CacheScope::Factory, false),
    (CacheScope::Factory, true),
    (CacheScope::Session, false),
    (CacheScope::Session, true),
];

/// What a process does while a key is revoked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Load {
    Encrypts,
    Decrypts,
    Both,
}

#[tokio::test]
async fn a_revoked_intermediate_key_is_out_of_use_within_the_interval() -> TestResult {
    for (scope, cache_sessions) in CACHES {
        for load in [Load::Encrypts, Load::Decrypts, Load::Both] {
            revocation_takes_effect(scope, cache_sessions, load, false).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_revoked_system_key_takes_its_intermediate_keys_along_within_the_interval() -> TestResult {
    for (scope, cache_sessions) in CACHES {
        for load in [Load::Encrypts, Load::Decrypts, Load::Both] {
            revocation_takes_effect(scope, cache_sessions, load, true).await?;
        }
    }
    Ok(())
}

async fn revocation_takes_effect(scope: CacheScope, cache_sessions: bool, load: Load, system: bool) -> TestResult {
    let case = format!("{scope:?}, cached sessions {cache_sessions}, {load:?}, system key {system}");
    let world = World::with_policy(|policy| {
        policy.intermediate_key_cache_scope = scope;
        policy.cache_sessions = cache_sessions;
    })
    .await?;
    let session = world.session("alice").await?;
    let before = session.encrypt(b"tea").await?;
    let id = if system { world.system_key() } else { world.intermediate_key("alice") };
    world.advance(MINUTE);
    world.store.revoke_latest(&id);
    for _ in 0..7 {
        world.advance(8 * MINUTE);
        if load != Load::Encrypts {
            assert_eq!(session.decrypt(&before).await?, b"tea", "{case}");
        }
        if load != Load::Decrypts {
            assert_eq!(session.decrypt(&session.encrypt(b"tea").await?).await?, b"tea", "{case}");
        }
    }
    // 57 minutes after the first key was seen; another 3 and a bit and nobody may use it.
    world.advance(4 * MINUTE);
    for session in [session.clone(), world.session("alice").await?] {
        for _ in 0..3 {
            let after = session.encrypt(b"cake").await?;
            assert_ne!(after.parent_key(), before.parent_key(), "{case}");
            assert_eq!(session.decrypt(&after).await?, b"cake", "{case}");
            assert_eq!(session.decrypt(&before).await?, b"tea", "{case}");
        }
    }
    let newest = world.store.latest(&world.intermediate_key("alice"));
    let parent = newest.parent_key.expect("an intermediate key has a parent");
    assert_eq!(parent.created != FIRST, system, "{case}: the system key changes only if it was revoked");
    assert_eq!(world.store.rows(&world.intermediate_key("alice")).len(), 2, "{case}: one new key");
    drop(session);
    world.close().await
}

#[tokio::test]
async fn a_system_key_revoked_alone_replaces_the_keys_under_it_one_partition_at_a_time() -> TestResult {
    let world = World::new().await?;
    let names = ["alice", "bob", "carol"];
    let mut before = Vec::new();
    for name in names {
        before.push(world.encrypt(name, b"tea").await?);
    }
    world.store.revoke_latest(&world.system_key());
    world.advance(HOUR + SECOND);
    for (name, before) in names.iter().zip(&before) {
        let after = world.encrypt(name, b"cake").await?;
        assert_ne!(after.parent_key(), before.parent_key());
        assert_eq!(world.decrypt(name, before).await?, b"tea");
    }
    assert_eq!(world.store.rows(&world.system_key()).len(), 2);
    assert_eq!(world.store.len(), 2 + 2 * names.len());
    world.close().await
}

#[tokio::test]
async fn a_key_revoked_in_the_minute_of_its_creation_is_replaced_by_one_a_second_younger() -> TestResult {
    for system in [false, true] {
        let mut world = World::new().await?;
        let before = world.encrypt("alice", b"tea").await?;
        let id = if system { world.system_key() } else { world.intermediate_key("alice") };
        world.clock.set(at(START + 5));
        world.store.revoke(&id, FIRST);
        world.clock.set(at(START + 7));
        world.restart().await?;
        let (after, calls) = world.counting(world.encrypt("alice", b"cake")).await;
        let after = after?;
        assert_eq!(after.parent_key().created, FIRST + 1);
        assert!(!world.store.latest(&id).revoked);
        assert_eq!(world.store.latest(&id).created, FIRST + 1);
        assert!(calls.store_ik == 1 && calls.store_sk == usize::from(system), "one store each, no retries: {calls:?}");
        let (again, calls) = world.counting(world.encrypt("alice", b"cake")).await;
        assert_eq!(again?.parent_key(), after.parent_key());
        assert_eq!(calls, Calls::NONE);
        assert_eq!(world.decrypt("alice", &before).await?, b"tea");
        assert_eq!(world.decrypt("alice", &after).await?, b"cake");
    }
    Ok(())
}

#[tokio::test]
async fn a_revoked_key_dated_in_the_future_does_not_shadow_its_successor() -> TestResult {
    for system in [false, true] {
        let mut world = World::new().await?;
        world.encrypt("alice", b"tea").await?;
        let id = if system { world.system_key() } else { world.intermediate_key("alice") };
        let tomorrow = FIRST + 24 * 3600;
        let row = world.store.latest(&id);
        world.store.insert(&id, EnvelopeKeyRecord { created: tomorrow, revoked: true, ..row });
        world.restart().await?;
        // A partition under the older system key has no need of a new one; a new partition has.
        let partition = if system { "bob" } else { "alice" };
        for _ in 0..3 {
            let after = world.encrypt(partition, b"cake").await?;
            assert_eq!(world.store.latest(&id).created, tomorrow + 1);
            assert_eq!(world.decrypt(partition, &after).await?, b"cake");
        }
        assert_eq!(world.store.rows(&id).len(), 3, "converges after one new key");
    }
    Ok(())
}

#[tokio::test]
async fn a_parent_is_the_one_that_the_row_names_and_not_the_newest() -> TestResult {
    let mut world = World::with_policy(|policy| policy.revoke_check_interval = Duration::ZERO).await?;
    let mut records = Vec::new();
    for round in 0..6 {
        let partition = format!("p{}", round % 3);
        if round % 2 == 0 {
            world.store.rows(&world.system_key()).last().map(|row| row.created).into_iter().for_each(|created| {
                world.store.revoke(&world.system_key(), created);
            });
        }
        world.advance(SECOND);
        records.push((partition.clone(), world.encrypt(&partition, partition.as_bytes()).await?));
        for (partition, record) in &records {
            assert_eq!(world.decrypt(partition, record).await?, partition.as_bytes());
        }
    }
    world.restart().await?;
    for (partition, record) in records.iter().rev() {
        assert_eq!(world.decrypt(partition, record).await?, partition.as_bytes());
    }
    assert!(world.store.rows(&world.system_key()).len() >= 3);
    world.close().await
}

#[tokio::test]
async fn a_clock_that_goes_back_asks_the_store_and_finds_the_key_valid() -> TestResult {
    let world = World::new().await?;
    let before = world.encrypt("alice", b"tea").await?;
    world.clock.set(at(START - 3600));
    let (after, calls) = world.counting(world.encrypt("alice", b"tea")).await;
    assert_eq!(after?.parent_key(), before.parent_key());
    assert_eq!(calls.store_ik + calls.store_sk, 0);
    world.close().await
}

#[tokio::test]
async fn a_row_counts_as_seen_when_it_was_asked_for_and_not_when_the_answer_came() -> TestResult {
    for system in [false, true] {
        let world = World::new().await?;
        let session = world.session("alice").await?;
        let before = session.encrypt(b"tea").await?;
        let id = if system { world.system_key() } else { world.intermediate_key("alice") };
        world.advance(HOUR + SECOND);
        let answer = world.store.control.delay_answers(&id);
        let mut slow = Box::pin(session.encrypt(b"tea"));
        assert!(poll_once(slow.as_mut()).is_pending());
        answer.arrivals(1).await;
        world.store.revoke_latest(&id);
        world.advance(50 * MINUTE);
        answer.open();
        assert_eq!(slow.await?.parent_key(), before.parent_key(), "nobody has seen the revocation");
        world.advance(11 * MINUTE);
        assert_ne!(session.encrypt(b"tea").await?.parent_key(), before.parent_key(), "system key {system}");
    }
    Ok(())
}

#[tokio::test]
async fn a_key_that_expires_while_it_is_being_stored_is_not_used() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let outcome = world.store.control.delay_outcomes(&world.intermediate_key("alice"));
    let mut first = Box::pin(session.encrypt(b"tea"));
    assert!(poll_once(first.as_mut()).is_pending());
    outcome.arrivals(1).await;
    world.advance(91 * DAY);
    let mut second = Box::pin(session.encrypt(b"tea"));
    assert!(poll_once(second.as_mut()).is_pending());
    outcome.open();
    for record in [first.await?, second.await?] {
        assert_ne!(record.parent_key().created, FIRST);
        assert_eq!(session.decrypt(&record).await?, b"tea");
    }
    assert_eq!(world.store.rows(&world.intermediate_key("alice")).len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_writers_with_short_lived_keys_all_succeed() -> TestResult {
    for (expire, precision) in [(1, 0), (1, 60), (2, 1), (5, 60)] {
        contend(expire, precision, 8, 4, 600).await?;
    }
    Ok(())
}

/// Lets several processes encrypt for one partition at once, round after round, and checks every record everywhere.
async fn contend(expire: u64, precision: u64, writers: usize, rounds: usize, step_millis: u64) -> TestResult {
    let world = World::with_policy(|policy| {
        policy.expire_after = Duration::from_secs(expire);
        policy.created_precision = Duration::from_secs(precision);
    })
    .await?;
    let mut factories: Vec<SessionFactory> = Vec::new();
    for _ in 0..writers {
        factories.push(world.another().await?);
    }
    let mut records: Vec<DataRowRecord> = Vec::new();
    for _ in 0..rounds {
        let tasks: Vec<_> = factories
            .iter()
            .map(|factory| {
                let factory = factory.clone();
                tokio::spawn(async move { factory.session("alice").await?.encrypt(b"tea").await })
            })
            .collect();
        for task in tasks {
            records.push(task.await??);
        }
        world.advance(Duration::from_millis(step_millis));
    }
    for record in &records {
        assert_eq!(factories[records.len() % writers].session("alice").await?.decrypt(record).await?, b"tea");
        assert_eq!(world.decrypt("alice", record).await?, b"tea");
    }
    // One key per second at most: creation times are whole seconds, and a loser takes the winner's.
    let seconds = usize::try_from(rounds as u64 * step_millis / 1000)? + 2;
    let keys = world.store.rows(&world.intermediate_key("alice")).len();
    assert!(keys <= seconds, "{keys} keys in {seconds} seconds, expire {expire}, precision {precision}");
    assert!(world.store.rows(&world.system_key()).len() <= seconds);
    for factory in &factories {
        factory.close().await?;
        assert_eq!(factory.status().live_keys, 0);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_number_of_writers_converges_for_any_lifetime(
        expire in 1_u64..=120,
        precision in prop::sample::select(vec![0_u64, 1, 60]),
        writers in 1_usize..=8,
        step_millis in 1_u64..3000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let outcome = runtime.block_on(contend(expire, precision, writers, 3, step_millis));
        prop_assert!(outcome.is_ok(), "{:?}", outcome);
    }
}

#[test]
fn the_policy_of_these_tests_is_the_default_one() {
    let policy = CryptoPolicy::default();
    assert_eq!((policy.expire_after, policy.revoke_check_interval), (90 * DAY, HOUR));
    assert_eq!(policy.created_precision, MINUTE);
}

#[tokio::test]
async fn a_key_that_is_checked_and_found_valid_is_kept() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let first = session.encrypt(b"tea").await?;
    for _ in 0..5 {
        world.advance(61 * MINUTE);
        assert_eq!(session.encrypt(b"tea").await?.parent_key(), first.parent_key());
        // The second use of a key that was just checked costs nothing.
        let calls = world.calls();
        assert_eq!(session.encrypt(b"tea").await?.parent_key(), first.parent_key());
        assert_eq!(world.calls() - calls, support::Calls::NONE);
    }
    assert_eq!(world.store.rows(&world.intermediate_key("alice")).len(), 1);
    Ok(())
}
