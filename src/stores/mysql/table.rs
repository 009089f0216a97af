//! The table in MySQL or MariaDB, as encryption needs it.
//!
//! `created` is sent as the digits of UTC and read back as digits, whatever the time zone of the session is.

use mysql_async::{Params, Row, Value};

use super::failures::{DUPLICATE_ENTRY, FOREIGN_TEXT, code, is_bad_time};
use super::pool::Connection;
use crate::ids::{KeyId, KeyMeta};
use crate::record::{EnvelopeKeyRecord, TOMBSTONE_CREATED};
use crate::stores::rows::{FIRST, LAST};
use crate::stores::rows::{corrupt, is_buried, parse_row};
use crate::stores::utc::{digits, seconds};
use crate::stores::{StoreError, StoreOutcome};

pub(super) const LOADING: &str = "loading a key from MySQL";
pub(super) const STORING: &str = "storing a key in MySQL";

/// What [`Found::read`] reads. The server sends texts in UTF-8, whatever the character sets of the columns are.
pub(super) const SELECT: &str = "SELECT id, DATE_FORMAT(created, '%Y-%m-%d %H:%i:%s'), key_record FROM encryption_key ";

/// A condition that holds for a record byte by byte, whatever the type of the column is: text of any character set, JSON,
/// or a blob.
macro_rules! same_text {
    () => {
        "CAST(CAST(key_record AS CHAR CHARACTER SET utf8mb4) AS BINARY) <=> CAST(? AS BINARY)"
    };
}
pub(super) use same_text;

/// A condition that holds for an id byte by byte, whatever the collation of the column is. The one that stands before it
/// everywhere, `id = ?`, compares by that collation; it holds for these rows too, and is what the primary key serves.
macro_rules! same_id {
    () => {
        "id = ? AND CAST(CONVERT(id USING utf8mb4) AS BINARY) = CAST(? AS BINARY)"
    };
}
pub(super) use same_id;

pub(super) const EXACT: &str = concat!("WHERE ", same_id!(), " AND created = ?");
const LATEST: &str = concat!("WHERE ", same_id!(), " ORDER BY created DESC LIMIT 1");

// Takes no more rights than other implementations do; in particular no REPLACE, IGNORE or ON DUPLICATE KEY.
const INSERT: &str = "INSERT INTO encryption_key (id, created, key_record) VALUES (?, ?, ?)";

/// A row as it was selected.
pub(super) struct Found {
    pub(super) id: KeyId,
    /// `None` when the column holds NULL or zeroes.
    pub(super) created: Option<i64>,
    /// `None` when the column holds NULL.
    pub(super) text: Option<Vec<u8>>,
}

impl Found {
    /// Reads a row of [`SELECT`]; `None` when its id is no text.
    pub(super) fn read(mut row: Row) -> Option<Self> {
        let mut text = |column| match row.take::<Value, _>(column) {
            Some(Value::Bytes(bytes)) => Some(bytes),
            _ => None,
        };
        let id = String::from_utf8(text(0)?).ok()?;
        let created = text(1).and_then(|digits| seconds(str::from_utf8(&digits).ok()?));
        Some(Self { id: KeyId::new(&id), created, text: text(2) })
    }

    /// Returns the text of the record.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the column holds none.
    pub(super) fn text(&self, key: &KeyMeta) -> Result<&[u8], StoreError> {
        self.text.as_deref().ok_or_else(|| corrupt(key, "its column key_record holds no text"))
    }

    /// Reads the record as that of `key`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is none.
    pub(super) fn record(&self, key: &KeyMeta) -> Result<EnvelopeKeyRecord, StoreError> {
        parse_row(key, self.text(key)?)
    }
}

pub(super) async fn load(connection: &mut Connection, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
    match find(connection, key).await? {
        // A server may move digits that its time zone skips to later ones: the record tells whether the row is meant.
        Some(row) if row.created != Some(key.created) => {
            let record = EnvelopeKeyRecord::from_json(row.text(key)?).map_err(|error| corrupt(key, error))?;
            Ok(Some(record).filter(|record| record.created == key.created))
        }
        Some(row) => row.record(key).map(Some),
        None => Ok(None),
    }
}

pub(super) async fn load_latest(
    connection: &mut Connection,
    id: &KeyId,
) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
    let rows = select(connection, LATEST, (id.as_str(), id.as_str()).into(), id).await?;
    let Some(row) = rows.into_iter().next() else { return Ok(None) };
    let Some(created) = row.created else {
        let source = "its column created holds no time".into();
        return Err(StoreError::Corrupt { id: id.to_string(), created: None, source });
    };
    row.record(&KeyMeta { id: id.clone(), created }).map(Some)
}

/// Inserts a row unless it, or a tombstone of its id, exists.
///
/// Neither locks nor transactions are taken, which could deadlock and need more rights. The row goes in first and the
/// tombstone is looked for then; who shreds does it the other way round, puts the tombstone in first and looks for rows
/// then. Each change is committed before its look begins, so at least one of both sees the other: there is no order in
/// which a row is told stored and escapes the shredding. A row that is left behind by a program which ended in between, or
/// has no right to delete, is never used: the tombstone is later.
pub(super) async fn store(
    connection: &mut Connection,
    key: &KeyMeta,
    record: &EnvelopeKeyRecord,
) -> Result<StoreOutcome, StoreError> {
    let text = record.to_json();
    if insert(connection, key, &text).await? == StoreOutcome::Duplicate {
        return Ok(StoreOutcome::Duplicate);
    }
    let is_itself = key.created == TOMBSTONE_CREATED;
    if is_itself || !has_tombstone(connection, &key.id).await? {
        return Ok(StoreOutcome::Stored);
    }
    // Whether it can be taken back or not, nobody will encrypt under it.
    let _ = connection.change(TAKE_BACK, exact(key, Some(&text))).await;
    Ok(StoreOutcome::Duplicate)
}

const TAKE_BACK: &str = concat!("DELETE FROM encryption_key WHERE ", same_id!(), " AND created = ? AND ", same_text!());

/// Inserts a row unless it exists, tombstones aside.
pub(super) async fn insert(connection: &mut Connection, key: &KeyMeta, text: &str) -> Result<StoreOutcome, StoreError> {
    let Some(time) = digits(key.created) else {
        let source = format!("key {key} was created outside the years 1 to 9999");
        return Err(connection.refusal("check the clock", source));
    };
    // The row that is in the way may be shredded before it is looked at; not again and again.
    for _attempt in 0..3 {
        match connection.change(INSERT, (key.id.as_str(), time.as_str(), text)).await {
            Ok(_) => return Ok(StoreOutcome::Stored),
            Err(error) if code(&error) == Some(DUPLICATE_ENTRY) => {}
            Err(error) if is_bad_time(&error) => return Err(connection.refusal(time_advice(key.created), error)),
            Err(error) => return Err(connection.failure(error)),
        }
        let is_there = find(connection, key).await?.is_some_and(|row| row.created == Some(key.created));
        if is_there || has_tombstone(connection, &key.id).await? {
            return Ok(StoreOutcome::Duplicate);
        }
    }
    let source = format!("key {key} collides with another id of the same time, which the column takes for the same");
    Err(connection.refusal(COLLATE, source))
}

const COLLATE: &str =
    "let the column id compare byte by byte; `keyward migrate --store mysql://…` prints the statement";

/// Says why a column refused a time.
fn time_advice(created: i64) -> &'static str {
    // In seconds of UTC, give or take what time zones differ from it.
    const TIMESTAMPS: std::ops::RangeInclusive<i64> = 14 * 3600..=2_147_483_647 - 14 * 3600;
    if TIMESTAMPS.contains(&created) {
        "the column created holds TIMESTAMPs, and clocks of the server's time zone skip this hour: try again later, and \
         ALTER TABLE encryption_key MODIFY created DATETIME NOT NULL, or give the server a time zone without summer time"
    } else {
        "the column created holds TIMESTAMPs, which go from 1970 to 2038: \
         ALTER TABLE encryption_key MODIFY created DATETIME NOT NULL"
    }
}

/// Finds the row of a key, by its exact id.
pub(super) async fn find(connection: &mut Connection, key: &KeyMeta) -> Result<Option<Found>, StoreError> {
    if !(FIRST..=LAST).contains(&key.created) {
        return Ok(None); // no such row can have been stored
    }
    Ok(select(connection, EXACT, exact(key, None), &key.id).await?.into_iter().next())
}

/// Whether the id is shredded.
pub(super) async fn has_tombstone(connection: &mut Connection, id: &KeyId) -> Result<bool, StoreError> {
    let key = KeyMeta { id: id.clone(), created: TOMBSTONE_CREATED };
    let row = find(connection, &key).await?;
    Ok(row.is_some_and(|row| row.record(&key).is_ok_and(|record| is_buried(&record))))
}

/// Selects rows of one id.
pub(super) async fn select(
    connection: &mut Connection,
    condition: &'static str,
    values: Params,
    id: &KeyId,
) -> Result<Vec<Found>, StoreError> {
    match connection.rows(&format!("{SELECT}{condition}"), values).await {
        // Whatever the server thinks is the same: the bytes decide.
        Ok(rows) => Ok(rows.into_iter().filter_map(Found::read).filter(|row| row.id == *id).collect()),
        Err(error) if code(&error) == Some(FOREIGN_TEXT) => Ok(Vec::new()),
        Err(error) => Err(connection.failure(error)),
    }
}

/// Returns the values of [`EXACT`], and of what follows it.
pub(super) fn exact(key: &KeyMeta, text: Option<&str>) -> Params {
    let id = Value::from(key.id.as_str());
    let mut values = vec![id.clone(), id, digits(key.created).into()];
    values.extend(text.map(Value::from));
    Params::Positional(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_time_is_explained_by_where_it_is() {
        for created in [1_700_000_000, 100_000, 2_147_000_000] {
            assert!(time_advice(created).contains("skip this hour"), "{created}");
        }
        for created in [0, -1, 2_147_483_648, LAST] {
            assert!(time_advice(created).contains("2038"), "{created}");
        }
    }
}
