//! Loads and inserts.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_postgres::{Error, Row};

use super::failures::{CONNECTING, INSPECTING, LOADING, NO_TABLE, STORING};
use super::options::PostgresOptions;
use super::pool::{Lease, Pool};
use super::values::{Columns, Created, FIRST, LAST, Param};
use crate::error::StoreError;
use crate::ids::{KeyId, KeyMeta};
use crate::record::{EnvelopeKeyRecord, TOMBSTONE_CREATED};
use crate::stores::place::permanent;
use crate::stores::rows::{is_buried, parse_row};
use crate::stores::{KeyRow, Metastore, Severity, StoreOutcome};

// Ids are compared byte by byte whatever the column's collation: by the first condition, which an index serves, and by the
// second.
pub(super) const SELECT: &str = "SELECT id::text, created, key_record::text FROM encryption_key ";
pub(super) const ID: &str = "WHERE id = $1::text AND id::text COLLATE \"C\" = $1::text ";
// What the column's collation calls equal.
const SAME: &str = "WHERE id = $1::text ";
// An id has few versions, and the primary key finds them. Keys that were made in the same minute share a creation time: an
// index on that alone finds them all, and a plan from when the table was small would go by it. The sum keeps it out.
const EXACT: &str = "AND created + INTERVAL '0' = $2";
const LATEST: &str = "ORDER BY created + INTERVAL '0' DESC LIMIT 1";
const INSERT: &str =
    "INSERT INTO encryption_key (id, created, key_record) VALUES ($1, $2, $3) ON CONFLICT (id, created) DO NOTHING";
/// How often a change is tried that others come in between of.
pub(super) const ATTEMPTS: u32 = 16;

pub(super) const UNCHANGED: &str =
    "look for row security, triggers and rules on the table: the server takes the statement and changes nothing";

const WITHDRAW: &str = "DELETE FROM encryption_key ";

/// A metastore in a table of PostgreSQL; cloning shares its connections.
///
/// The table is `encryption_key`, found by the `search_path`. Its `key_record` may be text or JSON, its `created` a
/// timestamp with or without a time zone; one without holds digits of UTC, see [`docs/metastores.md`] of the source.
/// `keyward migrate` makes the table.
///
/// Each call is one round trip to the server; statements are prepared once per connection. The rights that
/// encrypting needs are `SELECT` and `INSERT`.
///
/// # Cancel safety
/// A call that is dropped has happened whole or not at all; its connection is closed.
///
/// # Security
/// Rows hold wrapped keys only. The server's certificate is verified unless [`SqlServer::tls`] says otherwise.
///
/// # Examples
/// ```no_run
/// use keyward::stores::PostgresMetastore;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresMetastore::connect("postgres://keyward:secret@db.example/keys".parse()?).await?;
/// # Ok(())
/// # }
/// ```
///
/// [`docs/metastores.md`]: https://docs.rs/crate/keyward/latest/source/docs/metastores.md
/// [`SqlServer::tls`]: crate::stores::SqlServer::tls
#[derive(Clone)]
pub struct PostgresMetastore {
    pub(super) pool: Arc<Pool>,
    pub(super) columns: Columns,
}

impl PostgresMetastore {
    /// Connects, and makes sure that the table can be used.
    ///
    /// # Errors
    /// [`StoreError::Permanent`] when the server refuses or the table is missing or differs so that it cannot work, with
    /// what to do; [`StoreError::Transient`] and [`StoreError::Timeout`] when the server does not answer.
    pub async fn connect(options: PostgresOptions) -> Result<Self, StoreError> {
        let mut store = Self::connect_for_schema(options).await?;
        let table = store.look().await?;
        let refused = |advice: Option<&'static str>, why: String| permanent(INSPECTING, &store.pool.place, advice, why);
        if !table.exists() {
            return Err(refused(Some(NO_TABLE), "there is no table encryption_key".to_owned()));
        }
        if let Some(broken) = table.report().differences.into_iter().find(|found| found.severity == Severity::Broken) {
            let advice = "`keyward migrate --store …` says how the table should be";
            return Err(refused(Some(advice), broken.about));
        }
        store.columns = table.columns();
        Ok(store)
    }

    /// Connects for [`SchemaAdmin`](crate::stores::SchemaAdmin) alone: there may be no table yet.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), but for the table.
    pub async fn connect_for_schema(options: PostgresOptions) -> Result<Self, StoreError> {
        let pool = Pool::new(&options).await?;
        pool.get(CONNECTING).await?.finish(CONNECTING, Ok(()))?;
        Ok(Self { pool: Arc::new(pool), columns: Columns::default() })
    }

    /// Returns the first row of an answer, which is of exactly this id.
    async fn find(
        &self,
        condition: &str,
        id: &KeyId,
        params: &[Param<'_>],
    ) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        let lease = self.pool.get(LOADING).await?;
        let answer = lease.query(&format!("{SELECT}{ID}{condition}"), &self.columns, params).await;
        match lease.finish(LOADING, answer.and_then(|rows| rows.first().map(read).transpose()))? {
            None => Ok(None),
            Some((found, Some(row))) if found == id.as_str() => row.record.map(Some),
            Some(_) => {
                let source =
                    "its column created is infinite, has a fraction of a second, or lies outside the years 1 to 9999";
                Err(StoreError::Corrupt { id: id.to_string(), created: None, source: source.into() })
            }
        }
    }

    /// Inserts a row unless its key exists, then looks for a tombstone and takes the row back where there is one.
    ///
    /// Whoever shreds writes the tombstone first and then deletes all other rows. So either the tombstone was there when it was
    /// looked for, and nobody is told that the row was stored; or it came later, and the row is among those deleted. The look
    /// is sent along with the insert, over the same connection; it begins once the insert is committed.
    async fn insert(&self, lease: &Lease<'_>, key: &KeyMeta, record: &EnvelopeKeyRecord) -> Result<Inserted, Error> {
        let text = record.to_json();
        let place = [Param::Text(key.id.as_str()), Param::Created(key.created)];
        let row = [place[0], place[1], Param::Record(&text)];
        let (look, grave) = (format!("{SELECT}{ID}{EXACT}"), [place[0], Param::Created(TOMBSTONE_CREATED)]);
        for _ in 0..ATTEMPTS {
            let (changed, found) = lease.execute_then_query((INSERT, &row), (&look, &grave), &self.columns).await?;
            let inserted = changed == 1;
            if inserted && is_buried(record) {
                return Ok(Inserted::Stored);
            }
            if is_tombstone(&found)? {
                if inserted {
                    // Without the right to delete it stays, and harms nobody: no record is encrypted under it.
                    let _ = lease.execute(&format!("{WITHDRAW}{ID}{EXACT}"), &self.columns, &place).await;
                }
                return Ok(Inserted::Duplicate);
            }
            if inserted {
                return Ok(Inserted::Stored);
            }
            let rows = lease.query(&format!("{SELECT}{SAME}{EXACT}"), &self.columns, &place).await?;
            if let Some((id, _)) = rows.first().map(read).transpose()? {
                return Ok(if id == key.id.as_str() { Inserted::Duplicate } else { Inserted::Collision });
            }
            // What was in the way is gone: it was shredded, or somebody deleted it.
        }
        Ok(Inserted::Nothing)
    }
}

/// Tells whether the row at the creation time of tombstones is one.
fn is_tombstone(rows: &[Row]) -> Result<bool, Error> {
    let Some((_, row)) = rows.first().map(read).transpose()? else { return Ok(false) };
    Ok(row.is_some_and(|row| row.record.as_ref().is_ok_and(is_buried)))
}

/// What became of an insert.
enum Inserted {
    Stored,
    Duplicate,
    /// The row of another id is in the way.
    Collision,
    /// The server takes the statement, and there is no row.
    Nothing,
}

#[async_trait]
impl Metastore for PostgresMetastore {
    async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        if !(FIRST..=LAST).contains(&key.created) {
            return Ok(None); // no such row can have been stored
        }
        self.find(EXACT, &key.id, &[Param::Text(key.id.as_str()), Param::Created(key.created)]).await
    }

    async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.find(LATEST, id, &[Param::Text(id.as_str())]).await
    }

    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        let key = KeyMeta { id: id.clone(), created: record.created };
        let refused = |advice, why: &str| permanent(STORING, &self.pool.place, advice, format!("key {key} {why}"));
        if !(FIRST..=LAST).contains(&key.created) {
            return Err(refused("check the clock", "was created outside the years 1 to 9999"));
        }
        let lease = self.pool.get(STORING).await?;
        let answer = self.insert(&lease, &key, record).await;
        match lease.finish(STORING, answer)? {
            Inserted::Stored => Ok(StoreOutcome::Stored),
            Inserted::Duplicate => Ok(StoreOutcome::Duplicate),
            Inserted::Collision => Err(refused(
                "give the column id a collation that compares byte by byte: keyward migrate --store … says more",
                "collides with another id of the same time",
            )),
            Inserted::Nothing => Err(refused(UNCHANGED, "is not there after it was inserted")),
        }
    }

    /// `sql`, as the metrics of other implementations have it for all SQL databases.
    fn kind(&self) -> &'static str {
        "sql"
    }

    fn place(&self) -> &str {
        &self.pool.place
    }
}

/// Reads a row that was selected by [`SELECT`]: its id, and the row unless no look-up finds its creation time.
pub(super) fn read(row: &Row) -> Result<(String, Option<KeyRow>), Error> {
    let (id, created, text): (String, Created, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let row = created.0.map(|created| {
        let key = KeyMeta { id: KeyId::new(&id), created };
        KeyRow { record: parse_row(&key, text.as_bytes()), key }
    });
    Ok((id, row))
}

impl fmt::Debug for PostgresMetastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresMetastore").field("place", &self.pool.place).finish_non_exhaustive()
    }
}
