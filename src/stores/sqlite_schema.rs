//! How the SQLite table should be, and how it is. Blocking, as all of `Table`.

use async_trait::async_trait;
use rusqlite::{Connection, MAIN_DB};

use super::sqlite_table::{CREATE, INDEX, Table, failure};
use super::{Change, Difference, SchemaAdmin, Severity, SqliteMetastore, StoreError, TableReport};

const INSPECTING: &str = "looking at the SQLite key table";
const MIGRATING: &str = "changing the SQLite key table";

const COLUMNS: &str =
    "SELECT name, upper(type), \"notnull\", dflt_value IS NOT NULL, pk FROM pragma_table_info('encryption_key')";

// Those that hold all rows, by their columns, with the collation of the id.
const INDEXES: &str = "SELECT list.\"unique\", group_concat(coalesce(part.name, '?'), ',' ORDER BY part.seqno), \
        max(CASE WHEN part.name = 'id' COLLATE NOCASE THEN part.coll END) \
    FROM pragma_index_list('encryption_key') AS list, pragma_index_xinfo(list.name) AS part \
    WHERE NOT list.partial AND part.key GROUP BY list.name";

const IS_STRICT: &str =
    "SELECT EXISTS (SELECT 1 FROM pragma_table_list WHERE name = 'encryption_key' COLLATE NOCASE AND strict)";

const LOST: &str = "SELECT count(*) FROM encryption_key WHERE datetime(created) IS NOT created";

const UNIQUE: &str = "CREATE UNIQUE INDEX encryption_key_id_created ON encryption_key(id, created)";

/// What cannot be changed in place: SQLite alters neither types nor collations.
const ANEW: &str = "make the table anew: rename it, make it by the schema, and INSERT INTO encryption_key SELECT id, created, \
    key_record FROM the old one";

/// What the file tells about its table.
struct Found {
    columns: Vec<Column>,
    indexes: Vec<Index>,
    is_strict: bool,
    is_file: bool,
    may_write: bool,
    journal: String,
    /// Rows that no look-up finds.
    lost: i64,
}

struct Column {
    name: String,
    kind: String,
    is_required: bool,
    has_default: bool,
    is_key: bool,
}

struct Index {
    is_unique: bool,
    columns: String,
    /// How it compares ids, where it holds them.
    collation: Option<String>,
}

#[async_trait]
impl SchemaAdmin for SqliteMetastore {
    fn schema(&self) -> String {
        format!("{CREATE};\n{INDEX};\n")
    }

    async fn inspect(&self) -> Result<TableReport, StoreError> {
        self.run(INSPECTING, |table| Ok(table.find_out()?.report(&table.file.display().to_string()))).await
    }

    async fn apply(&self) -> Result<Vec<String>, StoreError> {
        self.run(MIGRATING, Table::migrate).await
    }
}

impl Table {
    fn find_out(&mut self) -> Result<Found, StoreError> {
        if self.frozen {
            *self = Self::look(&self.file, self.busy_timeout)?;
        }
        let is_file = !matches!(self.file.try_exists(), Ok(false));
        find_out(&self.connection, is_file).map_err(|error| failure(INSPECTING, &self.file, error))
    }

    fn migrate(&mut self) -> Result<Vec<String>, StoreError> {
        let before = self.find_out()?;
        let mut done = Vec::new();
        if !before.is_file {
            done.push(format!("made the file {}", self.file.display()));
        }
        if !before.exists() {
            done.push("made the table encryption_key".to_owned());
        }
        if !before.has_index("created") {
            done.push("made the index encryption_key_created".to_owned());
        }
        if !done.is_empty() {
            *self = Self::open(&self.file, self.busy_timeout)?;
            self.connection.execute_batch(INDEX).map_err(|error| failure(MIGRATING, &self.file, error))?;
        }
        Ok(done)
    }
}

fn find_out(connection: &Connection, is_file: bool) -> rusqlite::Result<Found> {
    let columns: Vec<Column> = connection
        .prepare(COLUMNS)?
        .query_map([], |row| {
            let (name, kind, is_required, has_default) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            Ok(Column { name, kind, is_required, has_default, is_key: row.get::<_, i64>(4)? > 0 })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let indexes = connection
        .prepare(INDEXES)?
        .query_map([], |row| Ok(Index { is_unique: row.get(0)?, columns: row.get(1)?, collation: row.get(2)? }))?
        .collect::<rusqlite::Result<_>>()?;
    let has_created = columns.iter().any(|column| is(&column.name, "created"));
    Ok(Found {
        columns,
        indexes,
        is_strict: connection.query_row(IS_STRICT, [], |row| row.get(0))?,
        is_file,
        may_write: !connection.is_readonly(MAIN_DB)?,
        journal: connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?,
        lost: if has_created { connection.query_row(LOST, [], |row| row.get(0))? } else { 0 },
    })
}

impl Found {
    fn exists(&self) -> bool {
        !self.columns.is_empty()
    }

    fn has_index(&self, first: &str) -> bool {
        self.indexes.iter().any(|index| index.columns.split(',').next().is_some_and(|name| is(name, first)))
    }

    /// Compares with the schema: pure.
    fn report(&self, file: &str) -> TableReport {
        let version = rusqlite::version();
        let fact = if self.is_file {
            format!("SQLite {version}, file {file}, journal {}", self.journal)
        } else {
            format!("SQLite {version}; there is no file {file}")
        };
        let mut differences = Vec::new();
        if self.exists() {
            self.compare_columns(&mut differences);
            self.compare_indexes(&mut differences);
            self.compare_rows(&mut differences);
        }
        if self.is_file && !self.may_write {
            let about = "this user may not write the file: it can decrypt, and encrypt until a key expires";
            let change = "give the user write permission to the file and its folder";
            differences.push(difference(Severity::Risky, about, Some(change)));
        }
        TableReport { exists: self.exists(), differences, facts: vec![fact] }
    }

    fn compare_columns(&self, found: &mut Vec<Difference>) {
        for name in ["id", "created", "key_record"] {
            let Some(column) = self.columns.iter().find(|column| is(&column.name, name)) else {
                let about = format!("there is no column {name}; it holds what other columns cannot");
                found.push(difference(Severity::Broken, about, Some(ANEW)));
                continue;
            };
            if self.is_strict && !matches!(column.kind.as_str(), "TEXT" | "ANY") {
                let about =
                    format!("the table is STRICT and its column {name} is {}, which takes no text", column.kind);
                found.push(difference(Severity::Broken, about, Some(ANEW)));
            }
            if !column.is_required {
                let about = format!("the column {name} may be NULL; nothing that writes keys writes such a row");
                found.push(difference(Severity::Harmless, about, None));
            }
        }
        let is_ours = |name: &str| ["id", "created", "key_record"].iter().any(|ours| is(name, ours));
        for column in self.columns.iter().filter(|column| !is_ours(&column.name)) {
            let fills_itself = column.is_key && column.kind == "INTEGER";
            if column.is_required && !column.has_default && !fills_itself {
                let about =
                    format!("the column {} must be given and has no default: no key can be stored", column.name);
                found.push(difference(Severity::Broken, about, Some(ANEW)));
            }
        }
    }

    fn compare_indexes(&self, found: &mut Vec<Difference>) {
        let is_unique = |index: &&Index| {
            let columns = index.columns.to_ascii_lowercase();
            index.is_unique && (columns == "id,created" || columns == "created,id")
        };
        match self.indexes.iter().find(is_unique) {
            None => {
                let about = "no primary key or unique index is over (id, created): two writers could store different keys in \
                    one place, so nothing is stored";
                found.push(difference(Severity::Broken, about, Some(UNIQUE)));
            }
            Some(index) if index.collation.as_ref().is_some_and(|collation| !is(collation, "BINARY")) => {
                let about = "the collation of the column id calls different ids equal, such as alice and Alice; of two such ids \
                    only one can have a key of the same time, and the other cannot encrypt then";
                found.push(difference(Severity::Risky, about, Some(ANEW)));
            }
            Some(_) if !self.has_index("id") => {
                let about = "no index begins with id: every look-up reads the whole table";
                found.push(difference(Severity::Harmless, about, Some(UNIQUE)));
            }
            Some(_) => {}
        }
        if !self.has_index("created") {
            let about = "there is no index on created: only operators who look for old keys by SQL miss it";
            let change = Some(Change { statement: INDEX.to_owned(), is_safe: true });
            found.push(Difference { about: about.to_owned(), severity: Severity::Harmless, change });
        }
    }

    fn compare_rows(&self, found: &mut Vec<Difference>) {
        if self.lost > 0 {
            let about = format!(
                "in {} of the rows created is not stored as YYYY-MM-DD HH:MM:SS: no look-up finds them, nor do lists and copies \
                 have them",
                self.lost
            );
            let change = "UPDATE encryption_key SET created = datetime(created) WHERE datetime(created) IS NOT created, where \
                they hold another form of the time in UTC";
            found.push(difference(Severity::Risky, about, Some(change)));
        }
    }
}

/// Tells whether two names are one: SQLite compares names without case.
fn is(name: &str, other: &str) -> bool {
    name.eq_ignore_ascii_case(other)
}

fn difference(severity: Severity, about: impl Into<String>, change: Option<&str>) -> Difference {
    let change = change.map(|statement| Change { statement: statement.to_owned(), is_safe: false });
    Difference { about: about.into(), severity, change }
}
