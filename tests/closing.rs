//! How a factory ends: whoever closes it, whatever is under way, and that nothing is left.

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyward::kms::{KeyManagementService, KmsError, SystemKey};
use keyward::stores::InMemoryMetastore;
use keyward::{CacheScope, CloseError, CloseFailure, Error, SessionFactory};
use secrecy::SecretSlice;
use support::{Call, Fault, KMS, TestResult, World, eventually, poll_and_drop, poll_once};

#[tokio::test]
async fn a_closed_factory_holds_no_keys_though_sessions_are_still_open() -> TestResult {
    for scope in [CacheScope::Factory, CacheScope::Session] {
        for cache_sessions in [false, true] {
            let world = World::with_policy(|policy| {
                policy.intermediate_key_cache_scope = scope;
                policy.cache_sessions = cache_sessions;
            })
            .await?;
            let session = world.session("alice").await?;
            let record = session.encrypt(b"tea").await?;
            world.factory.close().await?;
            assert_eq!(world.factory.status().live_keys, 0, "{scope:?} {cache_sessions}");
            assert!(matches!(session.encrypt(b"tea").await, Err(Error::Closed)));
            assert!(matches!(session.encrypt_json(b"tea").await, Err(Error::Closed)));
            assert!(matches!(session.decrypt(&record).await, Err(Error::Closed)));
            assert!(matches!(session.decrypt_json(&record.to_json()).await, Err(Error::Closed)));
            assert!(matches!(world.session("alice").await, Err(Error::Closed)));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_closes_at_once_agree() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    session.encrypt(b"tea").await?;
    let closes: Vec<_> = (0..64)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.close().await })
        })
        .collect();
    for close in closes {
        close.await??;
    }
    session.encrypt(b"tea").await?;
    let closes: Vec<_> = (0..64)
        .map(|_| {
            let factory = world.factory.clone();
            tokio::spawn(async move { factory.close().await })
        })
        .collect();
    for close in closes {
        close.await??;
    }
    assert_eq!(world.factory.status().live_keys, 0);
    world.factory.close().await?;
    Ok(())
}

#[tokio::test]
async fn closing_one_handle_twice_closes_no_other() -> TestResult {
    for cache_sessions in [false, true] {
        let world = World::with_policy(|policy| policy.cache_sessions = cache_sessions).await?;
        let first = world.session("alice").await?;
        let second = world.session("alice").await?;
        let clone = first.clone();
        first.close().await?;
        first.close().await?;
        assert!(matches!(first.encrypt(b"tea").await, Err(Error::Closed)));
        drop(first);
        for open in [&second, &clone] {
            let record = open.encrypt(b"tea").await?;
            assert_eq!(open.decrypt(&record).await?, b"tea");
        }
        world.encrypt("alice", b"tea").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_factory_closed_during_a_thousand_operations_ends_them_all() -> TestResult {
    for round in 0..4 {
        let world = World::new().await?;
        let warm = world.session("warm").await?;
        let record = Arc::new(warm.encrypt(b"tea").await?);
        let tasks: Vec<_> = (0..1000)
            .map(|number| {
                let (factory, warm, record) = (world.factory.clone(), warm.clone(), Arc::clone(&record));
                tokio::spawn(async move {
                    match number % 3 {
                        0 => factory.session(&format!("cold {}", number % 50)).await?.encrypt(b"tea").await.map(drop),
                        1 => warm.encrypt(b"tea").await.map(drop),
                        _ => warm.decrypt(&record).await.map(|payload| assert_eq!(payload, b"tea")),
                    }
                })
            })
            .collect();
        for _ in 0..round * 20 {
            tokio::task::yield_now().await;
        }
        world.factory.close().await?;
        for task in tasks {
            let outcome = task.await?;
            assert!(matches!(outcome, Ok(()) | Err(Error::Closed)), "{outcome:?}");
        }
        eventually("no key is left", || world.factory.status().live_keys == 0).await;
    }
    Ok(())
}

#[tokio::test]
async fn closing_waits_for_no_store_and_fails_those_who_do() -> TestResult {
    for place in ["ik", "sk", KMS] {
        let world = World::new().await?;
        let id = match place {
            "ik" => world.intermediate_key("alice"),
            "sk" => world.system_key(),
            other => other.to_owned(),
        };
        let gate = world.store.control.block(&id);
        let session = world.session("alice").await?;
        let mut blocked = Box::pin(session.encrypt(b"tea"));
        assert!(poll_once(blocked.as_mut()).is_pending());
        gate.arrivals(1).await;
        world.factory.close().await?;
        let outcome = blocked.await;
        assert!(matches!(outcome, Err(Error::Closed)), "{place}: {outcome:?}");
        eventually("no key is left", || world.factory.status().live_keys == 0).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_large_operation_cut_off_by_a_close_says_that_it_is_closed() -> TestResult {
    let payload = vec![7; 5 * 1024 * 1024];
    for road in 0..4 {
        let world = World::new().await?;
        let session = world.session("alice").await?;
        let record = session.encrypt(&payload).await?;
        let json = record.to_json();
        assert_eq!(session.decrypt_json(&json).await?.len(), payload.len());
        let mut under_way: std::pin::Pin<Box<dyn Future<Output = Result<(), Error>> + Send>> = match road {
            0 => Box::pin(async { session.encrypt(&payload).await.map(drop) }),
            1 => Box::pin(async { session.encrypt_json(&payload).await.map(drop) }),
            2 => Box::pin(async { session.decrypt(&record).await.map(drop) }),
            _ => Box::pin(async { session.decrypt_json(&json).await.map(drop) }),
        };
        assert!(poll_once(under_way.as_mut()).is_pending());
        world.factory.close().await?;
        let outcome = under_way.await;
        assert!(matches!(outcome, Err(Error::Closed)), "{road}: {outcome:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_close_whose_caller_went_away_goes_on() -> TestResult {
    let world = World::new().await?;
    world.encrypt("alice", b"tea").await?;
    // On a busy machine it may even be done by then.
    drop(poll_and_drop(world.factory.close(), 1));
    eventually("all keys are gone", || world.factory.status().live_keys == 0).await;
    world.factory.close().await?;
    Ok(())
}

#[tokio::test]
async fn dropping_everything_wipes_everything() -> TestResult {
    let world = World::new().await?;
    let in_use = world.factory.status().memory.slots_in_use;
    let factory = world.another().await?;
    let session = factory.session("alice").await?;
    session.encrypt(b"tea").await?;
    drop(factory);
    session.encrypt(b"the session keeps its factory alive").await?;
    drop(session);
    eventually("its slots are free", || world.factory.status().memory.slots_in_use <= in_use).await;
    Ok(())
}

#[tokio::test]
async fn trouble_before_a_close_does_not_become_trouble_of_the_close() -> TestResult {
    let world = World::new().await?;
    world.store.control.fail(1, Some(Call::LoadLatest), None, Fault::Panic);
    assert!(world.encrypt("alice", b"tea").await.is_err());
    world.encrypt("alice", b"tea").await?;
    world.close().await
}

/// A service that keeps hold of a plain key, and of its thread, until told to let go.
struct Clinging {
    holding: tokio::sync::Notify,
    let_go: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
}

#[async_trait]
impl KeyManagementService for Clinging {
    async fn encrypt_key(&self, key: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
        key.with_bytes(|_| {
            self.holding.notify_one();
            let _ = self.let_go.lock().map(|let_go| let_go.recv());
            vec![0; 60]
        })
    }

    async fn decrypt_key(&self, _: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
        Err(KmsError::undecryptable())
    }
}

#[tokio::test]
async fn a_close_that_had_to_cut_something_off_says_so_each_time_and_wipes_all_the_same() -> TestResult {
    let (release, let_go) = std::sync::mpsc::channel();
    let kms = Arc::new(Clinging { holding: tokio::sync::Notify::new(), let_go: let_go.into() });
    let factory = SessionFactory::builder("svc", "prod")
        .metastore(InMemoryMetastore::new())
        .kms(Arc::clone(&kms))
        .drain_timeout(Duration::from_millis(50))
        .build()
        .await?;
    let session = factory.session("alice").await?;
    let mut under_way = Box::pin(session.encrypt(b"tea"));
    assert!(poll_once(under_way.as_mut()).is_pending());
    kms.holding.notified().await;
    for _ in 0..2 {
        let CloseError { failures } = factory.close().await.expect_err("a key is in use");
        assert!(matches!(&failures[..], [CloseFailure { component: "guard", .. }]), "{failures:?}");
    }
    assert!(matches!(under_way.await, Err(Error::Closed)));
    release.send(())?;
    eventually("no key is left", || factory.status().live_keys == 0).await;
    Ok(())
}
