//! What operators ask for is in effect in the process at once, whatever its sessions are doing; and what somebody forges does
//! not stand in anyone's way.

mod support;

use std::sync::Arc;

use keyward::stores::Revocation;
use keyward::{CacheScope, DataRowRecord, Error};
use support::{Fault, HOUR, MINUTE, SECOND, TestResult, World, poll_once};

#[tokio::test]
async fn a_rotation_reaches_sessions_that_have_caches_of_their_own() -> TestResult {
    let world = World::with_policy(|policy| policy.intermediate_key_cache_scope = CacheScope::Session).await?;
    let session = world.session("alice").await?;
    session.encrypt(b"tea").await?;
    let rotated = world.factory.keys(Arc::clone(&world.store)).rotate("alice").await?;
    assert_eq!(*session.encrypt(b"tea").await?.parent_key(), rotated);
    drop(session);
    world.close().await
}

#[tokio::test]
async fn a_rotation_is_not_undone_by_a_look_at_the_store_that_began_before() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    session.encrypt(b"tea").await?;
    world.advance(HOUR + SECOND);
    let id = world.intermediate_key("alice");
    let earlier = world.store.control.delay_answers(&id);
    let mut slow = Box::pin(session.encrypt(b"tea"));
    assert!(poll_once(slow.as_mut()).is_pending());
    earlier.arrivals(1).await;
    world.store.control.delay_answers(&id).open();
    let rotated = world.factory.keys(Arc::clone(&world.store)).rotate("alice").await?;
    earlier.open();
    assert_eq!(*slow.await?.parent_key(), rotated);
    assert_eq!(*session.encrypt(b"tea").await?.parent_key(), rotated);
    assert_eq!(world.store.rows(&id).len(), 2);
    drop(session);
    world.close().await
}

#[tokio::test]
async fn a_revocation_counts_where_two_loads_found_the_key_at_once() -> TestResult {
    let mut world = World::new().await?;
    let before = world.encrypt("alice", b"tea").await?;
    world.restart().await?;
    let session = world.session("alice").await?;
    // Both loads hold their row before either has made a key of it; the one for encrypting ends first.
    let (system, id) = (world.store.control.delay_answers(&world.system_key()), world.intermediate_key("alice"));
    let mut encrypting = Box::pin(session.encrypt(b"tea"));
    assert!(poll_once(encrypting.as_mut()).is_pending());
    system.arrivals(1).await;
    let reading = world.store.control.delay_answers(&id);
    let mut decrypting = Box::pin(session.decrypt(&before));
    assert!(poll_once(decrypting.as_mut()).is_pending());
    reading.arrivals(1).await;
    reading.open();
    system.open();
    encrypting.await?;
    assert_eq!(decrypting.await?, b"tea");
    let keys = world.factory.keys(Arc::clone(&world.store));
    assert_eq!(keys.revoke(before.parent_key()).await?, Revocation::Revoked);
    assert_ne!(session.encrypt(b"tea").await?.parent_key(), before.parent_key());
    drop(session);
    drop(keys);
    world.close().await
}

#[tokio::test]
async fn a_revocation_counts_for_an_encrypt_that_was_about_to_use_a_key_that_is_not_cached() -> TestResult {
    let world = World::with_policy(|policy| policy.cache_intermediate_keys = false).await?;
    let before = world.encrypt("alice", b"tea").await?;
    let (session, keys) = (world.session("alice").await?, world.factory.keys(Arc::clone(&world.store)));
    let mut encrypting = Box::pin(session.encrypt(b"tea"));
    assert!(poll_once(encrypting.as_mut()).is_pending());
    // By and by the load ends, and nobody looks at its outcome.
    for _ in 0..10 {
        keys.shred("bob").await?;
    }
    assert_eq!(keys.revoke(before.parent_key()).await?, Revocation::Revoked);
    assert_ne!(encrypting.await?.parent_key(), before.parent_key());
    drop((session, keys));
    world.close().await
}

#[tokio::test]
async fn a_record_under_a_revoked_key_is_rewrapped_by_a_process_that_never_used_that_key() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let old = session.encrypt(b"tea").await?;
    let other = world.another().await?;
    let rotated = other.keys(Arc::clone(&world.store)).rotate("alice").await?;
    let record = other.session("alice").await?.encrypt(b"tea").await?;
    assert_eq!(*record.parent_key(), rotated);
    assert_eq!(session.rewrap(&record).await?, None, "a newer key is as good");

    let revoked = world.factory.keys(Arc::clone(&world.store)).revoke(&rotated).await?;
    assert_eq!(revoked, Revocation::Revoked);
    let rewrapped = session.rewrap(&record).await?.expect("nothing may need a revoked key");
    assert_eq!(rewrapped.parent_key(), old.parent_key());
    assert_eq!(session.decrypt(&rewrapped).await?, b"tea");
    other.close().await?;
    drop(session);
    world.close().await
}

#[tokio::test]
async fn a_forged_record_that_names_the_next_key_does_not_hide_it() -> TestResult {
    let world = World::with_policy(|policy| policy.cache_intermediate_keys = false).await?;
    let record = world.encrypt("bob", b"tea").await?;
    let next = support::key(&world.intermediate_key("alice"), record.parent_key().created);
    let forged =
        DataRowRecord::from_parts(record.created(), record.encrypted_key().to_vec(), next, record.data().to_vec());
    let refused = world.decrypt("alice", &forged).await;
    assert!(matches!(refused, Err(Error::KeyNotFound { .. })), "{refused:?}");
    let made = world.encrypt("alice", b"tea").await?;
    assert_eq!(made.parent_key(), forged.parent_key());
    assert_eq!(world.decrypt("alice", &made).await?, b"tea");
    world.close().await
}

#[tokio::test]
async fn a_store_that_failed_once_and_answers_since_tells_of_a_revocation_within_the_interval() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let before = session.encrypt(b"tea").await?;
    world.store.revoke_latest(&world.intermediate_key("alice"));
    world.advance(HOUR + SECOND);
    world.store.control.fail(1, None, None, Fault::Transient);
    assert_eq!(session.encrypt(b"tea").await?.parent_key(), before.parent_key(), "an outage stops nobody");
    world.advance(5 * MINUTE);
    assert_ne!(session.encrypt(b"tea").await?.parent_key(), before.parent_key());
    drop(session);
    world.close().await
}
