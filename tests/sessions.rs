//! Sessions that are kept: found without a message, bounded, and never taken from those who use them.

mod support;

use std::time::Duration;

use keyward::{CacheScope, Error};
use support::{Calls, HOUR, MINUTE, SECOND, TestResult, World, settle};

#[tokio::test]
async fn opening_a_kept_session_or_one_that_is_not_kept_sends_no_message() -> TestResult {
    for cache_sessions in [true, false] {
        let world = World::with_policy(|policy| policy.cache_sessions = cache_sessions).await?;
        let _first = world.session("alice").await?;
        let before = world.factory.status().messages;
        for _ in 0..1000 {
            world.session("alice").await?;
        }
        assert_eq!(world.factory.status().messages, before, "kept {cache_sessions}");
    }
    Ok(())
}

#[tokio::test]
async fn a_session_that_lost_its_place_goes_on_with_the_keys_it_has() -> TestResult {
    let world = World::with_policy(|policy| {
        policy.cache_sessions = true;
        policy.session_cache_size = 1;
        policy.intermediate_key_cache_scope = CacheScope::Session;
    })
    .await?;
    let alice = world.session("alice").await?;
    let record = alice.encrypt(b"tea").await?;
    world.session("bob").await?;
    let (outcome, calls) = world.counting(alice.decrypt(&record)).await;
    assert_eq!(outcome?, b"tea");
    assert_eq!(calls, Calls::NONE);
    let (outcome, calls) = world.counting(world.decrypt("alice", &record)).await;
    assert_eq!(outcome?, b"tea");
    assert_eq!(calls, Calls { load_ik: 1, ..Calls::NONE }, "the next session has keys of its own");
    Ok(())
}

#[tokio::test]
async fn a_kept_session_lives_for_its_time_after_its_last_use() -> TestResult {
    let world = World::with_policy(|policy| {
        policy.cache_sessions = true;
        policy.session_cache_ttl = 10 * MINUTE;
    })
    .await?;
    world.session("alice").await?;
    for round in 0..10 {
        world.advance(9 * MINUTE);
        let before = world.factory.status().messages;
        world.session("alice").await?;
        assert_eq!(world.factory.status().messages, before, "it was used nine minutes ago");
        // Keeping another one lets go of those that were not used for too long.
        world.session(&format!("other {round}")).await?;
    }
    world.advance(10 * MINUTE + SECOND);
    let before = world.factory.status().messages;
    world.session("alice").await?;
    assert_eq!(world.factory.status().messages, before + 1);
    assert_eq!(world.factory.status().open_sessions, 1, "the old ones are gone");
    Ok(())
}

#[tokio::test]
async fn a_time_of_zero_keeps_sessions_for_ever() -> TestResult {
    let world = World::with_policy(|policy| {
        policy.cache_sessions = true;
        policy.session_cache_ttl = Duration::ZERO;
    })
    .await?;
    world.session("alice").await?;
    world.advance(1000 * HOUR);
    let before = world.factory.status().messages;
    world.session("alice").await?;
    assert_eq!(world.factory.status().messages, before);
    Ok(())
}

#[tokio::test]
async fn a_check_interval_of_zero_asks_the_store_each_time() -> TestResult {
    let world = World::with_policy(|policy| policy.revoke_check_interval = Duration::ZERO).await?;
    let session = world.session("alice").await?;
    session.encrypt(b"tea").await?;
    for _ in 0..3 {
        let (outcome, calls) = world.counting(session.encrypt(b"tea")).await;
        outcome?;
        assert_eq!(calls, Calls { latest_ik: 1, load_sk: 1, ..Calls::NONE });
    }
    Ok(())
}

#[tokio::test]
async fn closing_the_factory_ends_kept_sessions_and_those_in_use_with_a_type() -> TestResult {
    let world = World::with_policy(|policy| policy.cache_sessions = true).await?;
    let session = world.session("alice").await?;
    let record = session.encrypt(b"tea").await?;
    world.close().await?;
    assert!(matches!(session.encrypt(b"tea").await, Err(Error::Closed)));
    assert!(matches!(session.decrypt(&record).await, Err(Error::Closed)));
    assert!(matches!(world.session("alice").await, Err(Error::Closed)));
    Ok(())
}

#[tokio::test]
async fn keys_that_were_loaded_together_are_not_checked_together() -> TestResult {
    const PARTITIONS: usize = 300;
    let world = World::new().await?;
    let mut sessions = Vec::new();
    for number in 0..PARTITIONS {
        let session = world.session(&format!("tenant {number}")).await?;
        session.encrypt(b"tea").await?;
        sessions.push(session);
    }
    world.advance(50 * MINUTE);
    let mut checked = Vec::new();
    for minute in 50..60 {
        let before = world.calls().latest_ik;
        for session in &sessions {
            session.encrypt(b"tea").await?;
        }
        settle(&world.factory, minute).await;
        checked.push(world.calls().latest_ik - before - 1);
        world.advance(MINUTE);
    }
    // Minutes 51 to 59 are the last 15 % of the interval.
    assert_eq!(checked[0], 0, "{checked:?}");
    assert!(checked.iter().all(|&checks| checks < PARTITIONS / 3), "{checked:?}");
    assert!(checked.iter().filter(|&&checks| checks > 0).count() >= 6, "{checked:?}");
    Ok(())
}
