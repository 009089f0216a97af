//! What operators do in the SQLite table: list, revoke, shred, replace wrapped keys. Blocking, as all of `Table`.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, ffi, params};

use super::rows::{Edit, corrupt, is_buried};
use super::sqlite_table::{EXACT, FIRST, LAST, SELECT, Table, failure, read};
use super::{KeyRow, StoreError};
use crate::ids::{KeyId, KeyMeta};
use crate::record::{EnvelopeKeyRecord, TOMBSTONE_CREATED};

pub(super) const LISTING: &str = "listing keys in SQLite";
pub(super) const REVOKING: &str = "revoking a key in SQLite";
pub(super) const SHREDDING: &str = "shredding a key in SQLite";
pub(super) const REPLACING: &str = "replacing a wrapped key in SQLite";
const ERASING: &str = "erasing a shredded key from the SQLite file";

// The first condition is implied by the second; it is the one that the primary key's index serves.
pub(super) const AFTER: &str = "WHERE id >= ?1 COLLATE BINARY \
    AND (id COLLATE BINARY, created) > (?1, coalesce(datetime(?2, 'unixepoch'), '')) \
    ORDER BY id COLLATE BINARY, created";
pub(super) const ALL: &str = "WHERE id = ?1 COLLATE BINARY ORDER BY created";

const UPDATE: &str = "UPDATE encryption_key SET key_record = ?3 ";

// Creation times that are NULL or in another layout are no reason to stay.
const DELETE: &str = "DELETE FROM encryption_key \
    WHERE id = ?1 COLLATE BINARY AND (?3 OR created IS NOT datetime(?2, 'unixepoch'))";

const BURY: &str = "INSERT INTO encryption_key(id, created, key_record) VALUES (?1, datetime(?2, 'unixepoch'), ?3)";

impl Table {
    pub(super) fn list(&mut self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        self.thaw()?;
        let id = after.map_or("", |key| key.id.as_str());
        let created = after.map(|key| key.created.clamp(FIRST - 1, LAST));
        let page = self.connection.prepare_cached(&format!("{SELECT}{AFTER}")).and_then(|mut statement| {
            let rows = statement.query_map(params![id, created], read)?;
            rows.filter_map(Result::transpose).take(limit).collect()
        });
        page.map_err(|error| failure(LISTING, &self.file, error))
    }

    pub(super) fn versions(&mut self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
        self.thaw()?;
        let rows = rows_of(&self.connection, id).map_err(|error| failure(LISTING, &self.file, error))?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Changes the text of a record as `edit` says; `absent` when there is none.
    pub(super) fn edit<R>(
        &mut self,
        operation: &'static str,
        key: &KeyMeta,
        absent: R,
        edit: impl FnOnce(&[u8]) -> Result<Edit<R>, StoreError>,
    ) -> Result<R, StoreError> {
        if !(FIRST..=LAST).contains(&key.created) {
            return Ok(absent); // no such row can have been stored
        }
        self.changing(operation, |change| {
            let Some(text) = text_of(change, key)? else { return Ok(Ok(absent)) };
            let (text, outcome) = match text.and_then(|text| edit(&text)) {
                Ok(Edit::Write(text, outcome)) => (text, outcome),
                Ok(Edit::Leave(outcome)) => return Ok(Ok(outcome)),
                Err(corrupt) => return Ok(Err(corrupt)),
            };
            change.execute(&format!("{UPDATE}{EXACT}"), params![key.id.as_str(), key.created, text])?;
            Ok(Ok(outcome))
        })
    }

    pub(super) fn shred(&mut self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError> {
        let destroyed = self.changing(SHREDDING, |change| {
            let rows = rows_of(change, id)?;
            let stays = |row: &KeyRow| row.record.as_ref().is_ok_and(is_buried);
            let is_there = rows.iter().flatten().any(stays);
            change.execute(DELETE, params![id.as_str(), TOMBSTONE_CREATED, !is_there])?;
            if !is_there {
                change.execute(BURY, params![id.as_str(), TOMBSTONE_CREATED, tombstone.to_json()])?;
            }
            Ok(Ok(rows.into_iter().flatten().filter(|row| !stays(row)).map(|row| row.key).collect()))
        })?;
        // Also when nothing was destroyed: an earlier call may have come no further.
        erase(&self.connection).map_err(|error| failure(ERASING, &self.file, error))?;
        Ok(destroyed)
    }

    /// Makes a change in one transaction, which no other process's change comes between; an error undoes it.
    ///
    /// The inner result of `change` is about what it found, and commits.
    fn changing<R>(
        &mut self,
        operation: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<R, StoreError>>,
    ) -> Result<R, StoreError> {
        self.thaw()?;
        let run = |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let outcome = change(&transaction)?;
            transaction.commit()?;
            Ok(outcome)
        };
        run(&mut self.connection).map_err(|error| failure(operation, &self.file, error))?
    }
}

/// Reads all rows of one id, the oldest first.
fn rows_of(connection: &Connection, id: &KeyId) -> rusqlite::Result<Vec<Option<KeyRow>>> {
    connection.prepare_cached(&format!("{SELECT}{ALL}"))?.query_map([id.as_str()], read)?.collect()
}

/// Returns the text of a row's record, where it holds text.
fn text_of(change: &Transaction<'_>, key: &KeyMeta) -> rusqlite::Result<Option<Result<Vec<u8>, StoreError>>> {
    let row = params![key.id.as_str(), key.created];
    let read = |row: &rusqlite::Row<'_>| {
        Ok(match row.get_ref(0)? {
            ValueRef::Text(text) | ValueRef::Blob(text) => Ok(text.to_vec()),
            other => Err(corrupt(key, format!("its column key_record holds {}", other.data_type()))),
        })
    };
    change.query_row(&format!("SELECT key_record FROM encryption_key {EXACT}"), row, read).optional()
}

/// Makes deleted bytes leave the file and its log.
///
/// Pages keep stale bytes of rows that were moved between them, which zeroing deleted rows does not reach; a file that is
/// written anew has none.
fn erase(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("VACUUM")?;
    let is_busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if is_busy {
        let busy = ffi::Error::new(ffi::SQLITE_BUSY);
        return Err(rusqlite::Error::SqliteFailure(busy, Some("the log is in use".to_owned())));
    }
    Ok(())
}
