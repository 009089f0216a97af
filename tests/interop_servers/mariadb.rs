//! Tables of MariaDB.

use std::sync::Arc;

use async_trait::async_trait;
use keyward::stores::{Metastore, MysqlMetastore};
use serde_json::{Value, json};

use crate::peers::{Kind, TestResult};
use crate::servers::{MariaDb, MariaDbSetup};
use crate::world::{Table, World, migrate, orders};

/// The table as the other implementations describe it, where ids are told apart by case; they do not see to that themselves.
const UPSTREAM: &str = "ALTER DATABASE CHARACTER SET utf8mb4 COLLATE utf8mb4_bin; CREATE TABLE encryption_key (id VARCHAR(255) NOT NULL, \
    created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, key_record TEXT NOT NULL, \
    PRIMARY KEY (id, created), INDEX (created))";

struct InMariaDb<'a> {
    server: &'a MariaDb,
    database: String,
    environment: [(&'static str, &'static str); 1],
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn the_tables_of_all_are_for_all() -> TestResult {
    cross("+00:00", "UTC").await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn the_tables_of_all_are_for_all_in_other_time_zones() -> TestResult {
    cross("-07:00", "Asia/Kolkata").await
}

async fn cross(server_zone: &'static str, peer_zone: &'static str) -> TestResult {
    let setup = MariaDbSetup { time_zone: server_zone, ..MariaDbSetup::default() };
    let Some(server) = MariaDb::start(&setup)? else { return Ok(()) };
    for sides in orders() {
        for statements in [UPSTREAM, ""] {
            let database = server.database(statements)?;
            if statements.is_empty() {
                migrate(&server.url(&database), &[])?;
            }
            let table = InMariaDb { server: &server, database, environment: [("TZ", peer_zone)] };
            World::new(&table, sides).await?.cross().await?;
        }
    }
    Ok(())
}

#[async_trait]
impl Table for InMariaDb<'_> {
    fn config(&self, peer: Kind) -> Value {
        let address = match peer {
            Kind::Rust => self.server.url(&self.database),
            Kind::Go => {
                let (port, database) = (self.server.port, &self.database);
                format!("root@tcp(127.0.0.1:{port})/{database}?parseTime=true&charset=utf8mb4")
            }
        };
        json!({ "Metastore": "rdbms", "SQLMetastoreDBType": "mysql", "ConnectionString": address })
    }

    fn environment(&self) -> &[(&str, &str)] {
        &self.environment
    }

    async fn store(&self) -> TestResult<Arc<dyn Metastore>> {
        Ok(Arc::new(MysqlMetastore::connect(self.server.url(&self.database).parse()?).await?))
    }

    /// The digits of a time are those of UTC, whatever time zone the server thinks they are of.
    async fn rows(&self) -> TestResult<Vec<(String, i64)>> {
        let sql = "SELECT HEX(id), TIMESTAMPDIFF(SECOND, '1970-01-01', created) FROM encryption_key";
        let rows = self.server.sql(&self.database, sql)?;
        let row = |line: &str| {
            let (id, created) = line.split_once('\t').ok_or("two columns")?;
            let bytes = (0..id.len() / 2).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16));
            TestResult::Ok((String::from_utf8(bytes.collect::<Result<_, _>>()?)?, created.parse()?))
        };
        rows.lines().map(row).collect()
    }
}
