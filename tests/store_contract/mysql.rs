//! Tables in MariaDB, as others made them and as this crate makes them, on servers in UTC and west of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use keyward::stores::{MysqlMetastore, MysqlOptions};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts};

use crate::stage::{Behind, Stage, TestResult};

/// What a `TIMESTAMP` holds where clocks show UTC.
const TIMESTAMPS: (i64, i64) = (1, 2_147_483_647);

/// The table as the other implementations describe it, on a server of MariaDB's defaults, seven hours west of UTC, that
/// changes what it cannot store.
mod upstream_latin1_west_not_strict {
    use super::*;

    crate::contract!(stage);

    async fn stage() -> TestResult<Option<Stage>> {
        let table = "CREATE TABLE encryption_key (id VARCHAR(255) NOT NULL, \
            created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, key_record TEXT NOT NULL, \
            PRIMARY KEY (id, created), INDEX (created))";
        let Some(stage) = make(33971, table).await? else { return Ok(None) };
        let west = 7 * 3600;
        let times = (TIMESTAMPS.0 - west, TIMESTAMPS.1 - west);
        Ok(Some(Stage { times, is_unicode: false, is_exact: false, is_ordered: false, ..stage }))
    }
}

/// The table that much documentation asks for, in UTC.
mod utf8mb4_bin_utc {
    use super::*;

    crate::contract!(stage);

    async fn stage() -> TestResult<Option<Stage>> {
        let table = "CREATE TABLE encryption_key (id VARCHAR(255) NOT NULL, created TIMESTAMP NOT NULL, \
            key_record MEDIUMTEXT NOT NULL, PRIMARY KEY (id, created)) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";
        let stage = make(33972, table).await?;
        Ok(stage.map(|stage| Stage { times: TIMESTAMPS, is_exact: false, is_ordered: false, ..stage }))
    }
}

/// Columns of bytes, and JSON that the server checks.
mod varbinary_json_utc {
    use super::*;

    crate::contract!(stage);

    async fn stage() -> TestResult<Option<Stage>> {
        let table = "CREATE TABLE encryption_key (id VARBINARY(255) NOT NULL, created DATETIME(6) NOT NULL, \
            key_record JSON NOT NULL, UNIQUE KEY (id, created))";
        make(33972, table).await
    }
}

/// Makes a database with a table of its own.
async fn make(port: u16, table: &str) -> TestResult<Option<Stage>> {
    static DATABASES: AtomicUsize = AtomicUsize::new(0);
    let database = format!("contract_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::Relaxed));
    let mut conn = Conn::new(Opts::from_url(&format!("mysql://k:pw@127.0.0.1:{port}/mysql"))?).await?;
    conn.query_drop(format!("CREATE DATABASE {database}")).await?;
    conn.query_drop(format!("USE {database}")).await?;
    conn.query_drop(table).await?;
    conn.disconnect().await?;
    let address = format!("mysql://k:pw@127.0.0.1:{port}/{database}");
    let options: MysqlOptions = address.parse()?;
    let store = MysqlMetastore::connect(options).await?;
    Ok(Some(Stage { behind: Some(Box::new(Other { address })), ..Stage::new(Arc::new(store)) }))
}

/// Another program, that binds creation times as digits of UTC.
struct Other {
    address: String,
}

#[async_trait]
impl Behind for Other {
    async fn write(&self, id: &str, created: i64, text: &str) -> TestResult<bool> {
        let mut conn = Conn::new(Opts::from_url(&self.address)?).await?;
        let insert = "INSERT INTO encryption_key VALUES (?, DATE_ADD('1970-01-01', INTERVAL ? SECOND), ?)";
        let written = conn.exec_drop(insert, (id, created, text)).await;
        conn.disconnect().await?;
        match written {
            Ok(()) => Ok(true),
            // A column of JSON takes nothing else.
            Err(Error::Server(error)) if error.code == 4025 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn text(&self, id: &str, created: i64) -> TestResult<String> {
        let mut conn = Conn::new(Opts::from_url(&self.address)?).await?;
        let select = "SELECT key_record FROM encryption_key \
            WHERE id = ? AND created = DATE_ADD('1970-01-01', INTERVAL ? SECOND)";
        let text = conn.exec_first(select, (id, created)).await?;
        conn.disconnect().await?;
        text.ok_or_else(|| "there is no such row".into())
    }
}
