//! Tables of PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use keyward::stores::{Metastore, PostgresMetastore};
use serde_json::{Value, json};

use crate::peers::{Kind, TestResult};
use crate::servers::{Postgres, PostgresSetup};
use crate::world::{PAIRS_WITH_GO, Side, Table, World, are_here, migrate, orders};

struct InPostgres<'a> {
    server: &'a Postgres,
    database: String,
    environment: [(&'static str, &'static str); 1],
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn the_table_that_migrate_makes_is_for_all_whatever_the_time_zones() -> TestResult {
    for (server_zone, peer_zone) in [("UTC", "UTC"), ("America/Phoenix", "Asia/Kolkata")] {
        let setup = PostgresSetup { timezone: Some(server_zone), ..PostgresSetup::default() };
        let Some(server) = Postgres::start(&setup)? else { return Ok(()) };
        for sides in orders() {
            let table =
                InPostgres { server: &server, database: server.database("")?, environment: [("TZ", peer_zone)] };
            migrate(&server.url(&table.database), &[])?;
            World::new(&table, sides).await?.cross().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn tables_of_jsonb_are_for_all() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    for created in ["TIMESTAMP", "TIMESTAMPTZ"] {
        for sides in orders() {
            cross(server, created, "JSONB", sides).await?;
        }
    }
    Ok(())
}

/// The implementation in Rust writes to no other column than JSONB.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn tables_of_text_are_for_go_too() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    for (created, record) in [("TIMESTAMP", "TEXT"), ("TIMESTAMPTZ", "TEXT"), ("TIMESTAMP", "JSON")] {
        for sides in PAIRS_WITH_GO.into_iter().filter(|sides| are_here(sides)) {
            cross(server, created, record, sides).await?;
        }
    }
    Ok(())
}

async fn cross(server: &Postgres, created: &str, record: &str, sides: &[Side]) -> TestResult {
    let database = server.database(&format!(
        "CREATE TABLE encryption_key (id VARCHAR(255) NOT NULL, created {created} NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         key_record {record} NOT NULL, PRIMARY KEY (id, created)); CREATE INDEX ON encryption_key (created)"
    ))?;
    World::new(&InPostgres { server, database, environment: [("TZ", "UTC")] }, sides).await?.cross().await
}

#[async_trait]
impl Table for InPostgres<'_> {
    fn config(&self, peer: Kind) -> Value {
        let address = match peer {
            Kind::Rust => self.server.url(&self.database),
            Kind::Go => {
                let (port, database) = (self.server.port, &self.database);
                format!("host=127.0.0.1 port={port} user=postgres dbname={database} sslmode=disable")
            }
        };
        json!({ "Metastore": "rdbms", "SQLMetastoreDBType": "postgres", "ConnectionString": address })
    }

    fn environment(&self) -> &[(&str, &str)] {
        &self.environment
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
