//! How keys are loaded: once for everybody, never at another's expense, and never minted out of an error.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward::stores::StoreError;
use keyward::{CryptoPolicy, DataRowRecord, Error, Session};
use support::{Call, Calls, Fault, HOUR, KMS, MINUTE, SECOND, TestResult, World, key, poll_once};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_cold_encrypts_make_one_key_of_each_kind() -> TestResult {
    let world = World::new().await?;
    let session = Arc::new(world.session("alice").await?);
    let tasks: Vec<_> = (0..1000)
        .map(|_| {
            let session = Arc::clone(&session);
            tokio::spawn(async move { session.encrypt(b"tea").await })
        })
        .collect();
    let mut records = Vec::new();
    for task in tasks {
        records.push(task.await??);
    }
    let expected = Calls { latest_ik: 1, latest_sk: 1, store_ik: 1, store_sk: 1, wrap: 1, ..Calls::NONE };
    assert_eq!(world.calls(), expected);
    assert!(records.iter().all(|record| record.parent_key() == records[0].parent_key()));
    drop(session);
    world.close().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_load_fails_all_who_waited_and_nobody_later() -> TestResult {
    let world = World::new().await?;
    let gate = world.store.control.block(&world.intermediate_key("alice"));
    world.store.control.fail(1, Some(Call::LoadLatest), None, Fault::Transient);
    let session = world.session("alice").await?;
    let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(session.encrypt(b"tea"))).collect();
    for future in &mut waiting {
        assert!(poll_once(future.as_mut()).is_pending());
    }
    gate.arrivals(1).await;
    gate.open();
    let mut failed = 0;
    for future in waiting {
        match future.await {
            Err(Error::Metastore(source)) if source.is_transient() => failed += 1,
            Ok(_) => {}
            Err(other) => return Err(other.into()),
        }
    }
    assert!(failed >= 1, "whoever waited hears of the failure");
    session.encrypt(b"tea").await?;
    let calls = world.calls();
    assert!(calls.latest_ik <= 2 && calls.store_ik == 1, "{calls:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stampede_when_the_interval_ends_reads_each_key_once() -> TestResult {
    let world = World::new().await?;
    let session = Arc::new(world.session("alice").await?);
    session.encrypt(b"tea").await?;
    world.advance(HOUR + SECOND);
    let before = world.calls();
    let tasks: Vec<_> = (0..1000)
        .map(|_| {
            let session = Arc::clone(&session);
            tokio::spawn(async move { session.encrypt(b"tea").await })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    assert_eq!(world.calls() - before, Calls { latest_ik: 1, load_sk: 1, ..Calls::NONE });
    let (_, calls) = world.counting(session.encrypt(b"tea")).await;
    assert_eq!(calls, Calls::NONE);
    Ok(())
}

#[tokio::test]
async fn after_the_first_reload_the_store_rests_for_an_interval() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let record = session.encrypt(b"tea").await?;
    for _ in 0..4 {
        world.advance(HOUR + SECOND);
        session.encrypt(b"tea").await?;
        let before = world.calls();
        for _ in 0..50 {
            world.advance(MINUTE);
            session.encrypt(b"tea").await?;
            session.decrypt(&record).await?;
        }
        assert_eq!(world.calls() - before, Calls::NONE);
    }
    Ok(())
}

#[tokio::test]
async fn a_key_in_use_is_refreshed_ahead_of_time_once_and_without_waiting() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    session.encrypt(b"tea").await?;
    world.advance(HOUR);
    let gate = world.store.control.block(&world.intermediate_key("alice"));
    let before = world.calls();
    for _ in 0..100 {
        session.encrypt(b"tea").await?;
    }
    gate.arrivals(1).await;
    assert_eq!(world.calls() - before, Calls { latest_ik: 1, ..Calls::NONE });
    gate.open();
    Ok(())
}

#[tokio::test]
async fn a_blocked_tenant_delays_nobody_else() -> TestResult {
    let world = World::new().await?;
    let bobs = world.encrypt("bob", b"tea").await?;
    let gate = world.store.control.block(&world.intermediate_key("alice"));
    let alice = world.session("alice").await?;
    let mut blocked = Box::pin(alice.encrypt(b"tea"));
    assert!(poll_once(blocked.as_mut()).is_pending());
    gate.arrivals(1).await;
    for number in 0..50 {
        world.encrypt(&format!("cold {number}"), b"tea").await?;
        world.decrypt("bob", &bobs).await?;
    }
    assert!(poll_once(blocked.as_mut()).is_pending());
    gate.open();
    blocked.await?;
    Ok(())
}

/// The four roads on which a caller may have to wait.
#[derive(Debug, Clone, Copy)]
enum Road {
    MissingIntermediateKey,
    MissingSystemKey,
    StaleKey,
    Creation,
    Decryption,
}

#[tokio::test]
async fn every_road_ends_at_the_deadline_and_the_load_goes_on() -> TestResult {
    use Road::*;
    let deadline = Duration::from_millis(200);
    for (road, blocked) in [
        (MissingIntermediateKey, "ik"),
        (MissingSystemKey, "sk"),
        (MissingSystemKey, KMS),
        (StaleKey, "ik"),
        (StaleKey, "sk"),
        (Creation, "sk"),
        (Creation, KMS),
        (Creation, "ik"),
        (Decryption, "ik"),
        (Decryption, KMS),
    ] {
        let mut world = World::with(|setup| setup.operation_timeout = deadline).await?;
        let record = if let Creation = road { None } else { Some(world.encrypt("alice", b"tea").await?) };
        match road {
            MissingIntermediateKey | MissingSystemKey | Decryption => world.restart().await?,
            StaleKey => world.advance(HOUR + SECOND),
            Creation => {}
        }
        let id = match blocked {
            "ik" => world.intermediate_key("alice"),
            "sk" => world.system_key(),
            other => other.to_owned(),
        };
        let gate = world.store.control.block(&id);
        let session = world.session("alice").await?;
        let began = Instant::now();
        let outcome = match (road, &record) {
            (Decryption, Some(record)) => session.decrypt(record).await.map(drop),
            _ => session.encrypt(b"tea").await.map(drop),
        };
        let took = began.elapsed();
        assert!(matches!(outcome, Err(Error::Timeout { .. })), "{road:?}, {blocked} blocked: {outcome:?}");
        assert!(took >= deadline && took < Duration::from_secs(1), "{road:?}, {blocked} blocked: {took:?}");
        gate.open();
        let (outcome, calls) = world
            .counting(async {
                match (road, &record) {
                    (Decryption, Some(record)) => session.decrypt(record).await.map(drop),
                    _ => session.encrypt(b"tea").await.map(drop),
                }
            })
            .await;
        assert!(outcome.is_ok(), "{road:?}, {blocked} unblocked: {outcome:?}");
        assert!(calls.latest_ik == 0, "{road:?}, {blocked}: the load that was under way served the later caller");
        drop(session);
        world.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_caller_who_goes_away_takes_nobody_along() -> TestResult {
    let world = World::new().await?;
    let gate = world.store.control.block(&world.intermediate_key("alice"));
    let session = world.session("alice").await?;
    let mut first = Box::pin(session.encrypt(b"tea"));
    assert!(poll_once(first.as_mut()).is_pending());
    gate.arrivals(1).await;
    let mut others: Vec<_> = (0..10).map(|_| Box::pin(session.encrypt(b"tea"))).collect();
    for other in &mut others {
        assert!(poll_once(other.as_mut()).is_pending());
    }
    drop(first);
    gate.open();
    for other in others {
        other.await?;
    }
    assert_eq!(world.calls().store_ik, 1);
    drop(session);
    world.close().await
}

#[tokio::test]
async fn a_load_whose_only_caller_went_away_is_finished() -> TestResult {
    let world = World::new().await?;
    let gate = world.store.control.block(&world.intermediate_key("alice"));
    let session = world.session("alice").await?;
    let mut only = Box::pin(session.encrypt(b"tea"));
    assert!(poll_once(only.as_mut()).is_pending());
    gate.arrivals(1).await;
    drop(only);
    gate.open();
    support::eventually("the key is cached", || world.factory.status().cached_keys == 2).await;
    let (record, calls) = world.counting(session.encrypt(b"tea")).await;
    assert_eq!(session.decrypt(&record?).await?, b"tea");
    assert_eq!(calls, Calls::NONE);
    Ok(())
}

#[tokio::test]
async fn store_failures_surface_and_are_no_duplicates() -> TestResult {
    for (fault, transient) in [(Fault::Transient, true), (Fault::Permanent, false), (Fault::LostReply, true)] {
        for system in [true, false] {
            let world = World::new().await?;
            let id = if system { world.system_key() } else { world.intermediate_key("alice") };
            world.store.control.fail(1, Some(Call::Store), Some(&id), fault);
            let (failed, calls) = world.counting(world.encrypt("alice", b"tea")).await;
            let Err(Error::Metastore(source)) = failed else { return Err(format!("{fault:?}: {failed:?}").into()) };
            assert_eq!(source.is_transient(), transient);
            assert!(matches!(
                (&*source, fault),
                (StoreError::Permanent { .. }, Fault::Permanent) | (StoreError::Transient { .. }, _)
            ));
            assert_eq!((calls.latest_ik, calls.latest_sk), (1, 1), "an error is not looked at again as a duplicate");
            let record = world.encrypt("alice", b"tea").await?;
            assert_eq!(world.decrypt("alice", &record).await?, b"tea");
            assert_eq!(world.store.rows(&id).len(), 1);
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_hour_of_failing_calls_makes_no_key() -> TestResult {
    let cases = [
        (Some(Call::LoadLatest), Fault::Transient),
        (Some(Call::Load), Fault::Transient),
        (Some(Call::Load), Fault::Permanent),
        (Some(Call::Unwrap), Fault::Transient),
        (Some(Call::Unwrap), Fault::Permanent),
        (None, Fault::Transient),
    ];
    for (call, fault) in cases {
        let mut world = World::with_policy(|policy| policy.revoke_check_interval = MINUTE).await?;
        let mut records: Vec<(String, DataRowRecord)> = Vec::new();
        for name in ["alice", "bob"] {
            records.push((name.to_owned(), world.encrypt(name, b"tea").await?));
        }
        world.restart().await?;
        world.store.control.fail(usize::MAX, call, None, fault);
        for _ in 0..60 {
            world.advance(MINUTE + SECOND);
            for (name, _) in &records {
                let failed = world.encrypt(name, b"tea").await;
                assert!(matches!(failed, Err(Error::Metastore(_) | Error::Kms(_))), "{call:?} {fault:?}: {failed:?}");
            }
        }
        assert_eq!(world.store.len(), 3, "{call:?} {fault:?}");
        world.store.control.heal();
        for (name, before) in &records {
            assert_eq!(world.encrypt(name, b"tea").await?.parent_key(), before.parent_key());
            assert_eq!(world.decrypt(name, before).await?, b"tea");
        }
        world.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_key_row_is_reported_and_not_replaced() -> TestResult {
    for damage in 0..4 {
        let mut world = World::new().await?;
        let record = world.encrypt("alice", b"tea").await?;
        let id = world.intermediate_key("alice");
        world.restart().await?;
        let created = record.parent_key().created;
        let good = world.store.latest(&id);
        world.store.change(&id, created, |row| match damage {
            0 => row.encrypted_key[7] ^= 1,
            1 => drop(row.encrypted_key.pop()),
            2 => row.encrypted_key.clear(),
            _ => row.parent_key = Some(key("_IK_alice_svc_prod", created)),
        });
        let encrypted = world.encrypt("alice", b"tea").await;
        assert!(matches!(encrypted, Err(Error::KeyCorrupt { .. })), "{damage}: {encrypted:?}");
        let decrypted = world.decrypt("alice", &record).await;
        assert!(matches!(decrypted, Err(Error::KeyCorrupt { .. })), "{damage}: {decrypted:?}");
        assert_eq!(world.store.len(), 2, "{damage}: nothing was made");
        world.store.insert(&id, good);
        assert_eq!(world.decrypt("alice", &record).await?, b"tea", "{damage}: nothing bad was kept");
        world.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_row_whose_system_key_is_missing_is_replaced_for_encrypting_and_reported_for_decrypting() -> TestResult {
    let mut world = World::new().await?;
    let record = world.encrypt("alice", b"tea").await?;
    world.restart().await?;
    let row = world.store.latest(&world.system_key());
    world.store.remove(&world.system_key(), row.created);
    let decrypted = world.decrypt("alice", &record).await;
    assert!(matches!(decrypted, Err(Error::KeyNotFound { ref id, .. }) if *id == world.system_key()), "{decrypted:?}");
    world.advance(MINUTE);
    let after = world.encrypt("alice", b"cake").await?;
    assert_eq!(world.decrypt("alice", &after).await?, b"cake");
    assert_eq!(world.store.len(), 3);
    Ok(())
}

#[tokio::test]
async fn a_store_that_panics_fails_one_call_and_nobody_else() -> TestResult {
    for call in [Call::LoadLatest, Call::Store] {
        let world = World::new().await?;
        let bobs = world.encrypt("bob", b"tea").await?;
        let gate = world.store.control.block(&world.intermediate_key("carol"));
        let carol = world.session("carol").await?;
        let mut under_way = Box::pin(carol.encrypt(b"tea"));
        assert!(poll_once(under_way.as_mut()).is_pending());
        gate.arrivals(1).await;
        let alice = world.intermediate_key("alice");
        world.store.control.fail(1, Some(call), Some(&alice), Fault::Panic);
        let failed = world.encrypt("alice", b"tea").await;
        assert!(matches!(failed, Err(Error::Restarted { .. })), "{call:?}: {failed:?}");
        world.decrypt("bob", &bobs).await?;
        let record = world.encrypt("alice", b"tea").await?;
        assert_eq!(world.decrypt("alice", &record).await?, b"tea");
        gate.open();
        let carols = under_way.await;
        assert!(carols.is_ok(), "{call:?}: a load of another partition, under way meanwhile: {carols:?}");
        drop(carol);
        world.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_key_management_service_that_panics_fails_one_call() -> TestResult {
    for call in [Call::Wrap, Call::Unwrap] {
        let mut world = World::new().await?;
        if call == Call::Unwrap {
            world.encrypt("alice", b"tea").await?;
            world.restart().await?;
        }
        world.store.control.fail(1, Some(call), None, Fault::Panic);
        let failed = world.encrypt("alice", b"tea").await;
        assert!(matches!(failed, Err(Error::Restarted { .. })), "{call:?}: {failed:?}");
        let record = world.encrypt("alice", b"tea").await?;
        assert_eq!(world.decrypt("alice", &record).await?, b"tea");
        world.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn without_caches_every_operation_asks_the_store_and_keeps_nothing() -> TestResult {
    let world = World::with_policy(|policy: &mut CryptoPolicy| {
        policy.cache_intermediate_keys = false;
        policy.cache_system_keys = false;
    })
    .await?;
    let session: Session = world.session("alice").await?;
    let record = session.encrypt(b"tea").await?;
    let (_, calls) = world.counting(session.encrypt(b"tea")).await;
    assert_eq!(calls, Calls { latest_ik: 1, load_sk: 1, unwrap: 1, ..Calls::NONE });
    let (_, calls) = world.counting(session.decrypt(&record)).await;
    assert_eq!(calls, Calls { load_ik: 1, load_sk: 1, unwrap: 1, ..Calls::NONE });
    support::eventually("no key is kept", || world.factory.status().live_keys == 0).await;
    Ok(())
}
