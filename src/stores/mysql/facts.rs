//! What a MySQL or MariaDB server says of itself and of the table.

use mysql_async::{Row, Value};

use super::failures::{NO_TABLE, code};
use super::pool::Connection;
use crate::stores::StoreError;

/// A server, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServerFacts {
    /// As it says: `10.11.6-MariaDB-log`, `8.4.2`.
    pub(super) version: String,
    /// What sessions start with.
    pub(super) sql_mode: String,
    pub(super) time_zone: String,
    /// How many seconds its clocks are ahead of UTC in a January and in a July.
    pub(super) offsets: [i64; 2],
    pub(super) is_read_only: bool,
}

/// A table or a view.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TableFacts {
    pub(super) is_view: bool,
    pub(super) engine: String,
    pub(super) columns: Vec<Column>,
    pub(super) keys: Vec<Key>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Column {
    /// In lowercase, as everything here but `collation`.
    pub(super) name: String,
    /// `varchar`.
    pub(super) kind: String,
    /// `varchar(255)`.
    pub(super) full_kind: String,
    /// How many characters, or bytes, a text has at most.
    pub(super) length: Option<u64>,
    pub(super) collation: Option<String>,
    /// How many digits a second has behind its point.
    pub(super) fraction: u64,
    /// Whether a row can be inserted without it.
    pub(super) is_optional: bool,
    /// `on update current_timestamp()`.
    pub(super) extra: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) is_unique: bool,
    /// Names, and how much of each counts where not all does.
    pub(super) columns: Vec<(String, Option<u64>)>,
}

impl ServerFacts {
    pub(super) fn is_mariadb(&self) -> bool {
        self.version.to_ascii_lowercase().contains("mariadb")
    }

    /// Returns the version as a number: 8.0.17 as 80017.
    pub(super) fn number(&self) -> u32 {
        let digits = self.version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        digits.take(3).chain([0, 0, 0]).take(3).fold(0, |number: u32, part: u32| number * 100 + part.min(99))
    }

    /// Whether its clocks are put forward and back.
    pub(super) fn has_summer_time(&self) -> bool {
        self.offsets[0] != self.offsets[1]
    }
}

// The mode is that of the server: sessions of this crate set another.
const SERVER: &str = "SELECT VERSION(), @@GLOBAL.sql_mode, \
    IF(@@SESSION.time_zone = 'SYSTEM', CONCAT('SYSTEM (', @@GLOBAL.system_time_zone, ')'), @@SESSION.time_zone), \
    CAST(UNIX_TIMESTAMP('2026-01-15 12:00:00') AS CHAR), CAST(UNIX_TIMESTAMP('2026-07-15 12:00:00') AS CHAR), \
    CAST(@@GLOBAL.read_only AS CHAR)";

/// 2026-01-15 12:00:00 and 2026-07-15 12:00:00 in UTC.
const NOONS: [i64; 2] = [1_768_478_400, 1_784_116_800];

const TABLE: &str = "SELECT table_type, engine FROM information_schema.tables \
    WHERE table_schema = DATABASE() AND table_name = 'encryption_key'";

const COLUMNS: &str = "SELECT LOWER(column_name), LOWER(data_type), LOWER(column_type), \
    CAST(character_maximum_length AS CHAR), collation_name, CAST(datetime_precision AS CHAR), \
    CAST(is_nullable = 'YES' OR column_default IS NOT NULL OR extra <> '' AS CHAR), LOWER(extra) \
    FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'encryption_key' \
    ORDER BY ordinal_position";

const KEYS: &str = "SELECT index_name, CAST(non_unique AS CHAR), LOWER(column_name), CAST(sub_part AS CHAR) \
    FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = 'encryption_key' \
    ORDER BY index_name, seq_in_index";

// Asks for every right that loading takes.
const LOOK: &str = "SELECT id, created, key_record FROM encryption_key LIMIT 0";

/// Asks the server about itself.
pub(super) async fn server(connection: &mut Connection) -> Result<ServerFacts, StoreError> {
    let mut rows = texts(connection, SERVER).await?;
    let [version, sql_mode, time_zone, january, july, read_only] =
        rows.pop().and_then(|row| row.try_into().ok()).unwrap_or_default();
    let offset = |noon: i64, seen: Option<String>| {
        noon - seen.and_then(|seen| seen.split('.').next()?.parse().ok()).unwrap_or(noon)
    };
    Ok(ServerFacts {
        version: version.unwrap_or_default(),
        sql_mode: sql_mode.unwrap_or_default(),
        time_zone: time_zone.unwrap_or_default(),
        offsets: [offset(NOONS[0], january), offset(NOONS[1], july)],
        is_read_only: !matches!(read_only.as_deref(), Some("0" | "OFF") | None),
    })
}

/// Asks the server about the table; `None` when there is none.
///
/// # Errors
/// Also when the table may be there and the user has no right to see it.
pub(super) async fn table(connection: &mut Connection) -> Result<Option<TableFacts>, StoreError> {
    let mut described = texts(connection, TABLE).await?.pop();
    if described.is_none() {
        match connection.rows(LOOK, ()).await {
            Err(error) if code(&error) == Some(NO_TABLE) => return Ok(None),
            Err(error) => return Err(connection.failure(error)),
            // It was made this moment.
            Ok(_) => described = texts(connection, TABLE).await?.pop(),
        }
    }
    let Some([kind, engine]) = described.and_then(|row| <[_; 2]>::try_from(row).ok()) else {
        return Err(connection.hitch("the table comes and goes while it is looked for"));
    };
    let columns = texts(connection, COLUMNS).await?.into_iter().filter_map(column).collect();
    let mut keys: Vec<Key> = Vec::new();
    for row in texts(connection, KEYS).await? {
        let Ok([Some(name), non_unique, column, part]) = <[_; 4]>::try_from(row) else { continue };
        let column = (column.unwrap_or_default(), part.and_then(|part| part.parse().ok()));
        match keys.last_mut().filter(|key| key.name == name) {
            Some(key) => key.columns.push(column),
            None => keys.push(Key { name, is_unique: non_unique.as_deref() == Some("0"), columns: vec![column] }),
        }
    }
    let is_view = kind.is_some_and(|kind| kind.contains("VIEW"));
    Ok(Some(TableFacts { is_view, engine: engine.unwrap_or_default(), columns, keys }))
}

/// Makes sure that rows of the table can be read, so that a missing right is told by its name.
pub(super) async fn look(connection: &mut Connection) -> Result<(), StoreError> {
    connection.rows(LOOK, ()).await.map(|_| ()).map_err(|error| connection.failure(error))
}

fn column(row: Vec<Option<String>>) -> Option<Column> {
    let [name, kind, full_kind, length, collation, fraction, optional, extra] = row.try_into().ok()?;
    let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
    Some(Column {
        name: name?,
        kind: kind?,
        full_kind: full_kind?,
        length: number(length),
        collation,
        fraction: number(fraction).unwrap_or(0),
        is_optional: optional.as_deref() == Some("1"),
        extra: extra.unwrap_or_default(),
    })
}

/// Selects texts.
async fn texts(connection: &mut Connection, sql: &str) -> Result<Vec<Vec<Option<String>>>, StoreError> {
    let rows = connection.rows(sql, ()).await.map_err(|error| connection.failure(error))?;
    let text = |value| match value {
        Value::Bytes(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    };
    Ok(rows.into_iter().map(|row: Row| row.unwrap().into_iter().map(text).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_servers_write_them() {
        let cases = [
            ("10.11.6-MariaDB-0+deb12u1-log", true, 101_106),
            ("8.4.2", false, 80_402),
            ("8.0.mysql_aurora.3.07.1", false, 80_000),
            ("5.7.44-log", false, 50_744),
            ("", false, 0),
        ];
        for (version, is_mariadb, number) in cases {
            let server = ServerFacts { version: version.into(), ..ServerFacts::default() };
            assert_eq!((server.is_mariadb(), server.number()), (is_mariadb, number), "{version}");
        }
    }
}
