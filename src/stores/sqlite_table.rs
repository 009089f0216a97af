//! The table in the SQLite file: blocking, used by the thread of `SqliteMetastore` alone.
//!
//! The layout is that of the other implementations: `created` is text, `YYYY-MM-DD HH:MM:SS` in UTC, converted by
//! SQLite's own [date functions](https://sqlite.org/lang_datefunc.html); `key_record` is the JSON text of the record.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Params, Row, params};

use super::place::{permanent, transient};
pub(super) use super::rows::{FIRST, LAST};
use super::rows::{corrupt, parse_row};
use super::{KeyRow, StoreError, StoreOutcome};
use crate::ids::{KeyId, KeyMeta};
use crate::record::{EnvelopeKeyRecord, TOMBSTONE_CREATED};

pub(super) const OPENING: &str = "opening the SQLite key table";
pub(super) const LOADING: &str = "loading a key from SQLite";
pub(super) const STORING: &str = "storing a key in SQLite";

const HAS_TABLE: &str = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'encryption_key' COLLATE NOCASE)";

pub(super) const CREATE: &str = "CREATE TABLE IF NOT EXISTS \
    encryption_key(id TEXT NOT NULL, created TIMESTAMP NOT NULL, key_record TEXT NOT NULL, PRIMARY KEY(id, created))";
pub(super) const INDEX: &str = "CREATE INDEX IF NOT EXISTS encryption_key_created ON encryption_key(created)";

const LAYOUT: &str = "the table must be \
    encryption_key(id TEXT, created TIMESTAMP, key_record TEXT, PRIMARY KEY(id, created))";

// Unless a tombstone is there: a revoked record without key bytes, created at TOMBSTONE_CREATED.
const INSERT: &str = "INSERT INTO encryption_key(id, created, key_record) \
    SELECT ?1, datetime(?2, 'unixepoch'), ?3 WHERE NOT EXISTS (SELECT 1 FROM encryption_key \
        WHERE id = ?1 COLLATE BINARY AND created = datetime(?4, 'unixepoch') \
        AND CASE WHEN json_valid(CAST(key_record AS TEXT)) THEN \
            json_extract(CAST(key_record AS TEXT), '$.Key') = '' \
            AND json_type(CAST(key_record AS TEXT), '$.Revoked') = 'true' END) \
    ON CONFLICT(id, created) DO NOTHING";

// What `read` reads: the creation time is NULL unless it is stored in the one layout that a look-up finds. Ids are
// compared byte by byte even where somebody made the table with another collation.
pub(super) const SELECT: &str = "SELECT id, CASE WHEN datetime(created) = created THEN unixepoch(created) END, key_record \
    FROM encryption_key ";
pub(super) const EXACT: &str = "WHERE id = ?1 COLLATE BINARY AND created = datetime(?2, 'unixepoch')";
const LATEST: &str = "WHERE id = ?1 COLLATE BINARY ORDER BY created DESC LIMIT 1";

/// An open database.
pub(super) struct Table {
    pub(super) file: PathBuf,
    pub(super) busy_timeout: Duration,
    pub(super) connection: Connection,
    /// Whether the connection sees the file as it was when opened, see [`immutable`].
    pub(super) frozen: bool,
}

impl Table {
    /// Opens `file`, an absolute path, and makes sure of the table.
    pub(super) fn open(file: &Path, busy_timeout: Duration) -> Result<Self, StoreError> {
        create_private(file).map_err(|error| cannot_create(file, error))?;
        let failed = |error| failure(OPENING, file, error);
        let (table, has_table) = Self::open_existing(file, busy_timeout)?;
        if !has_table {
            table.connection.execute_batch(&format!("BEGIN; {CREATE}; {INDEX}; COMMIT")).map_err(failed)?;
        }
        if !table.frozen {
            prefer_wal(&table.connection).map_err(failed)?;
        }
        Ok(table)
    }

    /// Opens `file`, an absolute path, to be looked at: a file or a table that is missing is not made.
    pub(super) fn look(file: &Path, busy_timeout: Duration) -> Result<Self, StoreError> {
        if matches!(file.try_exists(), Ok(false)) {
            let connection = Connection::open_in_memory().map_err(|error| failure(OPENING, file, error))?;
            return Ok(Self { file: file.to_owned(), busy_timeout, connection, frozen: true });
        }
        Ok(Self::open_existing(file, busy_timeout)?.0)
    }

    /// Opens a file that exists, and tells whether it has the table.
    fn open_existing(file: &Path, busy_timeout: Duration) -> Result<(Self, bool), StoreError> {
        let failed = |error| failure(OPENING, file, error);
        let (connection, has_table, frozen) = match connect(file, busy_timeout) {
            Err(error) if is_denied(&error) => immutable(file).ok_or_else(|| failed(error))?,
            other => other.map(|(connection, has_table)| (connection, has_table, false)).map_err(failed)?,
        };
        Ok((Self { file: file.to_owned(), busy_timeout, connection, frozen }, has_table))
    }

    pub(super) fn load(&mut self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        if !(FIRST..=LAST).contains(&key.created) {
            return Ok(None); // no such row can have been stored
        }
        self.find(EXACT, params![key.id.as_str(), key.created], &key.id)
    }

    pub(super) fn load_latest(&mut self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.find(LATEST, params![id.as_str()], id)
    }

    pub(super) fn store(&mut self, key: &KeyMeta, text: &str) -> Result<StoreOutcome, StoreError> {
        if !(FIRST..=LAST).contains(&key.created) {
            let source = format!("key {key} was created outside the years 1 to 9999");
            return Err(self.refusal("check the clock", source));
        }
        let row = params![key.id.as_str(), key.created, text, TOMBSTONE_CREATED];
        let inserted = self.connection.prepare_cached(INSERT).and_then(|mut statement| statement.execute(row));
        if inserted.map_err(|error| failure(STORING, &self.file, error))? == 1 {
            // Keys are rare and precious: whoever copies the file alone, without its log, has them too. The row is safe
            // in the log whether this succeeds or not.
            let _ = self.connection.execute_batch("PRAGMA wal_checkpoint(PASSIVE)");
            return Ok(StoreOutcome::Stored);
        }
        match self.load(key) {
            Ok(Some(_)) | Err(StoreError::Corrupt { .. }) => Ok(StoreOutcome::Duplicate),
            Ok(None) if self.has_tombstone(&key.id)? => Ok(StoreOutcome::Duplicate),
            Ok(None) => {
                let source = format!("key {key} collides with another id of the same time");
                Err(self.refusal("make the table anew: its column id must compare byte by byte", source))
            }
            Err(error) => Err(error),
        }
    }

    fn has_tombstone(&mut self, id: &KeyId) -> Result<bool, StoreError> {
        let last = self.load(&KeyMeta { id: id.clone(), created: TOMBSTONE_CREATED })?;
        Ok(last.is_some_and(|record| record.is_tombstone()))
    }

    fn find(
        &mut self,
        condition: &str,
        parameters: impl Params,
        id: &KeyId,
    ) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.thaw()?;
        let found = self
            .connection
            .prepare_cached(&format!("{SELECT}{condition}"))
            .and_then(|mut statement| statement.query_row(parameters, read).optional())
            .map_err(|error| failure(LOADING, &self.file, error))?;
        match found {
            None => Ok(None),
            Some(Some(row)) if row.key.id == *id => row.record.map(Some),
            Some(_) => {
                let source = "its column created is not stored as YYYY-MM-DD HH:MM:SS".into();
                Err(StoreError::Corrupt { id: id.to_string(), created: None, source })
            }
        }
    }

    /// Opens a frozen file again, to see what others with more rights wrote since.
    pub(super) fn thaw(&mut self) -> Result<(), StoreError> {
        if self.frozen {
            *self = Self::open(&self.file, self.busy_timeout)?;
        }
        Ok(())
    }

    fn refusal(&self, advice: &'static str, source: String) -> StoreError {
        permanent(STORING, &in_file(&self.file), advice, source)
    }
}

/// Reads a row that was selected by [`SELECT`]; `None` when it has no key that a look-up could find it by.
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Option<KeyRow>> {
    let (ValueRef::Text(id), Some(created)) = (row.get_ref(0)?, row.get(1)?) else { return Ok(None) };
    let Ok(id) = str::from_utf8(id) else { return Ok(None) };
    let key = KeyMeta { id: KeyId::new(id), created };
    let record = match row.get_ref(2)? {
        ValueRef::Text(text) | ValueRef::Blob(text) => parse_row(&key, text),
        other => Err(corrupt(&key, format!("its column key_record holds {}", other.data_type()))),
    };
    Ok(Some(KeyRow { key, record }))
}

/// Creates the file for its owner alone unless it exists; SQLite gives its side files the same mode.
fn create_private(file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Err(error) if !file.exists() => Err(error),
        _ => Ok(()),
    }
}

/// Opens the file, for reading only where it may not be written, and tells whether it has the table.
fn connect(file: &Path, busy_timeout: Duration) -> rusqlite::Result<(Connection, bool)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    // SQLite counts milliseconds in 32 bits.
    connection.busy_timeout(busy_timeout.min(Duration::from_millis(i32::MAX.unsigned_abs().into())))?;
    // A lost key row is lost data: commits reach the disk, on macOS its platters too. What is deleted is zeroed.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA secure_delete = ON")?;
    let has_table = connection.query_row(HAS_TABLE, [], |row| row.get(0))?;
    Ok((connection, has_table))
}

/// Opens a file whose side files can be neither opened nor created, as it is at this moment.
///
/// `None` when that would read past a journal, or does not help. A frozen connection sees no later change, so it serves
/// one call, see [Immutable files](https://sqlite.org/uri.html#uriimmutable).
fn immutable(file: &Path) -> Option<(Connection, bool, bool)> {
    let file = fs::canonicalize(file).ok()?;
    let has_side_file = ["-wal", "-journal"].iter().any(|suffix| {
        let mut name = file.clone().into_os_string();
        name.push(suffix);
        fs::metadata(name).is_ok_and(|side| side.len() > 0)
    });
    if has_side_file {
        return None;
    }
    let path: String = file
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' => char::from(*byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(format!("file:{path}?immutable=1"), flags).ok()?;
    let has_table = connection.query_row(HAS_TABLE, [], |row| row.get(0)).ok()?;
    Some((connection, has_table, true))
}

/// Lets readers go on while a row is written, by a [write-ahead log](https://sqlite.org/wal.html).
///
/// Where it is not to be had (nothing may be written, or another process uses the file at this moment, perhaps to
/// switch it too) the journal that the file has is as safe.
fn prefer_wal(connection: &Connection) -> rusqlite::Result<()> {
    match connection.pragma_update(None, "journal_mode", "wal") {
        Err(error) if is_denied(&error) || error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
        other => other,
    }
}

fn is_denied(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen))
}

/// Names the file, for errors.
pub(super) fn in_file(file: &Path) -> String {
    format!("database file {}", file.display())
}

fn cannot_create(file: &Path, error: io::Error) -> StoreError {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "create its folder first",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free disk space",
        _ => "choose a folder that the process may write to",
    };
    permanent(OPENING, &in_file(file), advice, error)
}

/// Sorts an error of SQLite into transient and permanent, and says what helps.
///
/// A full disk is permanent: it stays full until someone acts, and retries would only add load.
pub(super) fn failure(operation: &'static str, file: &Path, error: rusqlite::Error) -> StoreError {
    let (is_transient, advice) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            (true, Some("another process holds the database; let it finish, or raise the busy timeout"))
        }
        Some(ErrorCode::OutOfMemory) => (true, None),
        Some(ErrorCode::DiskFull) => (false, Some("free disk space")),
        Some(ErrorCode::SystemIoFailure) => (false, Some("free disk space, raise quotas, check the disk")),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            (false, Some("give the process write permission to the file and its folder"))
        }
        Some(ErrorCode::CannotOpen) => {
            (false, Some("give the process read and write permission to the file and its folder"))
        }
        Some(ErrorCode::NotADatabase) => (false, Some("name another file: this one is no SQLite database")),
        Some(ErrorCode::DatabaseCorrupt) => (false, Some("restore the file from a backup")),
        Some(ErrorCode::Unknown | ErrorCode::ConstraintViolation) => (false, Some(LAYOUT)),
        _ => (false, None),
    };
    let sort = if is_transient { transient } else { permanent };
    sort(operation, &in_file(file), advice, error)
}

#[cfg(test)]
mod tests {
    use super::super::sqlite_admin::{AFTER, ALL};
    use super::*;
    use rusqlite::ffi;

    #[test]
    fn a_full_disk_is_permanent_until_space_is_freed() {
        let full = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_FULL), None);
        let error = failure(STORING, Path::new("/keys.db"), full);
        assert!(matches!(error, StoreError::Permanent { advice: Some("free disk space"), .. }), "{error}");
    }

    #[test]
    fn look_ups_use_the_primary_key() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let table = Table::open(&folder.path().join("keys.db"), Duration::ZERO)?;
        for condition in [EXACT, LATEST, AFTER, ALL] {
            let sql = format!("EXPLAIN QUERY PLAN {SELECT}{condition}");
            let mut statement = table.connection.prepare(&sql)?;
            for parameter in 1..=statement.parameter_count() {
                statement.raw_bind_parameter(parameter, 0)?;
            }
            let plan: Vec<String> = statement.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>()?;
            assert!(matches!(&plan[..], [step] if step.starts_with("SEARCH")), "{condition}: {plan:?}");
        }
        Ok(())
    }
}
