//! How the table should be, and how it is.

use async_trait::async_trait;
use postgres_types::Type;
use tokio_postgres::{Error, Row};

use super::failures::{INSPECTING, MIGRATING};
use super::pool::Lease;
use super::store::PostgresMetastore;
use super::values::Columns;
use crate::error::StoreError;
use crate::stores::{Change, Difference, SchemaAdmin, Severity, TableReport};

// An id is compared byte by byte, which is also the fastest. JSONB is what all implementations read and write: the one in
// Rust takes no other.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS encryption_key (
    id VARCHAR(255) COLLATE \"C\" NOT NULL,
    created TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    key_record JSONB NOT NULL,
    PRIMARY KEY (id, created)
)";
const INDEX: &str = "CREATE INDEX IF NOT EXISTS encryption_key_created ON encryption_key (created)";

/// Keeps two programs that make the table at once from meeting halfway; the number is of no meaning.
const LOCK: &str = "SELECT pg_advisory_xact_lock(6073472871342165585)";

const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, NULL), format_type(atttypid, atttypmod), attnotnull, \
    coalesce(collisdeterministic, true) \
    FROM pg_attribute LEFT JOIN pg_collation ON pg_collation.oid = attcollation \
    WHERE attrelid = to_regclass('encryption_key') AND attnum > 0 AND NOT attisdropped";

// Those that hold all rows, by their columns.
const INDEXES: &str = "SELECT indisunique, array_to_string(array( \
        SELECT coalesce(attname::text, '?') FROM unnest(indkey::int2[]) WITH ORDINALITY AS part(number, place) \
        LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = number \
        WHERE place <= indnkeyatts ORDER BY place), ',') \
    FROM pg_index WHERE indrelid = to_regclass('encryption_key') AND indisvalid AND indpred IS NULL";

const SERVER: &str = "SELECT current_setting('server_version'), current_setting('server_encoding'), \
    current_setting('fsync'), current_setting('synchronous_commit'), pg_is_in_recovery(), current_user::text, \
    coalesce(has_table_privilege(to_regclass('encryption_key'), 'SELECT'), true), \
    coalesce(has_table_privilege(to_regclass('encryption_key'), 'INSERT'), true)";

/// What the server tells about the table and about itself.
pub(super) struct Table {
    columns: Vec<Column>,
    indexes: Vec<Index>,
    server: Server,
}

struct Column {
    name: String,
    kind: String,
    full_kind: String,
    is_required: bool,
    is_deterministic: bool,
}

struct Index {
    is_unique: bool,
    columns: String,
}

struct Server {
    version: String,
    encoding: String,
    fsync: String,
    synchronous_commit: String,
    is_replica: bool,
    user: String,
    may_select: bool,
    may_insert: bool,
}

impl PostgresMetastore {
    /// Looks at the table and the server.
    pub(super) async fn look(&self) -> Result<Table, StoreError> {
        let lease = self.pool.get(INSPECTING).await?;
        let answer = self.ask(&lease).await;
        lease.finish(INSPECTING, answer)
    }

    async fn ask(&self, lease: &Lease<'_>) -> Result<Table, Error> {
        let column = |row: &Row| {
            let (name, kind) = (row.try_get(0)?, row.try_get(1)?);
            let (full_kind, is_required, is_deterministic) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
            Ok(Column { name, kind, full_kind, is_required, is_deterministic })
        };
        let index = |row: &Row| Ok(Index { is_unique: row.try_get(0)?, columns: row.try_get(1)? });
        let columns =
            lease.query(COLUMNS, &self.columns, &[]).await?.iter().map(column).collect::<Result<_, Error>>()?;
        let indexes =
            lease.query(INDEXES, &self.columns, &[]).await?.iter().map(index).collect::<Result<_, Error>>()?;
        let rows = lease.query(SERVER, &self.columns, &[]).await?;
        let row = rows.first().expect("a query without FROM has one row");
        let server = Server {
            version: row.try_get(0)?,
            encoding: row.try_get(1)?,
            fsync: row.try_get(2)?,
            synchronous_commit: row.try_get(3)?,
            is_replica: row.try_get(4)?,
            user: row.try_get(5)?,
            may_select: row.try_get(6)?,
            may_insert: row.try_get(7)?,
        };
        Ok(Table { columns, indexes, server })
    }
}

#[async_trait]
impl SchemaAdmin for PostgresMetastore {
    fn schema(&self) -> String {
        format!("{CREATE};\n{INDEX};\n")
    }

    async fn inspect(&self) -> Result<TableReport, StoreError> {
        Ok(self.look().await?.report())
    }

    async fn apply(&self) -> Result<Vec<String>, StoreError> {
        let before = self.look().await?;
        let mut done = Vec::new();
        let mut statements = Vec::new();
        if !before.exists() {
            statements.push(CREATE);
            done.push("made the table encryption_key".to_owned());
        }
        if !before.has_index("created") {
            statements.push(INDEX);
            done.push("made the index encryption_key_created".to_owned());
        }
        if !statements.is_empty() {
            let lease = self.pool.get(MIGRATING).await?;
            let answer = lease
                .batch(&format!("BEGIN; SET LOCAL statement_timeout = 0; {LOCK}; {}; COMMIT", statements.join("; ")))
                .await;
            lease.finish(MIGRATING, answer)?;
        }
        Ok(done)
    }
}

impl Table {
    pub(super) fn exists(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Returns the types of the columns, for values that are sent to them.
    pub(super) fn columns(&self) -> Columns {
        let usual = Columns::default();
        let created = self.column("created").and_then(|column| time_type(&column.kind));
        let record = self.column("key_record").and_then(|column| text_type(&column.kind));
        Columns { created: created.unwrap_or(usual.created), record: record.unwrap_or(usual.record) }
    }

    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    fn has_index(&self, first: &str) -> bool {
        self.indexes.iter().any(|index| index.columns.split(',').next() == Some(first))
    }

    /// Compares with the schema: pure.
    pub(super) fn report(&self) -> TableReport {
        let exists = self.exists();
        let Server { version, encoding, .. } = &self.server;
        let facts = vec![format!("PostgreSQL {version}, encoding {encoding}, as user {}", self.server.user)];
        let mut differences = Vec::new();
        if exists {
            self.compare_columns(&mut differences);
            self.compare_indexes(&mut differences);
            self.compare_rights(&mut differences);
        }
        self.compare_server(&mut differences);
        TableReport { exists, differences, facts }
    }

    fn compare_columns(&self, found: &mut Vec<Difference>) {
        let wanted: [(&str, Fits, &str); 3] = [
            (
                "id",
                |kind| text_type(kind).is_some_and(|kind| ![Type::JSON, Type::JSONB].contains(&kind)),
                "VARCHAR(255)",
            ),
            ("created", |kind| time_type(kind).is_some(), "TIMESTAMPTZ"),
            ("key_record", |kind| text_type(kind).is_some(), "JSONB"),
        ];
        for (name, fits, kind) in wanted {
            let Some(column) = self.column(name) else {
                found.push(broken(format!("there is no column {name}; it holds what other columns cannot"), None));
                continue;
            };
            if !fits(&column.kind) {
                let about = format!(
                    "the column {name} is {}, in which no value of its kind can be looked up",
                    column.full_kind
                );
                let change = format!("ALTER TABLE encryption_key ALTER COLUMN {name} TYPE {kind} USING …");
                found.push(broken(about, Some(change)));
            }
            if !column.is_required {
                let about = format!("the column {name} may be NULL; nothing that writes keys writes such a row");
                let change = format!("ALTER TABLE encryption_key ALTER COLUMN {name} SET NOT NULL");
                found.push(difference(Severity::Harmless, about, Some(change)));
            }
        }
        let Some(id) = self.column("id") else { return };
        if !id.is_deterministic {
            let about = "the collation of the column id calls different ids equal, such as alice and Alice; of two such ids \
                only one can have a key of the same time, and the other cannot encrypt then";
            let change = "ALTER TABLE encryption_key ALTER COLUMN id TYPE VARCHAR(255) COLLATE \"C\"";
            found.push(difference(Severity::Risky, about, Some(change.to_owned())));
        }
        if id.full_kind.strip_prefix("character varying(").and_then(|rest| rest.strip_suffix(')')?.parse().ok())
            < Some(255_u32)
            && id.full_kind.starts_with("character varying(")
        {
            let about = format!("the column id is {}: ids that are longer cannot be stored", id.full_kind);
            let change = "ALTER TABLE encryption_key ALTER COLUMN id TYPE VARCHAR(255)";
            found.push(difference(Severity::Risky, about, Some(change.to_owned())));
        }
        if self.column("created").is_some_and(|column| column.kind == "timestamp without time zone") {
            let about = "the column created has no time zone: it holds the digits of UTC when all programs that write it run, or \
                connect, in UTC; the reference implementation in Go writes those of its process";
            let change = "run other programs with TZ=UTC; or, when all rows are UTC digits, ALTER TABLE encryption_key ALTER \
                COLUMN created TYPE TIMESTAMPTZ USING created AT TIME ZONE 'UTC' (rewrites and locks the table)";
            found.push(difference(Severity::Harmless, about, Some(change.to_owned())));
        }
        if self.column("key_record").is_some_and(|column| column.kind == "json" || text_only(&column.kind)) {
            let about = "the column key_record is not JSONB: all implementations work, but for the one in Rust behind other \
                languages, which reads JSONB alone";
            let change = "ALTER TABLE encryption_key ALTER COLUMN key_record TYPE JSONB USING key_record::jsonb (rewrites and \
                locks the table)";
            found.push(difference(Severity::Harmless, about, Some(change.to_owned())));
        }
    }

    fn compare_indexes(&self, found: &mut Vec<Difference>) {
        if !self.indexes.iter().any(|index| index.is_unique && index.columns == "id,created") {
            let about = "no primary key or unique index is over (id, created): two writers could store different keys in one \
                place, and one of them would be lost";
            let change = "ALTER TABLE encryption_key ADD PRIMARY KEY (id, created)";
            found.push(broken(about.to_owned(), Some(change.to_owned())));
        }
        if !self.has_index("created") {
            let about = "there is no index on created: only operators who look for old keys by SQL miss it";
            let change = Some(Change { statement: INDEX.to_owned(), is_safe: true });
            found.push(Difference { about: about.to_owned(), severity: Severity::Harmless, change });
        }
    }

    fn compare_rights(&self, found: &mut Vec<Difference>) {
        let user = &self.server.user;
        let grant = |right| Some(format!("GRANT {right} ON encryption_key TO \"{user}\""));
        if !self.server.may_select {
            found.push(broken(format!("the user {user} may not read the table"), grant("SELECT, INSERT")));
        } else if !self.server.may_insert {
            let about = format!("the user {user} may not insert: it can decrypt, and encrypt until a key expires");
            found.push(difference(Severity::Risky, about, grant("INSERT")));
        }
    }

    fn compare_server(&self, found: &mut Vec<Difference>) {
        let Server { encoding, fsync, synchronous_commit, .. } = &self.server;
        if fsync != "on" {
            let about = "fsync is off: a crash of the server's machine may lose keys, and all data under them";
            let change = "ALTER SYSTEM SET fsync = on";
            found.push(difference(Severity::Risky, about, Some(change.to_owned())));
        }
        if synchronous_commit == "off" {
            let about = "synchronous_commit is off: a crash of the server may lose keys that were just made, and all data under them";
            let change = format!("ALTER ROLE \"{}\" SET synchronous_commit = on", self.server.user);
            found.push(difference(Severity::Risky, about, Some(change)));
        }
        if encoding != "UTF8" {
            let about =
                format!("the database has the encoding {encoding}: ids with characters that it lacks cannot be stored");
            found.push(difference(Severity::Risky, about, None));
        }
        if self.server.is_replica {
            let about = "the server is a replica: it can decrypt, and encrypt until a key expires";
            found.push(difference(Severity::Risky, about, Some("name the primary".to_owned())));
        }
    }
}

/// Tells whether a type is one that is known.
type Fits = fn(&str) -> bool;

fn broken(about: String, change: Option<String>) -> Difference {
    difference(Severity::Broken, about, change)
}

fn difference(severity: Severity, about: impl Into<String>, change: Option<String>) -> Difference {
    let change = change.map(|statement| Change { statement, is_safe: false });
    Difference { about: about.into(), severity, change }
}

fn time_type(kind: &str) -> Option<Type> {
    match kind {
        "timestamp with time zone" => Some(Type::TIMESTAMPTZ),
        "timestamp without time zone" => Some(Type::TIMESTAMP),
        _ => None,
    }
}

fn text_type(kind: &str) -> Option<Type> {
    match kind {
        "jsonb" => Some(Type::JSONB),
        "json" => Some(Type::JSON),
        "text" => Some(Type::TEXT),
        "character varying" => Some(Type::VARCHAR),
        _ => None,
    }
}

fn text_only(kind: &str) -> bool {
    matches!(kind, "text" | "character varying")
}
