//! The library needs no particular executor, and survives being given up at any point.

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use keyward::SessionFactory;
use keyward::kms::StaticKms;
use keyward::stores::InMemoryMetastore;
use support::{MASTER_KEY, TestResult, poll_and_drop};

/// Builds a factory, uses it from several sessions, and closes it.
async fn a_day_in_the_life() -> TestResult {
    let factory = SessionFactory::builder("svc", "prod")
        .metastore(InMemoryMetastore::new())
        .kms(StaticKms::new(MASTER_KEY)?)
        .build()
        .await?;
    for size in [0, 1, 1000, 5 * 1024 * 1024] {
        let payload = vec![7; size];
        let session = factory.session("alice").await?;
        let record = session.encrypt(&payload).await?;
        assert!(factory.session("alice").await?.decrypt(&record).await? == payload);
        let json = session.encrypt_json(&payload).await?;
        assert!(session.decrypt_json(&json).await? == payload);
    }
    factory.close().await?;
    assert_eq!(factory.status().live_keys, 0);
    Ok(())
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The simplest executor there is.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_on_many_threads() -> TestResult {
    a_day_in_the_life().await
}

#[tokio::test(flavor = "current_thread")]
async fn it_works_on_one_thread() -> TestResult {
    a_day_in_the_life().await
}

#[test]
fn it_works_inside_an_actix_system() -> TestResult {
    actix::System::new().block_on(a_day_in_the_life())
}

#[test]
fn it_works_on_a_runtime_without_drivers() -> TestResult {
    tokio::runtime::Builder::new_current_thread().build()?.block_on(a_day_in_the_life())
}

#[test]
fn it_works_without_any_runtime() -> TestResult {
    block_on(a_day_in_the_life())
}

#[test]
fn it_works_in_several_executors_of_one_process_at_once() -> TestResult {
    thread::scope(|scope| -> TestResult {
        let plain = scope.spawn(|| block_on(a_day_in_the_life()).map_err(|error| error.to_string()));
        let actix =
            scope.spawn(|| actix::System::new().block_on(a_day_in_the_life()).map_err(|error| error.to_string()));
        block_on(a_day_in_the_life())?;
        for thread in [plain, actix] {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    })
}

#[test]
fn a_factory_outlives_the_runtime_that_built_it() -> TestResult {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let factory = runtime.block_on(
        SessionFactory::builder("svc", "prod")
            .metastore(InMemoryMetastore::new())
            .kms(StaticKms::new(MASTER_KEY)?)
            .build(),
    )?;
    let session = runtime.block_on(factory.session("alice"))?;
    drop(runtime);
    let record = block_on(session.encrypt(b"tea"))?;
    assert_eq!(block_on(session.decrypt(&record))?, b"tea");
    block_on(factory.close())?;
    Ok(())
}

#[tokio::test]
async fn a_factory_can_be_built_after_builds_given_up_at_any_point() -> TestResult {
    let build = || -> TestResult<_> {
        Ok(SessionFactory::builder("svc", "prod")
            .metastore(InMemoryMetastore::new())
            .kms(StaticKms::new(MASTER_KEY)?)
            .build())
    };
    let witness = build()?.await?;
    let in_use = witness.status().memory.slots_in_use;
    for polls in 0..12 {
        // A build that is done by then is dropped as a factory.
        drop(poll_and_drop(build()?, polls));
    }
    let aborted = tokio::spawn(build()?);
    aborted.abort();
    let _ = aborted.await;
    a_day_in_the_life().await?;
    support::eventually("what was given up is gone", || witness.status().memory.slots_in_use <= in_use).await;
    Ok(())
}

#[tokio::test]
async fn an_aborted_operation_leaves_a_working_session() -> TestResult {
    let factory = SessionFactory::builder("svc", "prod")
        .metastore(InMemoryMetastore::new())
        .kms(StaticKms::new(MASTER_KEY)?)
        .build()
        .await?;
    let payload = vec![7; 5 * 1024 * 1024];
    for polls in 0..16 {
        let session = factory.session(&format!("p{polls}")).await?;
        let large = polls % 2 == 0;
        let _ = poll_and_drop(session.encrypt(if large { &payload } else { b"tea" }), polls);
        let record = session.encrypt(b"tea").await?;
        let _ = poll_and_drop(session.decrypt(&record), polls);
        assert_eq!(session.decrypt(&record).await?, b"tea");
    }
    factory.close().await?;
    Ok(())
}
