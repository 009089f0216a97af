//! MariaDB, and mysql_async by itself.

use std::sync::Arc;

use async_trait::async_trait;
use keyward::stores::{MysqlMetastore, MysqlOptions, SchemaAdmin};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use tokio::sync::Mutex;

use crate::race::{Amounts, Call, Entry};
use crate::servers::{MariaDb, MariaDbSetup};
use crate::side::{BenchResult, Row, Rows, Side, TASKS, expect_one};
use crate::table::Contest;

const EXACT: &str = "SELECT id, DATE_FORMAT(created, '%Y-%m-%d %H:%i:%s'), key_record FROM encryption_key \
    WHERE id = ? AND CAST(CONVERT(id USING utf8mb4) AS BINARY) = CAST(? AS BINARY) AND created = ?";
const LATEST: &str = "SELECT id, DATE_FORMAT(created, '%Y-%m-%d %H:%i:%s'), key_record FROM encryption_key \
    WHERE id = ? AND CAST(CONVERT(id USING utf8mb4) AS BINARY) = CAST(? AS BINARY) ORDER BY created DESC LIMIT 1";
const INSERT: &str = "INSERT INTO encryption_key (id, created, key_record) VALUES (?, ?, ?)";

/// The creation times of rows and of tombstones, in digits of UTC.
const CREATED: &str = "2023-11-14 22:13:20";
const TOMBSTONE: &str = "2038-01-18 00:00:00";

pub(crate) async fn measure() -> BenchResult {
    // Unlike the servers of tests, this one is to be synced.
    let setup = MariaDbSetup { arguments: vec!["--innodb-flush-log-at-trx-commit=1".to_owned()], ..Default::default() };
    let Some(server) = MariaDb::start(&setup)? else { return Ok(()) };
    let url = server.url(&server.database("")?);
    let _ = MysqlMetastore::connect_for_schema(url.parse()?).await?.apply().await?;
    let mut options: MysqlOptions = url.parse()?;
    options.server.pool.size = TASKS;
    let ours: Arc<dyn Side> = Arc::new(MysqlMetastore::connect(options).await?);
    let driver: Arc<dyn Side> = Arc::new(Driver::connect(&url).await?);
    let rows = Rows::new();
    rows.put(&*ours).await?;
    let contest = Contest {
        title: "MariaDB, synced, a connection for each task",
        stores: vec![
            Entry::new("mysql_async, INSERT and SELECT of a tombstone", &driver, Call::StoreAndFollowUp),
            Entry::new("mysql_async, INSERT", &driver, Call::Store),
        ],
        loads: vec![("mysql_async", driver)],
        ours,
        load_amounts: Amounts { rounds: 100, batch: 30, each: 20 },
        store_amounts: Amounts { rounds: 100, batch: 20, each: 5 },
    };
    contest.run(&rows).await
}

/// A connection for each task, which keeps the statements that it has prepared.
struct Driver(Vec<Mutex<Conn>>);

impl Driver {
    async fn connect(url: &str) -> BenchResult<Self> {
        let mut connections = Vec::new();
        // Over TCP, as ours: the driver would go over to the socket that the server names.
        let url = format!("{url}?prefer_socket=false");
        for _ in 0..TASKS {
            connections.push(Mutex::new(Conn::new(Opts::from_url(&url)?).await?));
        }
        Ok(Self(connections))
    }
}

#[async_trait]
impl Side for Driver {
    async fn load(&self, task: usize, row: &Row) -> BenchResult {
        let (mut conn, id) = (self.0[task].lock().await, row.key.id.as_str());
        let found: Option<(String, String, String)> = conn.exec_first(EXACT, (id, id, CREATED)).await?;
        expect_one(found.is_some())
    }

    async fn load_latest(&self, task: usize, row: &Row) -> BenchResult {
        let (mut conn, id) = (self.0[task].lock().await, row.key.id.as_str());
        let found: Option<(String, String, String)> = conn.exec_first(LATEST, (id, id)).await?;
        expect_one(found.is_some())
    }

    async fn store(&self, task: usize, row: &Row) -> BenchResult {
        let (mut conn, id) = (self.0[task].lock().await, row.key.id.as_str());
        conn.exec_drop(INSERT, (id, CREATED, &row.text)).await?;
        expect_one(conn.affected_rows() == 1)
    }

    async fn follow_up(&self, task: usize, row: &Row) -> BenchResult {
        let (mut conn, id) = (self.0[task].lock().await, row.key.id.as_str());
        let found: Option<(String, String, String)> = conn.exec_first(EXACT, (id, id, TOMBSTONE)).await?;
        expect_one(found.is_none())
    }
}
