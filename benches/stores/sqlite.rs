//! SQLite, and rusqlite by itself: on a thread that is asked over a channel, as asynchronous programs have to, and where the
//! caller is, who waits.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use async_trait::async_trait;
use keyward::TOMBSTONE_CREATED;
use keyward::stores::SqliteMetastore;
use rusqlite::{Connection, OptionalExtension, Params, params};
use tokio::sync::oneshot;

use crate::race::{Amounts, Call, Entry};
use crate::side::{BenchResult, Row, Rows, Side, expect_one};
use crate::table::Contest;

const EXACT: &str = "SELECT id, CASE WHEN datetime(created) = created THEN unixepoch(created) END, key_record \
    FROM encryption_key WHERE id = ?1 COLLATE BINARY AND created = datetime(?2, 'unixepoch')";
const LATEST: &str = "SELECT id, CASE WHEN datetime(created) = created THEN unixepoch(created) END, key_record \
    FROM encryption_key WHERE id = ?1 COLLATE BINARY ORDER BY created DESC LIMIT 1";
const INSERT: &str = "INSERT INTO encryption_key(id, created, key_record) VALUES (?1, datetime(?2, 'unixepoch'), ?3) \
    ON CONFLICT(id, created) DO NOTHING";
const INSERT_UNLESS: &str = "INSERT INTO encryption_key(id, created, key_record) \
    SELECT ?1, datetime(?2, 'unixepoch'), ?3 WHERE NOT EXISTS (SELECT 1 FROM encryption_key \
        WHERE id = ?1 COLLATE BINARY AND created = datetime(?4, 'unixepoch') \
        AND CASE WHEN json_valid(CAST(key_record AS TEXT)) THEN \
            json_extract(CAST(key_record AS TEXT), '$.Key') = '' \
            AND json_type(CAST(key_record AS TEXT), '$.Revoked') = 'true' END) \
    ON CONFLICT(id, created) DO NOTHING";
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(PASSIVE)";

pub(crate) async fn measure() -> BenchResult {
    let folder = tempfile::tempdir()?;
    let rows = Rows::new();
    // A file for each: what one leaves in the log of a file, the next one would have to move.
    let files = ["ours", "thread", "thread-bare", "here", "here-bare"].map(|name| folder.path().join(name));
    for file in &files {
        rows.put(&SqliteMetastore::open(file).await?).await?;
    }
    let [ours, thread, thread_bare, here, here_bare] = &files;
    let ours: Arc<dyn Side> = Arc::new(SqliteMetastore::open(ours).await?);
    let on_thread = |file: &Path, inserts| BenchResult::Ok(Arc::new(OnThread::open(file, inserts)?) as Arc<dyn Side>);
    let in_place = |file: &Path, inserts| BenchResult::Ok(Arc::new(Here::open(file, inserts)?) as Arc<dyn Side>);
    let (thread, here) = (on_thread(thread, Inserts::AsOurs)?, in_place(here, Inserts::AsOurs)?);
    let (thread_bare, here_bare) = (on_thread(thread_bare, Inserts::Bare)?, in_place(here_bare, Inserts::Bare)?);
    let contest = Contest {
        title: "SQLite, synced, one connection",
        stores: vec![
            Entry::new("rusqlite on a thread, the same INSERT, checkpoint", &thread, Call::Store),
            Entry::new("rusqlite on a thread, plain INSERT", &thread_bare, Call::Store),
            Entry::new("rusqlite in place, the same INSERT, checkpoint", &here, Call::Store),
            Entry::new("rusqlite in place, plain INSERT", &here_bare, Call::Store),
        ],
        loads: vec![("rusqlite on a thread", thread), ("rusqlite in place, blocking", here)],
        ours,
        load_amounts: Amounts { rounds: 100, batch: 50, each: 20 },
        store_amounts: Amounts { rounds: 60, batch: 20, each: 2 },
    };
    contest.run(&rows).await
}

/// How rows are inserted.
#[derive(Debug, Clone, Copy)]
enum Inserts {
    /// By one statement that looks for a tombstone too; then the log is moved to the file.
    AsOurs,
    /// By a plain statement.
    Bare,
}

fn open(file: &Path) -> BenchResult<Connection> {
    let connection = Connection::open(file)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA secure_delete = ON")?;
    Ok(connection)
}

fn find(connection: &Connection, sql: &str, params: impl Params) -> BenchResult {
    let mut statement = connection.prepare_cached(sql)?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, String>(2)?))
    };
    expect_one(statement.query_row(params, read).optional()?.is_some())
}

fn insert(connection: &Connection, inserts: Inserts, id: &str, created: i64, text: &str) -> BenchResult {
    match inserts {
        Inserts::Bare => expect_one(connection.prepare_cached(INSERT)?.execute(params![id, created, text])? == 1),
        Inserts::AsOurs => {
            let row = params![id, created, text, TOMBSTONE_CREATED];
            expect_one(connection.prepare_cached(INSERT_UNLESS)?.execute(row)? == 1)?;
            Ok(connection.execute_batch(CHECKPOINT)?)
        }
    }
}

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// A thread that has the connection.
struct OnThread {
    jobs: mpsc::Sender<Job>,
    inserts: Inserts,
}

impl OnThread {
    fn open(file: &Path, inserts: Inserts) -> BenchResult<Self> {
        let (connection, (jobs, queue)) = (open(file)?, mpsc::channel::<Job>());
        thread::spawn(move || queue.into_iter().for_each(|job| job(&connection)));
        Ok(Self { jobs, inserts })
    }

    async fn run(&self, work: impl FnOnce(&Connection) -> BenchResult + Send + 'static) -> BenchResult {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _ = reply.send(work(connection));
        });
        self.jobs.send(job).map_err(|_| "the thread ended")?;
        answer.await?
    }
}

#[async_trait]
impl Side for OnThread {
    async fn load(&self, _: usize, row: &Row) -> BenchResult {
        let key = row.key.clone();
        self.run(move |connection| find(connection, EXACT, params![key.id.as_str(), key.created])).await
    }

    async fn load_latest(&self, _: usize, row: &Row) -> BenchResult {
        let id = row.key.id.clone();
        self.run(move |connection| find(connection, LATEST, params![id.as_str()])).await
    }

    async fn store(&self, _: usize, row: &Row) -> BenchResult {
        let (key, text, inserts) = (row.key.clone(), row.text.clone(), self.inserts);
        self.run(move |connection| insert(connection, inserts, key.id.as_str(), key.created, &text)).await
    }
}

/// A connection that the caller uses, and waits.
struct Here {
    connection: Mutex<Connection>,
    inserts: Inserts,
}

impl Here {
    fn open(file: &Path, inserts: Inserts) -> BenchResult<Self> {
        Ok(Self { connection: Mutex::new(open(file)?), inserts })
    }

    fn with(&self, work: impl FnOnce(&Connection) -> BenchResult) -> BenchResult {
        work(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Side for Here {
    async fn load(&self, _: usize, row: &Row) -> BenchResult {
        self.with(|connection| find(connection, EXACT, params![row.key.id.as_str(), row.key.created]))
    }

    async fn load_latest(&self, _: usize, row: &Row) -> BenchResult {
        self.with(|connection| find(connection, LATEST, params![row.key.id.as_str()]))
    }

    async fn store(&self, _: usize, row: &Row) -> BenchResult {
        self.with(|connection| insert(connection, self.inserts, row.key.id.as_str(), row.key.created, &row.text))
    }
}
