//! What operators do with keys: at once in the process that they do it in, within the check interval in others.

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use keyward::stores::{KeyAdmin, KeyRow, Replacement, Revocation, StoreError};
use keyward::{
    CacheScope, CryptoPolicy, DataRowRecord, EnvelopeKeyRecord, Error, KeyId, KeyKind, KeyMeta, Keys, SessionFactory,
};
use support::{Calls, Fault, HOUR, MINUTE, Recorder, SECOND, START, TestResult, World, key};

/// When a fresh world makes its first keys: the full minute before its clock.
const FIRST: i64 = START - 5;

fn keys_of(world: &World, factory: &SessionFactory) -> Keys {
    factory.keys(Arc::clone(&world.store))
}

/// Caches of every kind, for what must not depend on them.
fn caches() -> [fn(&mut CryptoPolicy); 4] {
    [
        |_| (),
        |policy| policy.intermediate_key_cache_scope = CacheScope::Session,
        |policy| policy.cache_sessions = true,
        |policy| {
            policy.cache_intermediate_keys = false;
            policy.cache_system_keys = false;
        },
    ]
}

#[tokio::test]
async fn a_revocation_takes_effect_here_at_once_and_elsewhere_within_the_interval() -> TestResult {
    for change in caches() {
        for system in [false, true] {
            let world = World::with_policy(change).await?;
            let other = world.another().await?;
            let (here, there) = (world.session("alice").await?, other.session("alice").await?);
            let first = here.encrypt(b"tea").await?;
            assert_eq!(there.encrypt(b"tea").await?.parent_key(), first.parent_key());
            let id = if system { world.system_key() } else { world.intermediate_key("alice") };
            let keys = keys_of(&world, &world.factory);
            assert_eq!(keys.revoke(&key(&id, FIRST)).await?, Revocation::Revoked);
            assert_eq!(keys.revoke(&key(&id, FIRST)).await?, Revocation::AlreadyRevoked);
            assert_eq!(keys.revoke(&key(&id, 1)).await?, Revocation::NotFound);
            assert_ne!(here.encrypt(b"tea").await?.parent_key(), first.parent_key());
            world.advance(HOUR + SECOND);
            assert_ne!(there.encrypt(b"tea").await?.parent_key(), first.parent_key());
            assert_eq!(here.decrypt(&first).await?, b"tea");
            assert_eq!(there.decrypt(&first).await?, b"tea");
            drop((here, there));
            other.close().await?;
            world.close().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn keys_of_a_kind_are_revoked_up_to_a_date() -> TestResult {
    let world = World::new().await?;
    for partition in ["alice", "bob"] {
        world.encrypt(partition, b"tea").await?;
    }
    world.advance(10 * MINUTE);
    let late = world.encrypt("carol", b"tea").await?;
    let keys = keys_of(&world, &world.factory);
    let mut revoked = keys.revoke_before(KeyKind::Intermediate, late.parent_key().created).await?.revoked;
    revoked.sort();
    let expected = ["alice", "bob"].map(|partition| key(&world.intermediate_key(partition), FIRST));
    assert_eq!(revoked, expected);
    let again = keys.revoke_before(KeyKind::Intermediate, late.parent_key().created).await?;
    assert!(again.revoked.is_empty() && again.failed.is_empty());
    assert_ne!(world.encrypt("alice", b"tea").await?.parent_key().created, FIRST);
    assert_eq!(world.encrypt("carol", b"tea").await?.parent_key(), late.parent_key());
    Ok(())
}

#[tokio::test]
async fn a_revocation_that_meets_a_load_on_its_way_is_not_lost() -> TestResult {
    let mut world = World::new().await?;
    let first = world.encrypt("alice", b"tea").await?;
    world.restart().await?;
    let answer = world.store.control.delay_answers(&world.intermediate_key("alice"));
    let session = world.session("alice").await?;
    let mut loading = Box::pin(session.encrypt(b"tea"));
    assert!(support::poll_once(loading.as_mut()).is_pending());
    answer.arrivals(1).await;
    // The store has answered that the key is valid; the answer is on its way.
    assert_eq!(keys_of(&world, &world.factory).revoke(first.parent_key()).await?, Revocation::Revoked);
    answer.open();
    assert_ne!(loading.await?.parent_key(), first.parent_key());
    Ok(())
}

#[tokio::test]
async fn a_rotation_makes_a_new_key_now() -> TestResult {
    let world = World::new().await?;
    let other = world.another().await?;
    let (here, there) = (world.session("alice").await?, other.session("alice").await?);
    let first = here.encrypt(b"tea").await?;
    there.encrypt(b"tea").await?;
    let keys = keys_of(&world, &world.factory);
    let made = keys.rotate("alice").await?;
    assert_eq!(made, key(&world.intermediate_key("alice"), FIRST + 1), "in the same minute, and later");
    assert_eq!(*here.encrypt(b"tea").await?.parent_key(), made);
    world.advance(HOUR + SECOND);
    assert_eq!(*there.encrypt(b"tea").await?.parent_key(), made);
    assert_eq!(here.decrypt(&first).await?, b"tea");

    let system = keys.rotate_system_key().await?;
    assert_eq!(*here.encrypt(b"tea").await?.parent_key(), made, "what is valid stays");
    let next = keys.rotate("alice").await?;
    assert_eq!(world.store.latest(next.id.as_str()).parent_key, Some(system));
    assert!(matches!(keys.rotate("").await, Err(Error::Partition(_))));
    Ok(())
}

#[tokio::test]
async fn a_shredded_partition_is_gone_here_at_once_and_elsewhere_within_the_interval() -> TestResult {
    for change in caches() {
        let world = World::with_policy(change).await?;
        let other = world.another().await?;
        let (here, there) = (world.session("alice").await?, other.session("alice").await?);
        let first = here.encrypt(b"tea").await?;
        let of_bob = world.encrypt("bob", b"tea").await?;
        assert_eq!(there.decrypt(&first).await?, b"tea");
        let keys = keys_of(&world, &world.factory);
        keys.rotate("alice").await?;
        let destroyed = keys.shred("alice").await?;
        assert_eq!(destroyed.len(), 2);
        assert!(matches!(here.decrypt(&first).await, Err(Error::Shredded { .. })));
        assert!(matches!(here.encrypt(b"tea").await, Err(Error::Shredded { .. })));
        assert!(matches!(world.encrypt("alice", b"tea").await, Err(Error::Shredded { .. })));
        world.advance(HOUR + SECOND);
        // A process that decrypts and nothing else notices too.
        let refused = there.decrypt(&first).await;
        assert!(matches!(refused, Err(Error::Shredded { .. } | Error::KeyNotFound { .. })), "{refused:?}");
        assert!(matches!(there.encrypt(b"tea").await, Err(Error::Shredded { .. })));
        let rows = world.store.rows(&world.intermediate_key("alice"));
        assert!(matches!(&rows[..], [tombstone] if tombstone.is_tombstone()));
        assert!(keys.shred("alice").await?.is_empty(), "shredding again is harmless");
        assert_eq!(world.decrypt("bob", &of_bob).await?, b"tea");
        drop((here, there));
        other.close().await?;
        world.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_shredding_whose_answer_is_lost_takes_effect_all_the_same() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let record = session.encrypt(b"tea").await?;
    let forgetful = world.factory.keys(Forgetful(Arc::clone(&world.store)));
    assert!(matches!(forgetful.shred("alice").await, Err(Error::Metastore(_))));
    let refused = session.decrypt(&record).await;
    assert!(matches!(refused, Err(Error::Shredded { .. } | Error::KeyNotFound { .. })), "{refused:?}");
    assert!(matches!(session.encrypt(b"tea").await, Err(Error::Shredded { .. })));
    assert!(keys_of(&world, &world.factory).shred("alice").await?.is_empty());
    Ok(())
}

/// A store that does what it is told and loses the answer.
struct Forgetful(Arc<Recorder>);

#[async_trait]
impl KeyAdmin for Forgetful {
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        self.0.list(after, limit).await
    }

    async fn versions(&self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
        self.0.versions(id).await
    }

    async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, StoreError> {
        self.0.revoke(key).await.and(Err(lost()))
    }

    async fn shred(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError> {
        self.0.shred(id, tombstone).await.and(Err(lost()))
    }

    async fn replace_wrapped_key(&self, key: &KeyMeta, old: &[u8], new: &[u8]) -> Result<Replacement, StoreError> {
        self.0.replace_wrapped_key(key, old, new).await.and(Err(lost()))
    }
}

fn lost() -> StoreError {
    StoreError::Transient { operation: "test", advice: None, source: "the answer is lost".into() }
}

#[tokio::test]
async fn an_encrypt_under_way_does_not_bring_a_shredded_partition_back() -> TestResult {
    let world = World::new().await?;
    let outcome = world.store.control.block(&world.intermediate_key("alice"));
    let session = world.session("alice").await?;
    let mut first = Box::pin(session.encrypt(b"tea"));
    assert!(support::poll_once(first.as_mut()).is_pending());
    outcome.arrivals(1).await;
    let destroyed = keys_of(&world, &world.factory).shred("alice").await?;
    assert!(destroyed.is_empty(), "there was nothing yet");
    outcome.open();
    assert!(matches!(first.await, Err(Error::Shredded { .. })));
    let rows = world.store.rows(&world.intermediate_key("alice"));
    assert!(matches!(&rows[..], [tombstone] if tombstone.is_tombstone()), "{rows:?}");
    Ok(())
}

#[tokio::test]
async fn shredding_reaches_every_region_that_a_partition_reads() -> TestResult {
    let world = World::with(|setup| {
        setup.suffix = Some("west".to_owned());
        setup.readable = vec!["east".to_owned()];
    })
    .await?;
    let east = world
        .another_with(|setup| {
            setup.suffix = Some("east".to_owned());
            setup.readable.clear();
        })
        .await?;
    let of_east = east.session("alice").await?.encrypt(b"tea").await?;
    let session = world.session("alice").await?;
    assert_eq!(session.decrypt(&of_east).await?, b"tea");
    session.encrypt(b"tea").await?;
    assert_eq!(keys_of(&world, &world.factory).shred("alice").await?.len(), 2);
    assert!(matches!(session.decrypt(&of_east).await, Err(Error::Shredded { .. })));
    for (suffix, rows) in [("_west", 1), ("_east", 1), ("", 1)] {
        assert_eq!(world.store.rows(&format!("_IK_alice_svc_prod{suffix}")).len(), rows, "{suffix:?}");
    }
    world.advance(HOUR + SECOND);
    assert!(matches!(east.session("alice").await?.encrypt(b"tea").await, Err(Error::Shredded { .. })));
    Ok(())
}

#[tokio::test]
async fn a_look_ahead_of_time_that_finds_a_tombstone_ends_the_use_of_the_key() -> TestResult {
    for change in caches() {
        let world = World::with_policy(change).await?;
        let other = world.another().await?;
        let (here, there) = (world.session("alice").await?, other.session("alice").await?);
        let record = there.encrypt(b"tea").await?;
        keys_of(&world, &world.factory).shred("alice").await?;
        drop(here);
        // The last moment at which keys are looked at without waiting.
        world.advance(HOUR);
        let _ = there.encrypt(b"tea").await;
        support::eventually("the look has ended", || {
            other.status().loads_in_flight == 0 && other.status().cached_keys <= 1
        })
        .await;
        assert!(matches!(there.encrypt(b"tea").await, Err(Error::Shredded { .. })));
        assert!(matches!(there.decrypt(&record).await, Err(Error::Shredded { .. } | Error::KeyNotFound { .. })));
    }
    Ok(())
}

#[tokio::test]
async fn a_load_that_a_shredding_overtakes_brings_nothing_back() -> TestResult {
    let mut world = World::new().await?;
    let record = world.encrypt("alice", b"tea").await?;
    world.restart().await?;
    let answer = world.store.control.delay_answers(&world.intermediate_key("alice"));
    let session = world.session("alice").await?;
    let mut decrypting = Box::pin(session.decrypt(&record));
    assert!(support::poll_once(decrypting.as_mut()).is_pending());
    answer.arrivals(1).await;
    assert_eq!(keys_of(&world, &world.factory).shred("alice").await?.len(), 1);
    answer.open();
    assert!(matches!(decrypting.await, Err(Error::Shredded { .. })));
    assert!(matches!(session.decrypt(&record).await, Err(Error::Shredded { .. })));
    Ok(())
}

#[tokio::test]
async fn a_revoked_system_key_is_out_of_use_although_no_successor_can_be_made() -> TestResult {
    let world = World::with_policy(|policy| policy.cache_system_keys = false).await?;
    let session = world.session("alice").await?;
    session.encrypt(b"tea").await?;
    world.store.revoke_latest(&world.system_key());
    world.advance(HOUR + SECOND);
    world.store.control.fail(usize::MAX, Some(support::Call::Wrap), None, Fault::Transient);
    for _ in 0..10 {
        assert!(matches!(session.encrypt(b"tea").await, Err(Error::Kms(_))));
        world.advance(SECOND);
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_away_stops_no_decrypt_and_is_not_asked_every_time() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let record = session.encrypt(b"tea").await?;
    world.store.control.fail(usize::MAX, None, None, Fault::Transient);
    world.advance(3 * HOUR);
    let (outcome, calls) = world
        .counting(async {
            for _ in 0..100 {
                assert_eq!(session.decrypt(&record).await?, b"tea");
            }
            TestResult::Ok(())
        })
        .await;
    outcome?;
    assert_eq!(calls, Calls { load_ik: 1, ..Calls::NONE });
    Ok(())
}

#[tokio::test]
async fn a_store_that_hangs_keeps_decrypting_waiting_once() -> TestResult {
    let world = World::with(|setup| setup.operation_timeout = std::time::Duration::from_millis(50)).await?;
    let session = world.session("alice").await?;
    let record = session.encrypt(b"tea").await?;
    let gate = world.store.control.block(&world.intermediate_key("alice"));
    world.advance(3 * HOUR);
    assert_eq!(session.decrypt(&record).await?, b"tea", "after the deadline");
    gate.open();
    support::eventually("the look has ended", || world.factory.status().loads_in_flight == 0).await;
    world.store.control.fail(usize::MAX, None, None, Fault::Transient);
    for _ in 0..10 {
        world.advance(HOUR);
        let mut decrypt = Box::pin(session.decrypt(&record));
        let first = support::poll_once(decrypt.as_mut());
        drop(decrypt);
        support::eventually("the look has ended", || world.factory.status().loads_in_flight == 0).await;
        if let std::task::Poll::Ready(payload) = first {
            assert_eq!(payload?, b"tea");
            continue;
        }
        assert_eq!(session.decrypt(&record).await?, b"tea");
    }
    let mut decrypt = Box::pin(session.decrypt(&record));
    assert!(support::poll_once(decrypt.as_mut()).is_ready(), "the store is known to be away");
    Ok(())
}

#[tokio::test]
async fn a_process_that_only_decrypts_looks_once_an_interval_ahead_of_time() -> TestResult {
    let world = World::new().await?;
    let record = world.encrypt("alice", b"tea").await?;
    let reader = world.another().await?;
    let session = reader.session("alice").await?;
    session.decrypt(&record).await?;
    let before = world.calls();
    for _ in 0..6 {
        // Past the ageing of any jitter, within the interval.
        world.advance(HOUR);
        for _ in 0..10 {
            session.decrypt(&record).await?;
        }
        support::eventually("the look has ended", || reader.status().loads_in_flight == 0).await;
        support::eventually("the key was looked at", || (world.calls() - before).load_ik > 0).await;
    }
    let calls = world.calls() - before;
    assert!((3..=6).contains(&calls.load_ik) && calls.load_sk == 0 && calls.latest_ik == 0, "{calls:?}");
    Ok(())
}

#[tokio::test]
async fn a_record_is_rewrapped_under_the_newest_key_and_its_payload_stays() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let old = session.encrypt(b"tea").await?;
    assert_eq!(session.rewrap(&old).await?, None, "it is under the newest key");
    let made = keys_of(&world, &world.factory).rotate("alice").await?;
    let new = session.rewrap(&old).await?.ok_or("a new record")?;
    assert_eq!((new.parent_key(), new.created(), new.data()), (&made, old.created(), old.data()));
    assert_ne!(new.encrypted_key(), old.encrypted_key());
    assert_eq!(session.rewrap(&new).await?, None);
    let text = String::from_utf8(old.to_json())?.replacen('{', r#"{"row": 7, "#, 1);
    let rewrapped = session.rewrap_json(text.as_bytes()).await?.ok_or("a new record")?;
    assert_eq!(DataRowRecord::from_json(&rewrapped)?.parent_key(), &made);
    assert!(rewrapped.starts_with(br#"{"row":7,"#), "what else it holds is kept");
    world.store.remove(old.parent_key().id.as_str(), old.parent_key().created);
    let fresh = world.another().await?;
    let elsewhere = fresh.session("alice").await?;
    assert_eq!(elsewhere.decrypt(&new).await?, b"tea");
    assert!(matches!(elsewhere.decrypt(&old).await, Err(Error::KeyNotFound { .. })));
    let bob = world.session("bob").await?;
    assert!(matches!(bob.rewrap(&old).await, Err(Error::WrongPartition)));
    let forged = DataRowRecord::from_parts(0, vec![0; 60], old.parent_key().clone(), old.data().to_vec());
    assert!(matches!(session.rewrap(&forged).await, Err(Error::Undecryptable)));
    session.close().await?;
    assert!(matches!(session.rewrap(&old).await, Err(Error::Closed)));
    Ok(())
}

#[tokio::test]
async fn operating_on_a_closed_factory_is_refused() -> TestResult {
    let world = World::new().await?;
    let record = world.encrypt("alice", b"tea").await?;
    let keys = keys_of(&world, &world.factory);
    world.close().await?;
    assert!(matches!(keys.revoke(record.parent_key()).await, Err(Error::Closed)));
    assert!(matches!(keys.rotate("alice").await, Err(Error::Closed)));
    assert!(matches!(keys.shred("alice").await, Err(Error::Closed)));
    Ok(())
}
