//! A SQLite file.

use std::sync::Arc;

use async_trait::async_trait;
use keyward::stores::SqliteMetastore;
use rusqlite::{Connection, params};

use crate::stage::{Behind, Stage, TestResult};

crate::contract!(stage, operating::a_listing_goes_on_after_a_key_that_is_not_there);

async fn stage() -> TestResult<Option<Stage>> {
    let folder = tempfile::tempdir()?;
    let store = SqliteMetastore::open(folder.path().join("keys.db")).await?;
    Ok(Some(Stage { behind: Some(Box::new(folder)), ..Stage::new(Arc::new(store)) }))
}

#[async_trait]
impl Behind for tempfile::TempDir {
    async fn write(&self, id: &str, created: i64, text: &str) -> TestResult<bool> {
        let insert = "INSERT INTO encryption_key VALUES (?1, datetime(?2, 'unixepoch'), ?3)";
        Connection::open(self.path().join("keys.db"))?.execute(insert, params![id, created, text])?;
        Ok(true)
    }

    async fn text(&self, id: &str, created: i64) -> TestResult<String> {
        let select = "SELECT key_record FROM encryption_key WHERE id = ?1 AND created = datetime(?2, 'unixepoch')";
        let connection = Connection::open(self.path().join("keys.db"))?;
        Ok(connection.query_row(select, params![id, created], |row| row.get(0))?)
    }
}
