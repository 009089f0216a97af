//! Postgres, and tokio-postgres by itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use keyward::TOMBSTONE_CREATED;
use keyward::stores::{PostgresMetastore, PostgresOptions, SchemaAdmin};
use tokio_postgres::{Client, NoTls, Statement};

use crate::race::{Amounts, Call, Entry};
use crate::servers::{Postgres, PostgresSetup};
use crate::side::{BenchResult, Row, Rows, Side, TASKS, expect_one};
use crate::table::Contest;

pub(crate) const EXACT: &str = "SELECT id::text, created, key_record::text FROM encryption_key \
    WHERE id = $1::text AND id::text COLLATE \"C\" = $1::text AND created + INTERVAL '0' = $2";
pub(crate) const LATEST: &str = "SELECT id::text, created, key_record::text FROM encryption_key \
    WHERE id = $1::text AND id::text COLLATE \"C\" = $1::text ORDER BY created + INTERVAL '0' DESC LIMIT 1";
pub(crate) const INSERT: &str = "INSERT INTO encryption_key (id, created, key_record) VALUES ($1, $2, $3::text::jsonb) \
    ON CONFLICT (id, created) DO NOTHING";

pub(crate) async fn measure() -> BenchResult {
    let Some((_server, url)) = start().await? else { return Ok(()) };
    let ours: Arc<dyn Side> = Arc::new(connect(&url).await?);
    let driver: Arc<dyn Side> = Arc::new(Driver::connect(&url).await?);
    let rows = Rows::new();
    rows.put(&*ours).await?;
    let contest = Contest {
        title: "PostgreSQL, synced, a connection for each task",
        stores: vec![
            Entry::new("tokio-postgres, INSERT and SELECT of a tombstone", &driver, Call::StoreAndFollowUp),
            Entry::new("tokio-postgres, INSERT", &driver, Call::Store),
        ],
        loads: vec![("tokio-postgres", driver)],
        ours,
        load_amounts: Amounts { rounds: 100, batch: 30, each: 20 },
        store_amounts: Amounts { rounds: 100, batch: 20, each: 5 },
    };
    contest.run(&rows).await
}

/// Starts a server with the table that `keyward migrate` makes, and returns where it is.
pub(crate) async fn start() -> BenchResult<Option<(Postgres, String)>> {
    let Some(server) = Postgres::start(&PostgresSetup { fsync: true, ..PostgresSetup::default() })? else {
        return Ok(None);
    };
    let url = server.url(&server.database("")?);
    let _ = PostgresMetastore::connect_for_schema(url.parse()?).await?.apply().await?;
    Ok(Some((server, url)))
}

/// Connects, with as many connections as there are tasks.
pub(crate) async fn connect(url: &str) -> BenchResult<PostgresMetastore> {
    let mut options: PostgresOptions = url.parse()?;
    options.server.pool.size = TASKS;
    Ok(PostgresMetastore::connect(options).await?)
}

/// Returns when a key was created, as the driver takes it.
pub(crate) fn time(created: i64) -> BenchResult<SystemTime> {
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(created)?))
}

/// A connection for each task, with its statements.
struct Driver(Vec<Connection>);

struct Connection {
    client: Client,
    exact: Statement,
    latest: Statement,
    insert: Statement,
}

impl Driver {
    async fn connect(url: &str) -> BenchResult<Self> {
        let mut connections = Vec::new();
        for _ in 0..TASKS {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            let (exact, latest) = (client.prepare(EXACT).await?, client.prepare(LATEST).await?);
            let insert = client.prepare(INSERT).await?;
            connections.push(Connection { client, exact, latest, insert });
        }
        Ok(Self(connections))
    }
}

/// Reads a row's columns.
pub(crate) fn read(row: &tokio_postgres::Row) -> BenchResult<(String, SystemTime, String)> {
    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
}

#[async_trait]
impl Side for Driver {
    async fn load(&self, task: usize, row: &Row) -> BenchResult {
        let Connection { client, exact, .. } = &self.0[task];
        let found = client.query(exact, &[&row.key.id.as_str(), &time(row.key.created)?]).await?;
        expect_one(found.first().map(read).transpose()?.is_some())
    }

    async fn load_latest(&self, task: usize, row: &Row) -> BenchResult {
        let Connection { client, latest, .. } = &self.0[task];
        let found = client.query(latest, &[&row.key.id.as_str()]).await?;
        expect_one(found.first().map(read).transpose()?.is_some())
    }

    async fn store(&self, task: usize, row: &Row) -> BenchResult {
        let Connection { client, insert, .. } = &self.0[task];
        let created = time(row.key.created)?;
        expect_one(client.execute(insert, &[&row.key.id.as_str(), &created, &row.text]).await? == 1)
    }

    async fn follow_up(&self, task: usize, row: &Row) -> BenchResult {
        let Connection { client, exact, .. } = &self.0[task];
        let found = client.query(exact, &[&row.key.id.as_str(), &time(TOMBSTONE_CREATED)?]).await?;
        expect_one(found.is_empty())
    }
}
