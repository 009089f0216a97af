//! Hours without any region.

use std::sync::Arc;
use std::time::Duration;

use keyward::kms::{AwsKmsOptions, KmsState};
use keyward::stores::InMemoryMetastore;
use keyward::{CryptoPolicy, Error, ManualClock, SessionFactory, SystemClock};

use crate::stage::{Fault, Regions, TestResult, until};

const HOUR: Duration = Duration::from_secs(3600);

struct Process {
    factory: SessionFactory,
    clock: Arc<ManualClock>,
}

impl Process {
    async fn start(regions: &Regions, store: &Arc<InMemoryMetastore>, clock: Arc<ManualClock>) -> TestResult<Self> {
        let policy = CryptoPolicy { expire_after: 24 * HOUR, ..CryptoPolicy::default() };
        let factory = SessionFactory::builder("svc", "prod")
            .metastore(Arc::clone(store))
            .kms(regions.kms(|_| ())?)
            .policy(policy)
            .clock(Arc::clone(&clock))
            .build()
            .await?;
        Ok(Self { factory, clock })
    }

    async fn encrypt(&self, partition: &str) -> Result<keyward::DataRowRecord, Error> {
        self.factory.session(partition).await?.encrypt(b"tea").await
    }
}

fn now() -> Arc<ManualClock> {
    use keyward::Clock;
    Arc::new(ManualClock::at(SystemClock.now()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_hours_without_the_service_stop_nobody_who_has_the_system_key() -> TestResult {
    let Some(regions) = Regions::new(&["us-west-2", "us-east-1"]).await? else { return Ok(()) };
    let store = Arc::new(InMemoryMetastore::new());
    let process = Process::start(&regions, &store, now()).await?;
    let record = process.encrypt("alice").await?;
    let calls = process.factory.status().kms_calls;
    assert!(process.factory.status().is_ready());
    regions.set(Fault::Refuse);
    for step in 0..72 {
        process.clock.advance(HOUR / 12);
        let session = process.factory.session("alice").await?;
        assert_eq!(session.decrypt(&record).await?, b"tea");
        assert_eq!(session.decrypt(&session.encrypt(b"more tea").await?).await?, b"more tea");
        // A partition that is new has a key made for it, under the system key that is there.
        process.encrypt(&format!("new-{step}")).await?;
    }
    assert_eq!(process.factory.status().kms_calls, calls, "nobody asked the service");

    // A process that starts now cannot do anything, and says so.
    let restarted = Process::start(&regions, &store, Arc::clone(&process.clock)).await?;
    let session = restarted.factory.session("alice").await?;
    for failed in [session.decrypt(&record).await.map(drop), session.encrypt(b"tea").await.map(drop)] {
        let Err(Error::Kms(error)) = failed else { return Err(format!("{failed:?}").into()) };
        assert!(error.is_transient());
        let text = error.to_string();
        for region in ["us-west-2", "us-east-1"] {
            let known = [format!("{region}: network"), format!("{region}: paused")];
            assert!(known.iter().any(|known| text.contains(known)) && text.contains("network"), "{text}");
        }
        assert!(!text.contains("arn:aws"), "{text}");
    }
    let status = restarted.factory.status();
    assert!(!status.is_ready(), "{:?}", status.kms);
    assert!(status.kms.iter().all(|region| matches!(region.state, KmsState::Failing | KmsState::Paused)));

    // It needs no other start once the service is back.
    regions.set(Fault::None);
    let works = || async { session.decrypt(&record).await.is_ok_and(|plain| plain == b"tea") };
    until("the way back", works).await?;
    assert!(restarted.factory.status().is_ready());
    process.factory.close().await?;
    restarted.factory.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_nobody_asks_for_anything_is_ready_again_once_the_service_is_back() -> TestResult {
    let Some(regions) = Regions::new(&["us-west-2", "us-east-1"]).await? else { return Ok(()) };
    let store = Arc::new(InMemoryMetastore::new());
    let process = Process::start(&regions, &store, now()).await?;
    regions.set(Fault::Refuse);
    process.encrypt("alice").await.err().ok_or("no region answers")?;
    let status = || process.factory.status();
    assert!(!status().is_ready());
    let calls = status().kms_calls;
    regions.set(Fault::None);
    // No readiness probe sends it anything meanwhile.
    let are_up = || async { status().kms.iter().all(|region| region.state == KmsState::Up) };
    until("readiness", are_up).await?;
    assert!(status().is_ready());
    assert_eq!(status().kms_calls, calls, "nobody asked for a key");
    process.encrypt("alice").await?;
    process.factory.close().await?;
    Ok(())
}

/// With the limits that a factory and a service have where nobody sets others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_that_take_requests_and_never_answer_are_named_and_leave_time_for_one_that_does() -> TestResult {
    let names = ["us-west-2", "us-east-1", "eu-west-1", "ap-southeast-2"];
    let Some(regions) = Regions::new(&names).await? else { return Ok(()) };
    let kms = || {
        regions.kms(|options| {
            options.retries = AwsKmsOptions::default().retries;
            options.min_regions = Some(1);
        })
    };
    let factory =
        async |kms| SessionFactory::builder("svc", "prod").metastore(InMemoryMetastore::new()).kms(kms).build().await;
    regions.set(Fault::HalfOpen);
    let stuck = factory(kms()?).await?;
    let failed = stuck.session("alice").await?.encrypt(b"tea").await.map(drop);
    let Err(Error::Kms(error)) = failed else { return Err(format!("{failed:?}").into()) };
    let text = error.to_string();
    assert!(names.iter().all(|name| text.contains(&format!("{name}: timeout"))), "{text}");
    stuck.close().await?;

    regions.proxies[3].set(Fault::None);
    let works = factory(kms()?).await?;
    works.session("alice").await?.encrypt(b"tea").await?;
    works.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_encrypted_under_a_system_key_that_expires_meanwhile_and_everything_is_decrypted() -> TestResult {
    let Some(regions) = Regions::new(&["eu-west-1"]).await? else { return Ok(()) };
    let store = Arc::new(InMemoryMetastore::new());
    let process = Process::start(&regions, &store, now()).await?;
    let record = process.encrypt("alice").await?;
    regions.set(Fault::Refuse);
    process.clock.advance(25 * HOUR);
    let session = process.factory.session("alice").await?;
    let refused = session.encrypt(b"tea").await;
    assert!(matches!(&refused, Err(Error::Kms(error)) if error.is_transient()), "{refused:?}");
    assert_eq!(session.decrypt(&record).await?, b"tea");
    regions.set(Fault::None);
    until("the next system key", || async { session.encrypt(b"tea").await.is_ok() }).await?;
    assert_ne!(session.encrypt(b"tea").await?.parent_key(), record.parent_key());
    process.factory.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_warm_operations_and_a_thousand_new_partitions_ask_the_service_nothing() -> TestResult {
    let Some(regions) = Regions::new(&["eu-west-1"]).await? else { return Ok(()) };
    let process = Process::start(&regions, &Arc::new(InMemoryMetastore::new()), now()).await?;
    let record = process.encrypt("alice").await?;
    let calls = process.factory.status().kms_calls;
    let session = process.factory.session("alice").await?;
    for _ in 0..500_000 {
        session.decrypt(&record).await?;
        session.encrypt(b"tea").await?;
    }
    for partition in 0..1_000 {
        process.encrypt(&format!("p{partition}")).await?;
    }
    assert_eq!((calls, process.factory.status().kms_calls), (1, 1));
    process.factory.close().await?;
    Ok(())
}
