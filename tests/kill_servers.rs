//! A process that is killed at any moment loses nothing that it has told anyone, whatever store its keys are in.
//!
//! Children are this test binary again, running the one ignored test that is named for them. Each encrypts for partitions
//! that are its own and tells every record, a line each, until it is killed; then a factory of this process must decrypt
//! what was told. `kill.rs` has processes killed at each of their writes to SQLite; here they are killed by the clock.
#![cfg(all(unix, feature = "postgres", feature = "sqlite"))]

#[path = "servers/mod.rs"]
mod servers;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyward::kms::StaticKms;
use keyward::stores::{KeyAdmin, Metastore, PostgresMetastore, SqliteMetastore};
use keyward::{CryptoPolicy, DataRowRecord, SessionFactory};
use servers::{Postgres, PostgresSetup, TestResult};
use tokio::sync::oneshot;

/// Tells a child where its keys are, and which service it is.
const STORE: &str = "KEYWARD_TEST_KILL_STORE";
const SERVICE: &str = "KEYWARD_TEST_KILL_SERVICE";
/// Tells the tests which moments to choose, to have those of an earlier run again.
const SEED: &str = "KEYWARD_TEST_SEED";

const ROUNDS: u64 = 50;
/// One round in so many begins with the process, the others with its first record.
const FROM_THE_START: u64 = 5;
const LATEST: Duration = Duration::from_millis(120);

/// signal(7).
const SIGKILL: i32 = 9;

trait Store: Metastore + KeyAdmin {}
impl<S: Metastore + KeyAdmin> Store for S {}

#[tokio::test]
async fn a_process_killed_at_any_moment_has_kept_what_it_told_in_postgres() -> TestResult {
    let setup = PostgresSetup { fsync: true, ..PostgresSetup::default() };
    let Some(server) = Postgres::start(&setup)? else { return Ok(()) };
    kill_again_and_again(&server.new_table()?).await
}

#[tokio::test]
async fn a_process_killed_at_any_moment_has_kept_what_it_told_in_sqlite() -> TestResult {
    let folder = tempfile::tempdir()?;
    kill_again_and_again(folder.path().join("keys.db").to_str().ok_or("the path is text")?).await
}

/// Has children killed at random moments, and checks after each what it told, and at last the table.
async fn kill_again_and_again(place: &str) -> TestResult {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse()?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    eprintln!("{SEED}={seed}");
    let mut moments = Moments(seed);
    let store = open(place).await?;
    let mut told = 0;
    for round in 0..ROUNDS {
        let service = format!("svc{round}");
        let moment = moments.next();
        let records = killed(place, &service, round % FROM_THE_START == 0, moment).await?;
        told += records.len();
        check(Arc::clone(&store), &service, &records)
            .await
            .map_err(|error| format!("round {round}, killed after {moment:?}, seed {seed}: {error}"))?;
    }
    eprintln!("{told} records were told by {ROUNDS} processes");
    assert!(told >= 40, "most children have told something, not {told} records");
    check_table(&*store).await
}

/// Moments from nothing to [`LATEST`], by SplitMix64.
struct Moments(u64);

impl Moments {
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let number = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default();
        LATEST.mul_f64(f64::from(number) / f64::from(u32::MAX))
    }
}

/// Lets a child work for a while, from its start or from its first record, kills it, and returns the records that it told
/// whole.
async fn killed(
    place: &str,
    service: &str,
    is_from_the_start: bool,
    after: Duration,
) -> TestResult<Vec<(String, DataRowRecord)>> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--ignored", "--nocapture", "--exact", "child_encrypts_until_it_is_killed"])
        .env(STORE, place)
        .env(SERVICE, service)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut output = BufReader::new(child.stdout.take().ok_or("its output is piped")?);
    let (begun, has_begun) = oneshot::channel();
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        while output.read_line(&mut text)? > 0 && !text.contains("record ") {}
        let _ = begun.send(());
        output.read_to_string(&mut text).map(|_| text)
    });
    if !is_from_the_start {
        has_begun.await?;
    }
    // The moment is what is tried here.
    tokio::time::sleep(after).await;
    child.kill()?;
    let text = text.await??;
    let status = child.wait()?;
    if status.signal() != Some(SIGKILL) {
        return Err(format!("{status}: {text}").into());
    }
    let mut records = Vec::new();
    // The last line may be cut off.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.strip_prefix("record ")) {
        let (partition, json) = line.split_once(' ').ok_or("a record has a partition")?;
        records.push((partition.to_owned(), DataRowRecord::from_json(json.as_bytes())?));
    }
    Ok(records)
}

#[tokio::test]
#[ignore = "a child of the tests that kill"]
async fn child_encrypts_until_it_is_killed() -> TestResult {
    let (place, service) = (std::env::var(STORE)?, std::env::var(SERVICE)?);
    let factory = factory(open(&place).await?, &service).await?;
    for number in 0.. {
        let partition = format!("p{number}");
        let record = factory.session(&partition).await?.encrypt(partition.as_bytes()).await?;
        let line = format!("\nrecord {partition} {}\n", String::from_utf8(record.to_json())?);
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

async fn open(place: &str) -> TestResult<Arc<dyn Store>> {
    Ok(if place.starts_with("postgres://") {
        Arc::new(PostgresMetastore::connect(place.parse()?).await?)
    } else {
        Arc::new(SqliteMetastore::open(place).await?)
    })
}

async fn factory(store: Arc<dyn Store>, service: &str) -> TestResult<SessionFactory> {
    // Whoever made a key again a second later would store it beside the first.
    let policy = CryptoPolicy { created_precision: Duration::ZERO, ..CryptoPolicy::default() };
    let kms = StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?;
    Ok(SessionFactory::builder(service, "prod").metastore(store).kms(kms).policy(policy).build().await?)
}

/// Checks that what was told decrypts, and that work goes on where it ended.
async fn check(store: Arc<dyn Store>, service: &str, records: &[(String, DataRowRecord)]) -> TestResult {
    let factory = factory(store, service).await?;
    for (partition, record) in records {
        let session = factory.session(partition).await?;
        let payload = session.decrypt(record).await.map_err(|error| format!("{partition}: {error:?}"))?;
        assert_eq!(payload, partition.as_bytes());
    }
    // The key that the child was about to make when it was killed may be there or not.
    let next = format!("p{}", records.len());
    let session = factory.session(&next).await?;
    assert_eq!(session.decrypt(&session.encrypt(b"tea").await?).await?, b"tea");
    Ok(factory.close().await?)
}

/// Checks that no key is there twice, and none without the one that wraps it.
async fn check_table(store: &dyn Store) -> TestResult {
    let rows = store.list(None, usize::MAX / 2).await?;
    let keys: BTreeSet<_> = rows.iter().map(|row| row.key.clone()).collect();
    let ids: BTreeSet<_> = rows.iter().map(|row| row.key.id.clone()).collect();
    assert_eq!((keys.len(), ids.len()), (rows.len(), rows.len()), "a key is there twice");
    for row in rows {
        if let Some(parent) = row.record?.parent_key {
            assert!(keys.contains(&parent), "{} is without its {parent}", row.key);
        }
    }
    Ok(())
}
