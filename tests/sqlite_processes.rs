//! The SQLite store among processes: several on one file, one without rights, one without space.
//!
//! Children are this test binary again, running the one ignored test that is named for them.
#![cfg(all(unix, feature = "sqlite"))]

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use keyward::stores::{Metastore, SqliteMetastore, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};
use rusqlite::Connection;
use tempfile::TempDir;

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

/// Held while a binary is written or a child started: a child born in the middle of writing keeps the file open, and
/// what is open for writing cannot be executed.
static STARTING: Mutex<()> = Mutex::new(());

/// Tells a child which file to open.
const FILE: &str = "KEYWARD_TEST_SQLITE_FILE";

#[test]
fn processes_that_start_together_share_one_file_and_each_key_has_one_creator() -> TestResult {
    let stage = Stage::new()?;
    let children = (0..6)
        .map(|_| spawn(Command::new(std::env::current_exe()?), "child_creates_keys", &stage.file))
        .collect::<TestResult<Vec<_>>>()?;
    let mut created = Vec::new();
    for mut child in children {
        child.stdin.take(); // the end of its input starts the child
        created.extend(report(child, "created ")?);
    }
    created.sort();
    assert_eq!(created, (10..60).map(|id| id.to_string()).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
#[ignore = "a child of processes_that_start_together_share_one_file_and_each_key_has_one_creator"]
async fn child_creates_keys() -> TestResult {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let store = SqliteMetastore::open(file()?).await?;
    for id in 10..60 {
        if store.store(&KeyId::new(&id.to_string()), &record(5, 3)).await? == StoreOutcome::Stored {
            println!("created {id}");
        }
    }
    Ok(())
}

#[test]
fn a_file_that_may_not_be_written_serves_loads() -> TestResult {
    serves_loads_without_rights(0o444, 0o777, "wal")
}

#[test]
fn a_folder_that_may_not_be_written_serves_loads() -> TestResult {
    serves_loads_without_rights(0o666, 0o555, "wal")
}

#[test]
fn a_file_and_folder_that_may_not_be_written_serve_loads() -> TestResult {
    serves_loads_without_rights(0o444, 0o555, "wal")
}

#[test]
fn a_file_with_a_rollback_journal_that_may_not_be_written_serves_loads() -> TestResult {
    serves_loads_without_rights(0o444, 0o555, "delete")?;
    serves_loads_without_rights(0o666, 0o555, "delete")
}

fn serves_loads_without_rights(file_mode: u32, folder_mode: u32, journal: &str) -> TestResult {
    let stage = Stage::with_rows(journal)?;
    let Some(command) = stage.without_rights(file_mode, folder_mode)? else { return Ok(()) };
    assert_eq!(report(spawn(command, "child_loads_only", &stage.file)?, "refused ")?, ["true"]);
    Ok(())
}

#[tokio::test]
#[ignore = "a child of the tests of files that may not be written"]
async fn child_loads_only() -> TestResult {
    let store = SqliteMetastore::open(file()?).await?;
    for _ in 0..2 {
        assert_eq!(store.load(&KeyMeta { id: KeyId::new("alice"), created: 5 }).await?, Some(record(5, 3)));
        assert_eq!(store.load_latest(&KeyId::new("alice")).await?, Some(record(5, 3)));
        assert_eq!(store.load_latest(&KeyId::new("bob")).await?, None);
        let error = store.store(&KeyId::new("alice"), &record(6, 3)).await.expect_err("not writable");
        assert!(matches!(error, StoreError::Permanent { advice: Some(_), .. }), "{error:?}");
    }
    println!("refused true");
    Ok(())
}

#[test]
fn rows_that_others_add_are_seen_without_rights() -> TestResult {
    let stage = Stage::with_rows("wal")?;
    let Some(command) = stage.without_rights(0o444, 0o555)? else { return Ok(()) };
    let mut child = spawn(command, "child_waits_for_a_row", &stage.file)?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no pipe")?).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("open"))));
    chmod(stage.folder.path(), 0o755)?;
    chmod(&stage.file, 0o644)?;
    Connection::open(&stage.file)?.execute_batch(
        r#"INSERT INTO encryption_key VALUES ('bob', '1970-01-01 00:00:05', '{"Created":5,"Key":"BwcH"}')"#,
    )?;
    child.stdin.take(); // the end of its input tells the child to look
    assert!(child.wait()?.success());
    Ok(())
}

#[tokio::test]
#[ignore = "a child of rows_that_others_add_are_seen_without_rights"]
async fn child_waits_for_a_row() -> TestResult {
    let store = SqliteMetastore::open(file()?).await?;
    assert_eq!(store.load_latest(&KeyId::new("bob")).await?, None);
    println!("open");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    assert_eq!(store.load_latest(&KeyId::new("bob")).await?, Some(record(5, 3)));
    Ok(())
}

#[test]
fn a_missing_table_that_may_not_be_created_is_refused() -> TestResult {
    let stage = Stage::new()?;
    Connection::open(&stage.file)?.execute_batch("CREATE TABLE other(x)")?;
    let Some(command) = stage.without_rights(0o444, 0o555)? else { return Ok(()) };
    assert_eq!(report(spawn(command, "child_cannot_open", &stage.file)?, "refused ")?, ["true"]);
    Ok(())
}

#[test]
fn a_new_file_in_a_folder_that_may_not_be_written_is_refused() -> TestResult {
    let stage = Stage::new()?;
    let Some(command) = stage.without_rights(0o444, 0o555)? else { return Ok(()) };
    assert_eq!(report(spawn(command, "child_cannot_open", &stage.file)?, "refused ")?, ["true"]);
    assert!(!stage.file.exists());
    Ok(())
}

#[tokio::test]
#[ignore = "a child of the tests of what may not be created"]
async fn child_cannot_open() -> TestResult {
    let error = SqliteMetastore::open(file()?).await.expect_err("not writable");
    assert!(matches!(error, StoreError::Permanent { advice: Some(_), .. }), "{error:?}");
    println!("refused true");
    Ok(())
}

#[test]
fn a_full_disk_refuses_new_rows_and_keeps_the_old_ones() -> TestResult {
    let stage = Stage::with_rows("wal")?;
    // A limit on the size of files stands in for a full disk; SQLite cannot tell why a write was cut short.
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\""]).arg(std::env::current_exe()?);
    let stored = report(spawn(limited, "child_fills_the_disk", &stage.file)?, "stored ")?;
    assert!(stored.len() > 3, "{stored:?}");
    let rows: i64 = Connection::open(&stage.file)?.query_row(
        "SELECT count(*) FROM encryption_key WHERE id = 'bob'",
        [],
        |row| row.get(0),
    )?;
    assert_eq!(usize::try_from(rows)?, stored.len());
    Ok(())
}

#[tokio::test]
#[ignore = "a child of a_full_disk_refuses_new_rows_and_keeps_the_old_ones"]
async fn child_fills_the_disk() -> TestResult {
    let store = SqliteMetastore::open(file()?).await?;
    let id = KeyId::new("bob");
    let mut created = 0;
    let error = loop {
        match store.store(&id, &record(created, 16 * 1024)).await {
            Ok(outcome) => assert_eq!(outcome, StoreOutcome::Stored),
            Err(error) => break error,
        }
        println!("stored {created}");
        created += 1;
    };
    assert!(matches!(error, StoreError::Permanent { advice: Some(_), .. }), "{error:?}");
    for created in 0..created {
        let key = KeyMeta { id: id.clone(), created };
        assert_eq!(store.load(&key).await?, Some(record(created, 16 * 1024)));
    }
    assert_eq!(store.load(&KeyMeta { id, created }).await?, None);
    Ok(())
}

struct Stage {
    folder: TempDir,
    file: PathBuf,
}

impl Stage {
    fn new() -> TestResult<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("keys.db");
        Ok(Self { folder, file })
    }

    /// A database with one row, written and closed by a peer.
    fn with_rows(journal: &str) -> TestResult<Self> {
        let stage = Self::new()?;
        let peer = Connection::open(&stage.file)?;
        peer.pragma_update(None, "journal_mode", journal)?;
        peer.execute_batch(
            r#"CREATE TABLE encryption_key(id TEXT, created TIMESTAMP, key_record TEXT, PRIMARY KEY(id, created));
               INSERT INTO encryption_key VALUES ('alice', '1970-01-01 00:00:05', '{"Created":5,"Key":"BwcH"}');"#,
        )?;
        Ok(stage)
    }

    /// Sets the modes of file and folder and returns a command that is bound by them: root is not, so it steps down.
    fn without_rights(&self, file: u32, folder: u32) -> TestResult<Option<Command>> {
        // Where the test binary lies may be closed to others, so they get a copy.
        let binary = self.folder.path().join("test");
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        fs::copy(std::env::current_exe()?, &binary)?;
        chmod(&binary, 0o755)?;
        if self.file.exists() {
            chmod(&self.file, file)?;
        }
        let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        let command = if is_root {
            if Command::new("setpriv").arg("--version").output().is_err() {
                eprintln!("SKIP: this test runs as root and needs setpriv (util-linux) to drop its rights");
                return Ok(None);
            }
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(binary);
            command
        } else {
            Command::new(binary)
        };
        chmod(self.folder.path(), folder)?;
        Ok(Some(command))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = chmod(self.folder.path(), 0o700); // or the folder could not be removed
    }
}

fn chmod(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Starts the test `child` of this binary; `command` ends where its arguments go.
fn spawn(mut command: Command, child: impl AsRef<OsStr>, file: &Path) -> TestResult<Child> {
    command.args(["--ignored", "--nocapture", "--exact"]).arg(child).env(FILE, file).current_dir("/");
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
}

/// Waits for a child and returns the ends of its lines that contain `label`.
fn report(child: Child, label: &str) -> TestResult<Vec<String>> {
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{text}");
    Ok(text.lines().filter_map(|line| Some(line.split_once(label)?.1.to_owned())).collect())
}

fn file() -> TestResult<PathBuf> {
    Ok(std::env::var_os(FILE).ok_or("started by hand; its parent tells it what to do")?.into())
}

fn record(created: i64, size: usize) -> EnvelopeKeyRecord {
    EnvelopeKeyRecord { created, encrypted_key: vec![7; size], parent_key: None, revoked: false }
}
