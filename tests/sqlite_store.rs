//! What the SQLite store promises beyond the contract of all stores: its layout, its file, and the failures of both.
#![cfg(feature = "sqlite")]

use std::error::Error;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use base64::Engine;
use keyward::stores::{KeyAdmin, Metastore, Revocation, SqliteMetastore, SqliteOptions, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};
use rusqlite::Connection;
use tempfile::TempDir;

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

/// The table as other implementations create it.
const PEERS_TABLE: &str =
    "CREATE TABLE encryption_key(id TEXT, created TIMESTAMP, key_record TEXT, PRIMARY KEY(id, created))";

#[tokio::test]
async fn the_layout_on_disk_is_the_peers() -> TestResult {
    let stage = Stage::new()?;
    let store = SqliteMetastore::open(&stage.file).await?;
    put(&store, "alice", &record(1_700_000_000)).await?;
    let table: String =
        stage.sql()?.query_row("SELECT sql FROM sqlite_schema WHERE type = 'table'", [], |r| r.get(0))?;
    assert_eq!(
        table,
        "CREATE TABLE encryption_key(id TEXT NOT NULL, created TIMESTAMP NOT NULL, key_record TEXT NOT NULL, \
         PRIMARY KEY(id, created))"
    );
    let row: (String, String, String) =
        stage.sql()?.query_row("SELECT id, created, key_record FROM encryption_key", [], |r| r.try_into())?;
    let expected = ("alice", "2023-11-14 22:13:20", r#"{"Created":1700000000,"Key":"AAEC"}"#);
    assert_eq!((&*row.0, &*row.1, &*row.2), expected);
    Ok(())
}

#[tokio::test]
async fn a_row_written_by_a_peer_is_found() -> TestResult {
    let stage = Stage::new()?;
    stage.sql()?.execute_batch(PEERS_TABLE)?;
    stage.write("alice", "'2023-11-14 22:13:20'", r#"'{"Created":1700000000,"Key":"AAEC"}'"#)?;
    let store = SqliteMetastore::open(&stage.file).await?;
    assert_eq!(store.load(&key("alice", 1_700_000_000)).await?, Some(record(1_700_000_000)));
    assert_eq!(store.load_latest(&KeyId::new("alice")).await?, Some(record(1_700_000_000)));
    assert_eq!(store.store(&KeyId::new("alice"), &record(1_700_000_000)).await?, StoreOutcome::Duplicate);
    Ok(())
}

#[tokio::test]
async fn creation_times_in_another_layout_are_corrupt_and_hide_no_other_row() -> TestResult {
    let stage = Stage::new()?;
    let store = SqliteMetastore::open(&stage.file).await?;
    let odd = ["'2023-11-14T22:13:20'", "'2023-11-14 22:13:20.5'", "1700000000", "2460000", "'soon'", "x'00ff'"];
    for created in odd {
        stage.write(created, created, r#"'{"Created":1700000000,"Key":"AAEC"}'"#)?;
        let error = store.load_latest(&KeyId::new(created)).await.expect_err(created);
        assert!(matches!(error, StoreError::Corrupt { created: None, .. }), "{created}: {error}");
        assert_eq!(store.load(&key(created, 1_700_000_000)).await?, None, "{created}");
        put(&store, created, &record(1_700_000_000)).await?;
        assert!(store.load(&key(created, 1_700_000_000)).await?.is_some(), "{created}");
    }
    assert_eq!(store.list(None, 100).await?.len(), odd.len());
    Ok(())
}

#[tokio::test]
async fn a_record_may_be_a_blob_of_text_and_nothing_else() -> TestResult {
    let stage = Stage::new()?;
    stage.sql()?.execute_batch("CREATE TABLE encryption_key(id, created, key_record, PRIMARY KEY(id, created))")?;
    let store = SqliteMetastore::open(&stage.file).await?;
    stage.write("blob", "'1970-01-01 00:00:05'", r#"CAST('{"Created":5,"Key":"AAEC"}' AS BLOB)"#)?;
    assert_eq!(store.load(&key("blob", 5)).await?, Some(record(5)));
    for other in ["5", "1.5", "NULL", "x'ff'"] {
        stage.write(other, "'1970-01-01 00:00:05'", other)?;
        let error = store.load(&key(other, 5)).await.expect_err(other);
        assert!(matches!(error, StoreError::Corrupt { created: Some(5), .. }), "{other}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn ids_that_are_no_text_do_not_end_a_listing() -> TestResult {
    let stage = Stage::new()?;
    let store = SqliteMetastore::open(&stage.file).await?;
    for id in ["x'ff'", "CAST(x'ff' AS TEXT)", "'text'"] {
        stage.sql()?.execute(&format!("INSERT INTO encryption_key VALUES ({id}, '1970-01-01 00:00:05', '')"), [])?;
    }
    let rows = store.list(None, 1).await?;
    assert_eq!(rows.iter().map(|row| row.key.id.as_str()).collect::<Vec<_>>(), ["text"]);
    assert!(store.list(Some(&key("text", 5)), 1).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_table_that_ignores_case_refuses_what_it_would_confuse() -> TestResult {
    let stage = Stage::new()?;
    stage.sql()?.execute_batch(&PEERS_TABLE.replace("id TEXT", "id TEXT COLLATE NOCASE"))?;
    let store = SqliteMetastore::open(&stage.file).await?;
    put(&store, "alice", &record(5)).await?;
    assert_eq!(store.load(&key("Alice", 5)).await?, None);
    assert_eq!(store.load_latest(&KeyId::new("Alice")).await?, None);
    let error = store.store(&KeyId::new("Alice"), &record(5)).await.expect_err("collides with alice");
    assert!(matches!(error, StoreError::Permanent { advice: Some(_), .. }), "{error}");
    put(&store, "Alice", &record(6)).await?;
    let listed: Vec<_> = store.list(None, 9).await?.iter().map(|row| row.key.to_string()).collect();
    assert_eq!(listed, ["Alice created 6", "alice created 5"]);
    Ok(())
}

#[tokio::test]
async fn a_table_without_the_primary_key_is_refused_on_the_first_insert() -> TestResult {
    let stage = Stage::new()?;
    stage.sql()?.execute_batch("CREATE TABLE encryption_key(id TEXT, created TIMESTAMP, key_record TEXT)")?;
    let store = SqliteMetastore::open(&stage.file).await?;
    let error = store.store(&KeyId::new("alice"), &record(5)).await.expect_err("nothing keeps rows unique");
    assert!(matches!(error, StoreError::Permanent { advice: Some(_), .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn times_that_the_layout_cannot_hold_are_refused() -> TestResult {
    let stage = Stage::new()?;
    let store = SqliteMetastore::open(&stage.file).await?;
    for created in [i64::MIN, -62_135_596_801, 253_402_300_800, i64::MAX] {
        let error = store.store(&KeyId::new("alice"), &record(created)).await.expect_err("outside the years 1 to 9999");
        assert!(matches!(error, StoreError::Permanent { advice: Some(_), .. }), "{error}");
    }
    assert!(store.list(None, 9).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn commits_are_logged_ahead_and_shared_between_connections() -> TestResult {
    let stage = Stage::new()?;
    let store = SqliteMetastore::open(&stage.file).await?;
    let mode: String = stage.sql()?.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    assert_eq!(mode, "wal");
    let other = SqliteMetastore::open(&stage.file).await?;
    put(&store, "alice", &record(5)).await?;
    assert_eq!(other.load(&key("alice", 5)).await?, Some(record(5)));
    Ok(())
}

#[tokio::test]
async fn paths_with_a_meaning_to_sqlite_are_plain_files() -> TestResult {
    let stage = Stage::new()?;
    for name in ["file:keys.db?mode=memory", ":memory:", "100% #1?.db"] {
        let file = stage.folder.path().join(name);
        put(&SqliteMetastore::open(&file).await?, "alice", &record(5)).await?;
        assert!(file.is_file(), "{name}");
    }
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_file_is_for_its_owner_alone_and_an_old_one_keeps_its_mode() -> TestResult {
    let stage = Stage::new()?;
    let store = SqliteMetastore::open(&stage.file).await?;
    put(&store, "alice", &record(5)).await?;
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(&stage.folder.path().join(format!("keys.db{suffix}")))?, 0o600, "{suffix}");
    }
    let old = stage.folder.path().join("old.db");
    fs::write(&old, "")?;
    chmod(&old, 0o640)?;
    SqliteMetastore::open(&old).await?;
    assert_eq!(mode(&old)?, 0o640);
    Ok(())
}

#[tokio::test]
async fn a_revoked_row_keeps_fields_that_nobody_here_knows() -> TestResult {
    let stage = Stage::new()?;
    let store = SqliteMetastore::open(&stage.file).await?;
    let unknown = r#"'{"New":[{"x":1.50}],"Revoked":"no","Revoked":0,"Created":5,"Key":"AAEC","Big":1e999}'"#;
    stage.write("alice", "'1970-01-01 00:00:05'", unknown)?;
    stage.write("bob", "'1970-01-01 00:00:05'", r#"CAST('{"Created":5,"Key":"AAEC"}' AS BLOB)"#)?;
    for id in ["alice", "bob"] {
        assert_eq!(store.revoke(&key(id, 5)).await?, Revocation::Revoked);
        assert_eq!(store.load(&key(id, 5)).await?, Some(EnvelopeKeyRecord { revoked: true, ..record(5) }));
    }
    let text: String =
        stage.sql()?.query_row("SELECT key_record FROM encryption_key WHERE id = 'alice'", [], |row| row.get(0))?;
    assert_eq!(text, r#"{"New":[{"x":1.50}],"Created":5,"Key":"AAEC","Big":1e999,"Revoked":true}"#);
    Ok(())
}

#[tokio::test]
async fn shredding_removes_rows_that_no_look_up_finds() -> TestResult {
    let stage = Stage::new()?;
    stage.sql()?.execute_batch(PEERS_TABLE)?;
    let store = SqliteMetastore::open(&stage.file).await?;
    for created in ["'2023-11-14T22:13:20'", "'soon'", "NULL", "x'00ff'", "'1970-01-01 00:00:05'"] {
        stage.write("alice", created, r#"'{"Created":5,"Key":"AAEC"}'"#)?;
    }
    let tombstone = EnvelopeKeyRecord::tombstone(None);
    assert_eq!(store.shred(&KeyId::new("alice"), &tombstone).await?, [key("alice", 5)]);
    let left: (i64, String) =
        stage.sql()?.query_row("SELECT count(*), min(created) FROM encryption_key", [], |row| row.try_into())?;
    assert_eq!(left, (1, "2038-01-18 00:00:00".to_owned()));
    Ok(())
}

#[tokio::test]
async fn the_bytes_of_a_shredded_key_leave_the_file_and_its_log() -> TestResult {
    let stage = Stage::new()?;
    let store = SqliteMetastore::open(&stage.file).await?;
    // Enough rows, in an order of their own, that pages are split and rows move from one to another.
    let wrapped = |tenant: u32, version: u32| {
        [u8::try_from(tenant % 256)?, u8::try_from(version)?].repeat(30).into_iter().map(Ok).collect::<TestResult<_>>()
    };
    for version in 0..3 {
        for tenant in (0..120).map(|step| step * 47 % 120) {
            let key: Vec<u8> = wrapped(tenant, version)?;
            put(&store, &tenant.to_string(), &EnvelopeKeyRecord { encrypted_key: key, ..record(version.into()) })
                .await?;
        }
    }
    // What SQLite does of itself when others write, without zeroing.
    stage.sql()?.execute_batch(
        "PRAGMA secure_delete = OFF; UPDATE encryption_key SET key_record = replace(key_record, '}', ',\"New\":1}')",
    )?;
    let text =
        |tenant, version| TestResult::Ok(base64::engine::general_purpose::STANDARD.encode(wrapped(tenant, version)?));
    for tenant in (0..120).step_by(7) {
        assert!(stage.holds(&text(tenant, 1)?)?, "the test finds what is there");
        assert_eq!(store.revoke(&key(&tenant.to_string(), 1)).await?, Revocation::Revoked);
        let destroyed = store.shred(&KeyId::new(&tenant.to_string()), &EnvelopeKeyRecord::tombstone(None)).await?;
        assert_eq!(destroyed.len(), 3);
        for version in 0..3 {
            assert!(!stage.holds(&text(tenant, version)?)?, "{tenant} {version} is still in the file");
        }
    }
    assert!(stage.holds(&text(1, 1)?)?);
    Ok(())
}

#[tokio::test]
async fn a_shredding_that_could_not_erase_says_so_and_can_be_repeated() -> TestResult {
    let stage = Stage::new()?;
    let store = SqliteMetastore::open_with(&stage.file, impatient()).await?;
    put(&store, "alice", &record(5)).await?;
    let reader = stage.sql()?;
    reader.execute_batch("BEGIN; SELECT count(*) FROM encryption_key")?;
    let (alice, tombstone) = (KeyId::new("alice"), EnvelopeKeyRecord::tombstone(None));
    let error = store.shred(&alice, &tombstone).await.expect_err("somebody reads the log");
    assert!(matches!(error, StoreError::Transient { advice: Some(_), .. }), "{error}");
    reader.execute_batch("ROLLBACK")?;
    assert_eq!(store.shred(&alice, &tombstone).await?, [], "the row was gone already");
    assert!(!stage.holds("AAEC")?);
    Ok(())
}

#[tokio::test]
async fn a_locked_database_is_transient() -> TestResult {
    let stage = Stage::new()?;
    let store = SqliteMetastore::open_with(&stage.file, impatient()).await?;
    put(&store, "alice", &record(5)).await?;
    let other = stage.sql()?;
    other.execute_batch("BEGIN EXCLUSIVE")?;
    let error = store.store(&KeyId::new("alice"), &record(6)).await.expect_err("locked");
    assert!(matches!(error, StoreError::Transient { advice: Some(_), .. }), "{error}");
    assert_eq!(store.load(&key("alice", 5)).await?, Some(record(5)), "readers go on");
    other.execute_batch("ROLLBACK")?;
    put(&store, "alice", &record(6)).await
}

#[tokio::test]
async fn a_database_locked_at_opening_is_transient() -> TestResult {
    let stage = Stage::new()?;
    let other = stage.sql()?;
    other.execute_batch("BEGIN EXCLUSIVE")?;
    let error = SqliteMetastore::open_with(&stage.file, impatient()).await.expect_err("locked");
    assert!(matches!(error, StoreError::Transient { advice: Some(_), .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_by_name() -> TestResult {
    let stage = Stage::new()?;
    fs::write(&stage.file, "not a database\n".repeat(100))?;
    let error = SqliteMetastore::open(&stage.file).await.expect_err("garbage");
    assert!(matches!(error, StoreError::Permanent { advice: Some(_), .. }), "{error}");
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains(&*stage.file.to_string_lossy()), "{cause}");
    Ok(())
}

#[tokio::test]
async fn a_missing_folder_is_refused_and_not_created() -> TestResult {
    let stage = Stage::new()?;
    let folder = stage.folder.path().join("none");
    let error = SqliteMetastore::open(folder.join("keys.db")).await.expect_err("no folder");
    assert!(matches!(error, StoreError::Permanent { advice: Some("create its folder first"), .. }), "{error}");
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn a_folder_is_no_database() -> TestResult {
    let stage = Stage::new()?;
    for path in [stage.folder.path(), Path::new("")] {
        let error = SqliteMetastore::open(path).await.expect_err("a folder");
        assert!(matches!(error, StoreError::Permanent { .. }), "{error}");
    }
    Ok(())
}

#[test]
fn any_executor_will_do() -> TestResult {
    let stage = Stage::new()?;
    block_on(async {
        let store = SqliteMetastore::open(&stage.file).await?;
        put(&store, "alice", &record(5)).await?;
        assert_eq!(store.load_latest(&KeyId::new("alice")).await?, Some(record(5)));
        Ok(())
    })
}

#[test]
fn the_last_handle_closes_the_database() -> TestResult {
    let stage = Stage::new()?;
    let log = stage.folder.path().join("keys.db-wal");
    let store = block_on(SqliteMetastore::open(&stage.file))?;
    let clone = store.clone();
    drop(store);
    block_on(put(&clone, "alice", &record(5)))?;
    assert!(log.exists());
    drop(clone);
    while log.exists() {
        thread::yield_now(); // the thread tidies up by itself
    }
    Ok(())
}

/// Set of file, store and helpers of one test.
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

    /// Opens the file behind the store's back.
    fn sql(&self) -> rusqlite::Result<Connection> {
        Connection::open(&self.file)
    }

    /// Tells whether the file, or one beside it, holds a text.
    fn holds(&self, text: &str) -> TestResult<bool> {
        for entry in fs::read_dir(self.folder.path())? {
            let bytes = fs::read(entry?.path())?;
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes a row; `created` and `key_record` are SQL.
    fn write(&self, id: &str, created: &str, key_record: &str) -> rusqlite::Result<usize> {
        self.sql()?.execute(&format!("INSERT INTO encryption_key VALUES (?1, {created}, {key_record})"), [id])
    }
}

fn key(id: &str, created: i64) -> KeyMeta {
    KeyMeta { id: KeyId::new(id), created }
}

fn record(created: i64) -> EnvelopeKeyRecord {
    EnvelopeKeyRecord { created, encrypted_key: vec![0, 1, 2], parent_key: None, revoked: false }
}

async fn put(store: &SqliteMetastore, id: &str, record: &EnvelopeKeyRecord) -> TestResult {
    assert_eq!(store.store(&KeyId::new(id), record).await?, StoreOutcome::Stored);
    Ok(())
}

fn impatient() -> SqliteOptions {
    SqliteOptions { busy_timeout: Duration::from_millis(1) }
}

#[cfg(unix)]
fn mode(path: &Path) -> std::io::Result<u32> {
    Ok(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path)?.permissions()) & 0o777)
}

#[cfg(unix)]
fn chmod(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// The smallest executor: parks the thread until the future asks to be polled.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
