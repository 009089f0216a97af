//! What becomes of keys while their store is away, before they expire, and when they have encrypted enough.

mod support;

use std::sync::Arc;
use std::time::Duration;

use keyward::stores::Revocation;
use keyward::{CacheScope, Error, EvictionPolicy};
use support::{Call, Calls, DAY, Fault, HOUR, MINUTE, SECOND, START, TestResult, World, at, eventually, settle};

/// When a fresh world makes its first keys: the full minute before its clock.
const FIRST: i64 = START - 5;

#[tokio::test]
async fn a_key_whose_check_fails_serves_for_a_while_and_then_encrypting_fails() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let first = session.encrypt(b"tea").await?;
    world.store.control.fail(usize::MAX, None, None, Fault::Transient);
    world.advance(HOUR + SECOND);
    for _ in 0..9 {
        assert_eq!(session.encrypt(b"tea").await?.parent_key(), first.parent_key());
        world.advance(MINUTE);
    }
    world.advance(MINUTE);
    for _ in 0..3 {
        assert!(matches!(session.encrypt(b"tea").await, Err(Error::Metastore(source)) if source.is_transient()));
    }
    assert_eq!(session.decrypt(&first).await?, b"tea", "decrypting depends on no check");
    world.store.control.heal();
    assert_eq!(session.encrypt(b"tea").await?.parent_key(), first.parent_key());
    let (_, calls) = world.counting(session.encrypt(b"tea")).await;
    assert_eq!(calls, Calls::NONE);
    world.advance(HOUR + SECOND);
    let (_, calls) = world.counting(session.encrypt(b"tea")).await;
    assert_eq!(calls, Calls { latest_ik: 1, load_sk: 1, ..Calls::NONE }, "what healed is waited for again");
    drop(session);
    world.close().await
}

#[tokio::test]
async fn an_intermediate_key_ends_with_its_system_key() -> TestResult {
    let world = World::with_policy(|policy| policy.rotate_ahead = None).await?;
    world.encrypt("alice", b"tea").await?;
    world.advance(10 * DAY);
    let session = world.session("bob").await?;
    let first = session.encrypt(b"tea").await?;
    world.clock.set(at(FIRST + 90 * 24 * 3600 - 600));
    assert_eq!(session.encrypt(b"tea").await?.parent_key(), first.parent_key());
    world.clock.set(at(FIRST + 90 * 24 * 3600 + 1));
    assert_ne!(
        session.encrypt(b"tea").await?.parent_key(),
        first.parent_key(),
        "it was looked at lately, and its end is past"
    );
    assert_eq!(world.store.rows(&world.system_key()).len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_away_is_asked_less_and_less_often() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    session.encrypt(b"tea").await?;
    world.store.control.fail(usize::MAX, None, None, Fault::Transient);
    world.advance(HOUR + SECOND);
    let before = world.calls();
    for second in 0..540 {
        session.encrypt(b"tea").await?;
        settle(&world.factory, second).await;
        world.advance(SECOND);
    }
    let calls = (world.calls() - before).store() - 540;
    assert!((12..=24).contains(&calls), "{calls} calls in nine minutes");
    Ok(())
}

#[tokio::test]
async fn without_a_grace_an_unchecked_key_encrypts_nothing() -> TestResult {
    let world = World::with_policy(|policy| policy.max_stale = Duration::ZERO).await?;
    let session = world.session("alice").await?;
    session.encrypt(b"tea").await?;
    world.advance(HOUR + SECOND);
    world.store.control.fail(1, Some(Call::LoadLatest), None, Fault::Transient);
    assert!(matches!(session.encrypt(b"tea").await, Err(Error::Metastore(_))));
    session.encrypt(b"tea").await?;
    Ok(())
}

#[tokio::test]
async fn a_revocation_that_is_known_beats_the_grace() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let first = session.encrypt(b"tea").await?;
    world.advance(HOUR + SECOND);
    world.store.control.fail(usize::MAX, None, None, Fault::Transient);
    session.encrypt(b"tea").await?;
    let keys = world.factory.keys(Arc::clone(&world.store));
    assert_eq!(keys.revoke(first.parent_key()).await?, Revocation::Revoked);
    assert!(matches!(session.encrypt(b"tea").await, Err(Error::Metastore(_))));
    world.store.control.heal();
    assert_ne!(session.encrypt(b"tea").await?.parent_key(), first.parent_key());
    Ok(())
}

#[tokio::test]
async fn the_next_key_is_made_ahead_of_expiry_and_nobody_waits_for_it() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let first = session.encrypt(b"tea").await?;
    world.clock.set(at(FIRST + 90 * 24 * 3600 - 30 * 60));
    // The key was not looked at for months.
    session.encrypt(b"tea").await?;
    let gate = world.store.control.block(&world.intermediate_key("alice"));
    world.advance(SECOND);
    for _ in 0..100 {
        assert_eq!(session.encrypt(b"tea").await?.parent_key(), first.parent_key());
    }
    gate.arrivals(1).await;
    assert_eq!(session.encrypt(b"tea").await?.parent_key(), first.parent_key());
    gate.open();
    eventually("the next key is there", || world.store.rows(&world.intermediate_key("alice")).len() == 2).await;
    let mut after = session.encrypt(b"tea").await?;
    while after.parent_key() == first.parent_key() {
        tokio::task::yield_now().await;
        after = session.encrypt(b"tea").await?;
    }
    // Both were made in the same minute: the system key had to be replaced first.
    assert_eq!(world.store.rows(&world.system_key()).len(), 2);
    let (_, calls) = world
        .counting(async {
            for _ in 0..100 {
                world.advance(SECOND);
                session.encrypt(b"tea").await?;
            }
            TestResult::Ok(())
        })
        .await;
    assert_eq!(calls, Calls::NONE, "it lasts");
    world.clock.set(at(FIRST + 90 * 24 * 3600 + 1));
    assert_eq!(session.encrypt(b"tea").await?.parent_key(), after.parent_key(), "expiry finds the next key in use");
    assert_eq!(session.decrypt(&first).await?, b"tea");
    drop(session);
    world.close().await
}

#[tokio::test]
async fn many_keys_that_end_with_their_system_key_cost_few_looks() -> TestResult {
    let world = World::new().await?;
    let mut sessions = Vec::new();
    for number in 0..20 {
        let session = world.session(&format!("tenant {number}")).await?;
        session.encrypt(b"tea").await?;
        sessions.push(session);
    }
    world.clock.set(at(FIRST + 90 * 24 * 3600 - 61 * 60));
    for session in &sessions {
        session.encrypt(b"tea").await?;
    }
    let before = world.calls();
    for step in 0..240 {
        world.advance(10 * SECOND);
        for session in &sessions {
            session.encrypt(b"tea").await?;
        }
        settle(&world.factory, step).await;
    }
    let calls = world.calls() - before;
    assert_eq!(world.store.rows(&world.system_key()).len(), 2);
    for number in 0..20 {
        assert_eq!(world.store.rows(&world.intermediate_key(&format!("tenant {number}"))).len(), 2);
    }
    // One for each that settled, and one or two for each key.
    assert!(calls.latest_ik - 240 <= 60, "{calls:?}");
    world.close().await
}

#[tokio::test]
async fn ahead_of_expiry_several_processes_make_one_key() -> TestResult {
    let world = World::new().await?;
    world.encrypt("alice", b"tea").await?;
    let mut factories = vec![world.factory.clone()];
    for _ in 0..4 {
        factories.push(world.another().await?);
    }
    for step in 0..70 {
        world.clock.set(at(FIRST + 90 * 24 * 3600 - 65 * 60 + step * 60));
        for factory in &factories {
            let session = factory.session("alice").await?;
            session.encrypt(b"tea").await?;
            settle(factory, step).await;
        }
    }
    assert_eq!(world.store.rows(&world.intermediate_key("alice")).len(), 2);
    assert_eq!(world.store.rows(&world.system_key()).len(), 2);
    Ok(())
}

#[tokio::test]
async fn without_a_lead_no_key_is_made_ahead() -> TestResult {
    let world = World::with_policy(|policy| policy.rotate_ahead = None).await?;
    let session = world.session("alice").await?;
    session.encrypt(b"tea").await?;
    world.clock.set(at(FIRST + 90 * 24 * 3600));
    session.encrypt(b"tea").await?;
    let (_, calls) = world.counting(session.encrypt(b"tea")).await;
    assert_eq!(calls, Calls::NONE, "off is off");
    assert_eq!(world.store.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_key_that_nobody_uses_is_not_replaced_ahead() -> TestResult {
    let world = World::new().await?;
    let (alice, bob) = (world.session("alice").await?, world.session("bob").await?);
    alice.encrypt(b"tea").await?;
    bob.encrypt(b"tea").await?;
    for minutes in [20, 15, 10] {
        world.clock.set(at(FIRST + 90 * 24 * 3600 - minutes * 60));
        bob.encrypt(b"tea").await?;
        settle(&world.factory, minutes).await;
    }
    assert_eq!(world.store.rows(&world.intermediate_key("bob")).len(), 2);
    assert_eq!(world.store.rows(&world.intermediate_key("alice")).len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_key_that_has_encrypted_enough_is_replaced_within_the_same_minute() -> TestResult {
    let world = World::with_policy(|policy| {
        policy.max_wraps = 1000;
        policy.rotate_ahead = None;
    })
    .await?;
    let session = world.session("alice").await?;
    let mut records = Vec::new();
    for _ in 0..3000 {
        records.push(session.encrypt(b"tea").await?);
    }
    let rows = world.store.rows(&world.intermediate_key("alice"));
    let created: Vec<i64> = rows.iter().map(|row| row.created).collect();
    assert_eq!(created, [FIRST, FIRST + 1, FIRST + 2]);
    for created in created {
        assert_eq!(records.iter().filter(|record| record.parent_key().created == created).count(), 1000);
    }
    assert_eq!(session.decrypt(&records[0]).await?, b"tea");
    Ok(())
}

#[tokio::test]
async fn before_a_budget_is_spent_the_next_key_is_made_in_the_background() -> TestResult {
    let world = World::with_policy(|policy| policy.max_wraps = 1600).await?;
    let session = world.session("alice").await?;
    for _ in 0..1500 {
        session.encrypt(b"tea").await?;
    }
    let gate = world.store.control.block(&world.intermediate_key("alice"));
    for _ in 0..90 {
        assert_eq!(session.encrypt(b"tea").await?.parent_key().created, FIRST);
    }
    gate.arrivals(1).await;
    gate.open();
    while session.encrypt(b"tea").await?.parent_key().created == FIRST {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.store.rows(&world.intermediate_key("alice")).len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_revocation_once_seen_stays_whatever_a_lagging_replica_says() -> TestResult {
    for system in [false, true] {
        let world = World::with_policy(|policy| policy.intermediate_key_cache_size = 1).await?;
        let session = world.session("alice").await?;
        let first = session.encrypt(b"tea").await?;
        let id = if system { world.system_key() } else { world.intermediate_key("alice") };
        world.store.revoke(&id, FIRST);
        world.advance(HOUR + SECOND);
        let second = session.encrypt(b"tea").await?;
        assert_ne!(second.parent_key(), first.parent_key());
        // The replica knows neither of the revocation nor of the new keys, and the cache has forgotten both.
        world.store.change(&id, FIRST, |row| row.revoked = false);
        for id in [world.intermediate_key("alice"), world.system_key()] {
            if world.store.rows(&id).len() == 2 {
                world.store.remove(&id, world.store.latest(&id).created);
            }
        }
        world.encrypt("bob", b"tea").await?;
        world.advance(2 * HOUR);
        let third = session.encrypt(b"tea").await?;
        assert_ne!(third.parent_key(), first.parent_key(), "system key {system}");
    }
    Ok(())
}

#[tokio::test]
async fn a_latest_key_dated_in_the_future_is_used_and_reported() -> TestResult {
    let world = World::new().await?;
    world.clock.set(at(START + 24 * 3600));
    let fast = world.encrypt("alice", b"tea").await?;
    world.clock.set(at(START));
    let slow = world.another().await?;
    let record = slow.session("alice").await?.encrypt(b"tea").await?;
    assert_eq!(record.parent_key(), fast.parent_key());
    assert_eq!(slow.status().keys_dated_ahead, 1);
    world.clock.set(at(START + 24 * 3600));
    assert_eq!(slow.status().keys_dated_ahead, 0);
    Ok(())
}

#[tokio::test]
async fn a_hundred_thousand_partitions_leave_no_more_than_the_caches_hold() -> TestResult {
    for policy in [EvictionPolicy::Lru, EvictionPolicy::TinyLfu] {
        let world = World::with_policy(|crypto| {
            crypto.intermediate_key_cache_size = 1000;
            crypto.intermediate_key_cache_eviction = policy;
            crypto.cache_sessions = true;
            crypto.session_cache_size = 1000;
            crypto.session_cache_eviction = policy;
        })
        .await?;
        let count = if policy == EvictionPolicy::Lru { 100_000 } else { 5_000 };
        let mut locked = 0;
        for batch in 0..count / 100 {
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..100 {
                let factory = world.factory.clone();
                tasks.spawn(async move {
                    let session = factory.session(&format!("tenant {batch} {number}")).await?;
                    session.encrypt(b"tea").await
                });
            }
            while let Some(record) = tasks.join_next().await {
                record??;
            }
            if batch == 20 {
                locked = world.factory.status().memory.locked_bytes;
            }
        }
        let status = world.factory.status();
        assert!(status.cached_keys <= 1001 && status.live_keys <= 1001, "{status:?}");
        // A ring stays for as long as a kept session or a cached key needs it.
        assert!(status.open_sessions <= 1000 && status.cached_key_ids <= 2001, "{status:?}");
        assert_eq!(status.memory.locked_bytes, locked);
        world.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_policy_and_scope_serves_all_its_partitions() -> TestResult {
    let policies = [
        EvictionPolicy::Lru,
        EvictionPolicy::Lfu,
        EvictionPolicy::Slru,
        EvictionPolicy::TinyLfu,
        EvictionPolicy::S3Fifo,
    ];
    for policy in policies {
        for scope in [CacheScope::Factory, CacheScope::Session] {
            let world = World::with_policy(|crypto| {
                crypto.intermediate_key_cache_size = 3;
                crypto.intermediate_key_cache_eviction = policy;
                crypto.system_key_cache_eviction = policy;
                crypto.session_cache_eviction = policy;
                crypto.session_cache_size = 4;
                crypto.cache_sessions = true;
                crypto.intermediate_key_cache_scope = scope;
            })
            .await?;
            let mut records = Vec::new();
            for round in 0..4 {
                for number in 0..12 {
                    let partition = format!("tenant {}", number * (round + 1) % 12);
                    records.push((partition.clone(), world.encrypt(&partition, b"tea").await?));
                }
            }
            for (partition, record) in &records {
                assert_eq!(world.decrypt(partition, record).await?, b"tea", "{policy:?} {scope:?}");
            }
            assert_eq!(world.store.len(), 13);
            world.close().await?;
        }
    }
    Ok(())
}
