//! Tables of PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use keyward::stores::{Metastore, PostgresMetastore};
use serde_json::{Value, json};

use crate::peers::{Kind, TestResult};
use crate::servers::{Postgres, PostgresSetup};
use crate::world::{PAIRS_WITH_GO, Side, Table, World, are_here, migrate, orders, pairs};

struct InPostgres<'a> {
    server: &'a Postgres,
    database: String,
    /// What the processes of peers have as theirs.
    zone: [(&'static str, &'static str); 1],
    /// What their connections have as theirs, where it is not the server's.
    options: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn the_table_that_migrate_makes_is_for_all_whatever_the_time_zones() -> TestResult {
    for (server_zone, peer_zone) in [("UTC", "UTC"), ("America/Phoenix", "Asia/Kolkata")] {
        let setup = PostgresSetup { timezone: Some(server_zone), ..PostgresSetup::default() };
        let Some(server) = Postgres::start(&setup)? else { return Ok(()) };
        for sides in orders() {
            let database = server.database("")?;
            let table = InPostgres { server: &server, database, zone: [("TZ", peer_zone)], options: "" };
            migrate(&server.url(&table.database), &[])?;
            World::new(&table, sides).await?.cross().await?;
        }
    }
    Ok(())
}

/// A time without zone is what the one in Go takes for the time of its process, and the one in Rust for that of its
/// connection; both are told that it is UTC.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn tables_of_jsonb_are_for_all() -> TestResult {
    let Some(server) = start()? else { return Ok(()) };
    for created in ["TIMESTAMP", "TIMESTAMPTZ"] {
        for sides in pairs() {
            cross(&server, created, "JSONB", sides).await?;
        }
    }
    Ok(())
}

/// The one in Rust writes to no other column than JSONB.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn tables_of_text_are_for_go_too() -> TestResult {
    let Some(server) = start()? else { return Ok(()) };
    for (created, record) in [("TIMESTAMP", "TEXT"), ("TIMESTAMPTZ", "TEXT"), ("TIMESTAMP", "JSON")] {
        for sides in PAIRS_WITH_GO.into_iter().filter(|sides| are_here(sides)) {
            cross(&server, created, record, sides).await?;
        }
    }
    Ok(())
}

fn start() -> TestResult<Option<Postgres>> {
    Postgres::start(&PostgresSetup { timezone: Some("America/Phoenix"), ..PostgresSetup::default() })
}

async fn cross(server: &Postgres, created: &str, record: &str, sides: &[Side]) -> TestResult {
    let database = server.database(&format!(
        "CREATE TABLE encryption_key (id VARCHAR(255) NOT NULL, created {created} NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         key_record {record} NOT NULL, PRIMARY KEY (id, created)); CREATE INDEX ON encryption_key (created)"
    ))?;
    let options = "?options=-c%20TimeZone%3DUTC";
    World::new(&InPostgres { server, database, zone: [("TZ", "UTC")], options }, sides).await?.cross().await
}

#[async_trait]
impl Table for InPostgres<'_> {
    fn config(&self, peer: Kind) -> Value {
        let address = match peer {
            Kind::Rust => self.server.url(&self.database) + self.options,
            Kind::Go => {
                let (port, database) = (self.server.port, &self.database);
                format!("host=127.0.0.1 port={port} user=postgres dbname={database} sslmode=disable")
            }
        };
        json!({ "Metastore": "rdbms", "SQLMetastoreDBType": "postgres", "ConnectionString": address })
    }

    fn environment(&self) -> &[(&str, &str)] {
        &self.zone
    }

    async fn store(&self) -> TestResult<Arc<dyn Metastore>> {
        Ok(Arc::new(PostgresMetastore::connect(self.server.url(&self.database).parse()?).await?))
    }

    async fn rows(&self) -> TestResult<Vec<(String, i64)>> {
        let sql = "SELECT json_build_array(id, extract(epoch FROM created)::int8) FROM encryption_key";
        let rows = self.server.sql(&self.database, sql)?;
        Ok(rows.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }
}
