//! Calls to a metastore that fails: what is repeated, what is looked into, what is not asked any more.

mod support;

use std::sync::Arc;
use std::time::Duration;

use keyward::kms::StaticKms;
use keyward::stores::{InMemoryMetastore, KeyAdmin, Metastore, StoreError};
use keyward::{BreakerPolicy, Error, RetryPolicy, SessionFactory};
use support::{Call, Fault, MASTER_KEY, Recorder, TestResult, World};

const MS: Duration = Duration::from_millis(1);

/// Repeats three times, at once, and always asks.
fn eager() -> RetryPolicy {
    let mut retries = RetryPolicy::default();
    (retries.attempts, retries.first_delay, retries.budget, retries.breaker) = (4, Duration::ZERO, 10.0, None);
    retries
}

async fn world(retries: RetryPolicy) -> TestResult<World> {
    World::with(|setup| setup.retries = retries).await
}

fn store_error(error: &Error) -> &StoreError {
    let of_the_store = if let Error::Metastore(error) = error { Some(&**error) } else { None };
    of_the_store.expect("it is about the metastore")
}

#[tokio::test]
async fn what_may_pass_is_repeated_and_the_caller_hears_nothing_of_it() -> TestResult {
    let world = world(eager()).await?;
    world.store.control.fail(3, Some(Call::LoadLatest), None, Fault::Transient);
    world.store.control.fail(3, Some(Call::Store), None, Fault::Transient);
    let record = world.encrypt("alice", b"tea").await?;
    assert_eq!(world.decrypt("alice", &record).await?, b"tea");
    assert_eq!(world.store.len(), 2, "one system key, one intermediate key");
    Ok(())
}

#[tokio::test]
async fn what_will_not_pass_is_not_repeated_and_makes_no_key() -> TestResult {
    let world = world(eager()).await?;
    world.store.control.fail(1, Some(Call::Store), Some(&world.intermediate_key("alice")), Fault::Permanent);
    let (refused, calls) = world.counting(world.encrypt("alice", b"tea")).await;
    let refused = refused.expect_err("the store refused");
    assert!(matches!(store_error(&refused), StoreError::Permanent { .. }), "{refused}");
    assert_eq!((calls.store_ik, calls.latest_ik), (1, 1), "no second insert, and no look at who else may have stored");
    assert_eq!(world.store.rows(&world.intermediate_key("alice")).len(), 0);
    world.encrypt("alice", b"tea").await?;
    assert_eq!(world.store.rows(&world.intermediate_key("alice")).len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_insert_whose_reply_was_lost_is_recognised_by_its_bytes() -> TestResult {
    let world = world(eager()).await?;
    let id = world.intermediate_key("alice");
    world.store.control.fail(1, Some(Call::Store), Some(&id), Fault::LostReply);
    let (record, calls) = world.counting(world.encrypt("alice", b"tea")).await;
    let record = record?;
    assert_eq!(calls.store_ik, 2, "it was sent again, and found to be there");
    assert_eq!(world.store.rows(&id).len(), 1, "one key");
    assert_eq!(record.parent_key().created, world.store.latest(&id).created);
    let later = world.another().await?;
    assert_eq!(later.session("alice").await?.decrypt(&record).await?, b"tea");
    Ok(())
}

#[tokio::test]
async fn a_reply_that_is_lost_every_time_is_looked_into_at_the_end() -> TestResult {
    let world = world(eager()).await?;
    let id = world.intermediate_key("alice");
    // The first inserts, each of the others finds the row; all of their replies are lost.
    world.store.control.fail(4, Some(Call::Store), Some(&id), Fault::LostReply);
    let record = world.encrypt("alice", b"tea").await?;
    assert_eq!(world.store.rows(&id).len(), 1);
    assert_eq!(world.decrypt("alice", &record).await?, b"tea");
    Ok(())
}

#[tokio::test]
async fn an_insert_that_came_too_late_is_told_from_one_whose_reply_was_lost() -> TestResult {
    let world = world(eager()).await?;
    let id = world.intermediate_key("alice");
    let other = world.another().await?;
    // While the first insert fails without a trace, another process stores its key.
    let gate = world.store.control.delay_outcomes(&id);
    let theirs = other.session("alice").await?;
    let first = tokio::spawn(async move { theirs.encrypt(b"theirs").await });
    gate.arrivals(1).await;
    world.store.control.fail(1, Some(Call::Store), Some(&id), Fault::Transient);
    gate.open();
    let ours = world.encrypt("alice", b"ours").await?;
    let theirs = first.await??;
    assert_eq!(world.store.rows(&id).len(), 1, "both are under one key");
    assert_eq!(ours.parent_key(), theirs.parent_key());
    assert_eq!(other.session("alice").await?.decrypt(&ours).await?, b"ours");
    Ok(())
}

#[tokio::test]
async fn repetitions_are_a_share_of_the_calls() -> TestResult {
    let mut retries = eager();
    retries.budget = 0.1;
    let world = world(retries).await?;
    world.encrypt("alice", b"tea").await?;
    world.store.control.fail(usize::MAX, Some(Call::LoadLatest), None, Fault::Transient);
    let (_, calls) = world
        .counting(async {
            for partition in 0..100 {
                let _ = world.encrypt(&format!("p{partition}"), b"tea").await;
            }
        })
        .await;
    // One attempt each, some twenty that were saved up, and a tenth.
    assert!((110..=140).contains(&calls.latest_ik), "{} attempts", calls.latest_ik);
    Ok(())
}

#[tokio::test]
async fn a_store_that_keeps_failing_is_spared_and_found_again() -> TestResult {
    let mut retries = eager();
    let mut breaker = BreakerPolicy::default();
    (breaker.failures, breaker.first_pause, breaker.most_pause) = (5, 100 * MS, 100 * MS);
    (retries.attempts, retries.breaker) = (1, Some(breaker));
    let world = world(retries).await?;
    world.encrypt("alice", b"tea").await?;
    world.store.control.fail(usize::MAX, Some(Call::LoadLatest), None, Fault::Transient);
    let (refused, calls) = world
        .counting(async {
            let mut refused = 0;
            for partition in 0..50 {
                let error = world.encrypt(&format!("p{partition}"), b"tea").await.expect_err("the store is away");
                refused += usize::from(matches!(store_error(&error), StoreError::Open { failures: 5, .. }));
            }
            refused
        })
        .await;
    assert_eq!((calls.latest_ik, refused), (5, 45));
    let record = world.encrypt("alice", b"warm").await?;
    assert_eq!(world.decrypt("alice", &record).await?, b"warm", "what is in memory needs no store");
    world.store.control.heal();
    let mut waited = 0;
    while let Err(error) = world.encrypt("bob", b"tea").await {
        let StoreError::Open { retry_in, .. } = store_error(&error) else { return Err(error.into()) };
        assert!(*retry_in <= 100 * MS);
        // As long as the error says.
        tokio::time::sleep(*retry_in + MS).await;
        waited += 1;
        assert!(waited < 10, "it is never asked again");
    }
    Ok(())
}

#[tokio::test]
async fn a_call_that_hangs_ends_with_its_attempt_and_the_next_one_may_succeed() -> TestResult {
    let mut retries = eager();
    retries.attempt_timeout = 50 * MS;
    let world = world(retries).await?;
    let id = world.intermediate_key("alice");
    let gate = world.store.control.block(&id);
    let session = world.session("alice").await?;
    let encrypting = tokio::spawn(async move { session.encrypt(b"tea").await });
    gate.arrivals(2).await; // the second attempt: the first was given up
    gate.open();
    let record = encrypting.await??;
    assert_eq!(world.decrypt("alice", &record).await?, b"tea");
    Ok(())
}

/// A replica that is a copy of some rows.
async fn replicated(rows: &Arc<InMemoryMetastore>, replica: &Arc<Recorder>) -> TestResult<SessionFactory> {
    Ok(SessionFactory::builder("svc", "prod")
        .metastore(Arc::clone(rows))
        .read_replica(support::metastore(replica))
        .kms(StaticKms::new(MASTER_KEY)?)
        .metastore_retries(RetryPolicy::none())
        .build()
        .await?)
}

#[tokio::test]
async fn a_replica_is_asked_first_for_exact_keys_and_never_for_the_latest() -> TestResult {
    let (rows, replica) = (Arc::new(InMemoryMetastore::new()), Arc::new(Recorder::default()));
    let writer = replicated(&rows, &replica).await?;
    let record = writer.session("alice").await?.encrypt(b"tea").await?;
    let calls = replica.control.calls();
    assert_eq!((calls.latest_ik, calls.latest_sk, calls.store_ik, calls.store_sk), (0, 0, 0, 0));

    // It lags: it has nothing yet.
    let reader = replicated(&rows, &replica).await?;
    assert_eq!(reader.session("alice").await?.decrypt(&record).await?, b"tea");
    assert_eq!(replica.control.calls().load_ik, 1, "it was asked");

    // It has caught up: the metastore is not needed.
    for row in rows.list(None, 9).await? {
        replica.insert(row.key.id.as_str(), row.record?);
    }
    let reader = replicated(&Arc::new(InMemoryMetastore::new()), &replica).await?;
    assert_eq!(reader.session("alice").await?.decrypt(&record).await?, b"tea");

    // It is away.
    replica.control.fail(usize::MAX, None, None, Fault::Transient);
    let reader = replicated(&rows, &replica).await?;
    assert_eq!(reader.session("alice").await?.decrypt(&record).await?, b"tea");
    Ok(())
}

#[tokio::test]
async fn errors_name_the_store() -> TestResult {
    struct Slow;
    #[async_trait::async_trait]
    impl Metastore for Slow {
        async fn load(&self, _: &keyward::KeyMeta) -> Result<Option<keyward::EnvelopeKeyRecord>, StoreError> {
            std::future::pending().await
        }
        async fn load_latest(&self, _: &keyward::KeyId) -> Result<Option<keyward::EnvelopeKeyRecord>, StoreError> {
            std::future::pending().await
        }
        async fn store(
            &self,
            _: &keyward::KeyId,
            _: &keyward::EnvelopeKeyRecord,
        ) -> Result<keyward::stores::StoreOutcome, StoreError> {
            std::future::pending().await
        }
        fn place(&self) -> &str {
            "slow://store"
        }
    }
    let factory = SessionFactory::builder("svc", "prod")
        .metastore(Slow)
        .kms(StaticKms::new(MASTER_KEY)?)
        .metastore_timeout(50 * MS)
        .build()
        .await?;
    let error = factory.session("alice").await?.encrypt(b"tea").await.expect_err("it never answers");
    assert!(store_error(&error).to_string().contains("slow://store"), "{error:?}");
    Ok(())
}
