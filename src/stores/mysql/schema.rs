//! Makes the table in MySQL or MariaDB, and looks at the one that is there.

use super::facts::{ServerFacts, TableFacts, look, server, table};
use super::failures::{INDEX_EXISTS, MIGRATE, TABLE_EXISTS, code};
use super::pool::Connection;
use super::report::{create, facts, judge};
use crate::stores::StoreError;
use crate::stores::schema::{Severity, TableReport};

pub(super) const INSPECTING: &str = "inspecting the key table in MySQL";
pub(super) const MIGRATING: &str = "migrating the key table in MySQL";

/// A change waits this long for transactions that use the table, because everybody else waits behind it.
const PATIENCE: &str = "SET SESSION lock_wait_timeout = 5";

/// Makes sure that the table is there and works; tells the log what else there is to know about it.
pub(super) async fn check(connection: &mut Connection) -> Result<ServerFacts, StoreError> {
    look(connection).await?;
    let server = server(connection).await?;
    let Some(table) = table(connection).await? else { return Err(missing(connection)) };
    let report = judge(&server, &table);
    tracing::info!(facts = ?report.facts, "connected to the key table");
    for difference in report.differences {
        let about = difference.about;
        match difference.severity {
            Severity::Broken => {
                return Err(unusable(connection, &about, difference.change.map(|change| change.statement)));
            }
            Severity::Risky => tracing::warn!(%about, "the key table is at risk"),
            Severity::Harmless => tracing::debug!(%about, "the key table is not ideal"),
        }
    }
    Ok(server)
}

fn missing(connection: &Connection) -> StoreError {
    connection.refusal(MIGRATE, "there is no table encryption_key")
}

fn unusable(connection: &Connection, about: &str, statement: Option<String>) -> StoreError {
    let remedy = statement.map(|statement| format!("; to change it: {statement}")).unwrap_or_default();
    let advice = "change the table; `keyward migrate --store mysql://…` prints all that is wrong with it";
    connection.refusal(advice, format!("table encryption_key: {about}{remedy}"))
}

/// Looks at the table.
pub(super) async fn inspect(connection: &mut Connection) -> Result<TableReport, StoreError> {
    let server = server(connection).await?;
    Ok(match table(connection).await? {
        Some(table) => judge(&server, &table),
        None => TableReport { facts: facts(&server, &TableFacts::default()), ..TableReport::default() },
    })
}

/// Makes the table, or the changes to it that are safe. Whatever another process makes at the same time is as good.
pub(super) async fn apply(connection: &mut Connection) -> Result<Vec<String>, StoreError> {
    let report = inspect(connection).await?;
    connection.keep();
    connection.change(PATIENCE, ()).await.map_err(|error| connection.failure(error))?;
    if !report.exists {
        let statement = create(&server(connection).await?);
        return Ok(run(connection, &statement, TABLE_EXISTS).await?.into_iter().collect());
    }
    let mut done = Vec::new();
    let changes = report.differences.into_iter().filter_map(|difference| difference.change);
    for change in changes.filter(|change| change.is_safe) {
        done.extend(run(connection, &change.statement, INDEX_EXISTS).await?);
    }
    Ok(done)
}

/// Executes a statement; `None` when somebody else did.
async fn run(connection: &mut Connection, statement: &str, done: u16) -> Result<Option<String>, StoreError> {
    match connection.change(statement, ()).await {
        Ok(_) => Ok(Some(statement.to_owned())),
        Err(error) if code(&error) == Some(done) => Ok(None),
        Err(error) => Err(connection.failure(error)),
    }
}
