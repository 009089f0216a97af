//! A process that is killed at any write to its key table loses nothing that it has told anyone.
//!
//! Children are this test binary again, running the one ignored test that is named for them. They tell what they have done,
//! a line each; strace(1) kills them when they are about to make their n-th call of a kind, for every n that there is. Then
//! the table is opened again and must hold everything that was told.
#![cfg(all(unix, feature = "sqlite"))]

use std::error::Error as StdError;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use keyward::kms::LocalKms;
use keyward::stores::{KeyAdmin, Metastore, Revocation, SqliteMetastore};
use keyward::{DataRowRecord, Error, KeyId, KeyMeta, SessionFactory};
use rusqlite::Connection;
use tempfile::TempDir;

type TestResult<T = ()> = Result<T, Box<dyn StdError>>;

/// Tells a child where its files are, and how many partitions it encrypts for.
const FOLDER: &str = "KEYWARD_TEST_KILL_FOLDER";
const ROUNDS: &str = "KEYWARD_TEST_KILL_ROUNDS";

/// signal(7).
const SIGKILL: i32 = 9;

/// Rounds of a child that is killed by its calls: each kind of deed once at least.
const FEW: usize = 5;
/// Rounds of a child that nobody lets finish.
const MANY: usize = 1_000_000;

#[test]
fn a_process_killed_at_any_write_to_its_table_has_kept_what_it_told() -> TestResult {
    kill_at_each(&["pwrite64"])
}

#[test]
fn a_process_killed_at_any_sync_has_kept_what_it_told() -> TestResult {
    kill_at_each(&["fdatasync", "fsync"])
}

#[test]
fn a_process_killed_when_it_links_cuts_or_removes_a_file_has_kept_what_it_told() -> TestResult {
    kill_at_each(&["ftruncate", "link", "linkat", "unlink", "unlinkat"])
}

#[test]
fn a_process_killed_at_any_moment_has_kept_what_it_told() -> TestResult {
    for lines in [1, 3, 6, 10, 15, 21] {
        let stage = Stage::new()?;
        let mut child = stage.spawn(Command::new(std::env::current_exe()?), MANY)?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        let mut told = Told::default();
        while told.lines < lines {
            let mut line = String::new();
            output.read_line(&mut line)?;
            told.hear(&line)?;
        }
        child.kill()?;
        let mut rest = String::new();
        output.read_to_string(&mut rest)?;
        rest.split_inclusive('\n').try_for_each(|line| told.hear(line))?;
        assert!(!child.wait()?.success());
        stage.check(&told).map_err(|error| format!("killed after {lines} lines: {error}"))?;
    }
    Ok(())
}

/// Has children killed at every call of these kinds, not all of which every system has.
fn kill_at_each(calls: &[&str]) -> TestResult {
    if let Some(reason) = no_tracer() {
        eprintln!("SKIP: {reason}");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "on CI this must run");
        return Ok(());
    }
    let mut killed = 0;
    for call in calls {
        killed += kill_at_every(call)?;
    }
    eprintln!("killed {killed} processes at {calls:?}");
    assert!(killed >= 5, "the children make more calls than that");
    Ok(())
}

/// Has children killed at their first, second, … call of a kind, until one comes through; returns how many were killed.
fn kill_at_every(call: &str) -> TestResult<usize> {
    for number in 1.. {
        let stage = Stage::new()?;
        let mut strace = Command::new("strace");
        let injection = format!("inject=?{call}:signal=SIGKILL:when={number}");
        strace.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace=?{call}"), "-e", &injection]);
        strace.arg(std::env::current_exe()?);
        let (status, told) = listen(stage.spawn(strace, FEW)?)?;
        stage.check(&told).map_err(|error| format!("killed at {call} {number}: {error}"))?;
        if status.success() {
            assert!(told.is_finished, "{told:?}");
            return Ok(number - 1);
        }
        assert_eq!(status.signal(), Some(SIGKILL), "killed at {call} {number}: {status}");
    }
    unreachable!("no child makes endless calls")
}

/// Returns why there can be no tracing here, if there can be none.
fn no_tracer() -> Option<String> {
    let tried = Command::new("strace").args(["-f", "-qqq", "-o", "/dev/null", "true"]).output();
    match tried {
        Err(error) => Some(format!("strace: {error}")),
        Ok(output) if !output.status.success() => {
            Some(format!("strace: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Ok(_) => None,
    }
}

#[tokio::test]
#[ignore = "a child of the tests that kill"]
async fn child_works_until_it_is_killed() -> TestResult {
    let stage = Stage::of_child()?;
    let rounds: usize = std::env::var(ROUNDS)?.parse()?;
    let (factory, store) = stage.open().await?;
    let keys = factory.keys(store.clone());
    for round in 0..rounds {
        let partition = format!("p{round}");
        let record = factory.session(&partition).await?.encrypt(partition.as_bytes()).await?;
        tell("record", &format!("{partition} {}", String::from_utf8(record.to_json())?))?;
        match round % 5 {
            1 => tell("rotated", &keys.rotate(&partition).await?.to_string())?,
            2 => {
                assert_eq!(keys.revoke(record.parent_key()).await?, Revocation::Revoked);
                tell("revoked", &record.parent_key().to_string())?;
            }
            3 => {
                let row = store.load(record.parent_key()).await?.ok_or("it was just made")?;
                tell("shredding", &format!("{partition} {}", row.to_json()))?;
                keys.shred(&partition).await?;
                tell("shredded", &partition)?;
            }
            _ => {}
        }
    }
    factory.close().await?;
    tell("finished", "")
}

/// Prints a line that says so; the test harness may have left one open.
fn tell(what: &str, of: &str) -> TestResult {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{what} {of}\n").as_bytes())?;
    Ok(out.flush()?)
}

/// What a child has told.
#[derive(Debug, Default)]
struct Told {
    lines: usize,
    records: Vec<(String, DataRowRecord)>,
    rotated: Vec<KeyMeta>,
    revoked: Vec<KeyMeta>,
    /// Of which partitions the keys are being destroyed, with the text of a row that was there; and of which they are.
    shredding: Vec<(String, String)>,
    shredded: Vec<String>,
    is_finished: bool,
}

impl Told {
    /// Takes note of a line, unless it was cut off.
    fn hear(&mut self, line: &str) -> TestResult {
        let Some((what, of)) = line.strip_suffix('\n').and_then(|line| line.split_once(' ')) else { return Ok(()) };
        match what {
            "record" => {
                let (partition, json) = of.split_once(' ').ok_or("a record has a partition")?;
                self.records.push((partition.to_owned(), DataRowRecord::from_json(json.as_bytes())?));
            }
            "rotated" => self.rotated.push(key(of)?),
            "revoked" => self.revoked.push(key(of)?),
            "shredding" => {
                let (partition, row) = of.split_once(' ').ok_or("a partition has a row")?;
                self.shredding.push((partition.to_owned(), row.to_owned()));
            }
            "shredded" => self.shredded.push(of.to_owned()),
            "finished" => self.is_finished = true,
            _ => return Ok(()),
        }
        self.lines += 1;
        Ok(())
    }
}

fn key(text: &str) -> TestResult<KeyMeta> {
    let (id, created) = text.split_once(" created ").ok_or("no key")?;
    Ok(KeyMeta { id: KeyId::new(id), created: created.parse()? })
}

fn listen(mut child: Child) -> TestResult<(ExitStatus, Told)> {
    let mut text = String::new();
    child.stdout.take().ok_or("no pipe")?.read_to_string(&mut text)?;
    let mut told = Told::default();
    text.split_inclusive('\n').try_for_each(|line| told.hear(line))?;
    Ok((child.wait()?, told))
}

/// A folder with a key table and a master key.
struct Stage {
    path: PathBuf,
    _folder: Option<TempDir>,
}

impl Stage {
    fn new() -> TestResult<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Self { path: folder.path().to_owned(), _folder: Some(folder) })
    }

    fn of_child() -> TestResult<Self> {
        let path = std::env::var_os(FOLDER).ok_or("started by hand; its parent tells it what to do")?;
        Ok(Self { path: path.into(), _folder: None })
    }

    /// Starts a child; `command` ends where its arguments go.
    fn spawn(&self, mut command: Command, rounds: usize) -> TestResult<Child> {
        command.args(["--ignored", "--nocapture", "--exact", "child_works_until_it_is_killed"]);
        command.env(FOLDER, &self.path).env(ROUNDS, rounds.to_string()).current_dir(&self.path);
        Ok(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
    }

    async fn open(&self) -> TestResult<(SessionFactory, SqliteMetastore)> {
        let store = SqliteMetastore::open(self.path.join("keys.db")).await?;
        let kms = LocalKms::open_or_create(self.path.join("master.key"))?;
        let builder = SessionFactory::builder("svc", "prod").metastore(store.clone()).kms(kms);
        Ok((builder.build().await?, store))
    }

    /// Checks that everything that was told is there, and that work goes on.
    fn check(&self, told: &Told) -> TestResult {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (factory, store) = self.open().await?;
            self.check_table(&store).await?;
            for key in &told.revoked {
                assert!(store.load(key).await?.is_some_and(|row| row.revoked), "{key} was revoked");
            }
            for key in &told.rotated {
                assert!(store.load(key).await?.is_some_and(|row| !row.revoked), "{key} was made");
            }
            for (partition, record) in &told.records {
                check_record(self, &factory, &store, told, partition, record).await?;
            }
            let session = factory.session("new").await?;
            assert_eq!(session.decrypt(&session.encrypt(b"tea").await?).await?, b"tea");
            Ok(factory.close().await?)
        })
    }

    /// Checks that the key of a row is in no file any more.
    fn check_erased(&self, row: &str) -> TestResult {
        let (_, rest) = row.split_once(r#""Key":""#).ok_or("a row has a key")?;
        let (key, _) = rest.split_once('"').ok_or("a text ends")?;
        assert!(key.len() > 50, "{key}");
        for file in std::fs::read_dir(&self.path)? {
            let file = file?.path();
            let bytes = std::fs::read(&file)?;
            assert!(!bytes.windows(key.len()).any(|window| window == key.as_bytes()), "in {}", file.display());
        }
        Ok(())
    }

    async fn check_table(&self, store: &SqliteMetastore) -> TestResult {
        let file = Connection::open(self.path.join("keys.db"))?;
        let verdict: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        assert_eq!(verdict, "ok");
        for row in store.list(None, usize::MAX).await? {
            let record = row.record?;
            // A key is stored after the one that wraps it.
            if let Some(parent) = record.parent_key.filter(|_| !record.encrypted_key.is_empty()) {
                assert!(store.load(&parent).await?.is_some(), "{} is without its {parent}", row.key);
            }
        }
        Ok(())
    }
}

async fn check_record(
    stage: &Stage,
    factory: &SessionFactory,
    store: &SqliteMetastore,
    told: &Told,
    partition: &String,
    record: &DataRowRecord,
) -> TestResult {
    let session = factory.session(partition).await?;
    let opened = session.decrypt(record).await;
    if let Some((_, row)) = told.shredding.iter().find(|(of, _)| of == partition) {
        let latest = store.load_latest(&record.parent_key().id).await?;
        if latest.is_some_and(|row| row.is_tombstone()) {
            assert!(matches!(opened, Err(Error::Shredded { .. } | Error::KeyNotFound { .. })), "{opened:?}");
        } else {
            assert!(!told.shredded.contains(partition), "{partition} is back");
            assert_eq!(opened?, partition.as_bytes(), "{partition} is half destroyed");
        }
        // Whoever is not told that it is done does it again.
        factory.keys(store.clone()).shred(partition).await?;
        let refused = session.encrypt(b"tea").await;
        assert!(matches!(refused, Err(Error::Shredded { .. })), "{refused:?}");
        return stage.check_erased(row);
    }
    assert_eq!(opened?, partition.as_bytes());
    let next = session.encrypt(partition.as_bytes()).await?;
    assert!(!told.revoked.contains(next.parent_key()), "{partition} encrypts under a revoked key");
    let rotated = told.rotated.iter().find(|key| key.id == next.parent_key().id);
    assert!(rotated.is_none_or(|key| next.parent_key().created >= key.created), "a rotation of {partition} is undone");
    assert_eq!(session.decrypt(&next).await?, partition.as_bytes());
    Ok(())
}
