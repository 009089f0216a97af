//! Tables in MariaDB, as others made them and as this crate makes them, on servers in UTC and west of it.

use std::sync::Arc;

use async_trait::async_trait;
use keyward::stores::{MysqlMetastore, SchemaAdmin};
use mysql_async::Error;
use mysql_async::prelude::Queryable;
use tokio::sync::OnceCell;

use crate::mysql_support::{Server, UPSTREAM};
use crate::servers::MariaDbSetup;
use crate::stage::{Behind, Stage, TestResult};

/// What a `TIMESTAMP` holds where clocks show UTC.
const TIMESTAMPS: (i64, i64) = (1, 2_147_483_647);

/// The table as the other implementations describe it, on a server of MariaDB's defaults, seven hours west of UTC, that
/// changes what it cannot store.
mod upstream_latin1_west_not_strict {
    use super::*;

    crate::contract!(stage);

    async fn stage() -> TestResult<Option<Stage>> {
        let Some(stage) = make(west().await?, UPSTREAM).await? else { return Ok(None) };
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
        let stage = make(utc().await?, table).await?;
        Ok(stage.map(|stage| Stage { times: TIMESTAMPS, is_exact: false, is_ordered: false, ..stage }))
    }
}

/// Columns of bytes, fractions of seconds, and JSON that the server checks.
mod varbinary_json_utc {
    use super::*;

    crate::contract!(stage, operating::a_listing_goes_on_after_a_key_that_is_not_there);

    async fn stage() -> TestResult<Option<Stage>> {
        let table = "CREATE TABLE encryption_key (id VARBINARY(255) NOT NULL, created DATETIME(6) NOT NULL, \
            key_record JSON NOT NULL, UNIQUE KEY (id, created))";
        make(utc().await?, table).await
    }
}

/// The table that `keyward migrate` makes, on the server that is neither in UTC nor strict.
mod migrated_west_not_strict {
    use super::*;

    crate::contract!(stage, operating::a_listing_goes_on_after_a_key_that_is_not_there);

    async fn stage() -> TestResult<Option<Stage>> {
        make(west().await?, "").await
    }
}

async fn west() -> TestResult<Option<&'static Server>> {
    static SERVER: OnceCell<Option<Server>> = OnceCell::const_new();
    let setup = MariaDbSetup { time_zone: "-07:00", sql_mode: "", ..MariaDbSetup::default() };
    Ok(SERVER.get_or_try_init(async || Server::start_as(&setup)).await?.as_ref())
}

async fn utc() -> TestResult<Option<&'static Server>> {
    static SERVER: OnceCell<Option<Server>> = OnceCell::const_new();
    Ok(SERVER.get_or_try_init(async || Server::start(&[])).await?.as_ref())
}

/// Makes a database of its own, with a table, or with the one that this crate makes.
async fn make(server: Option<&'static Server>, table: &str) -> TestResult<Option<Stage>> {
    let Some(server) = server else { return Ok(None) };
    let database = server.database(table).await?;
    let options = || server.address(&database).parse();
    if table.is_empty() {
        let _ = MysqlMetastore::connect_for_schema(options()?).await?.apply().await?;
    }
    let store = MysqlMetastore::connect(options()?).await?;
    Ok(Some(Stage { behind: Some(Box::new(Other { server, database })), ..Stage::new(Arc::new(store)) }))
}

/// Another program, that binds creation times as digits of UTC.
struct Other {
    server: &'static Server,
    database: String,
}

#[async_trait]
impl Behind for Other {
    async fn write(&self, id: &str, created: i64, text: &str) -> TestResult<bool> {
        let mut conn = self.server.root(&self.database).await?;
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
        let mut conn = self.server.root(&self.database).await?;
        let select = "SELECT key_record FROM encryption_key \
            WHERE id = ? AND created = DATE_ADD('1970-01-01', INTERVAL ? SECOND)";
        let text = conn.exec_first(select, (id, created)).await?;
        conn.disconnect().await?;
        text.ok_or_else(|| "there is no such row".into())
    }
}
