//! The store in MySQL or MariaDB: one table, shared by any number of processes and of implementations of the format.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::admin::{LISTING, REPLACING, REVOKING, SHREDDING, edit, list, shred, versions};
use super::facts::{ServerFacts, server};
use super::options::MysqlOptions;
use super::pool::Pool;
use super::report::create;
use super::schema::{INSPECTING, MIGRATING, apply, check, inspect};
use super::table::{LOADING, STORING, load, load_latest, store};
use super::tls::choose_provider;
use crate::ids::{KeyId, KeyMeta};
use crate::record::EnvelopeKeyRecord;
use crate::stores::place::permanent;
use crate::stores::rows::{check_tombstone, check_wrapped_key, revoke, rewrap};
use crate::stores::{
    KeyAdmin, KeyRow, Metastore, Replacement, Revocation, SchemaAdmin, StoreError, StoreOutcome, TableReport,
};

const CONNECTING: &str = "connecting to MySQL";

/// A metastore in MySQL or MariaDB; cloning shares it.
///
/// Needs a tokio runtime, and may be used from several: each has connections of its own. It needs the rights `SELECT` and
/// `INSERT` on the table; operators also `UPDATE` and `DELETE`. Calls
/// take one round trip to the server, inserts two, a call on a connection that was idle for a second one more, and a new
/// connection some five.
///
/// The table is the one that all implementations share, `encryption_key (id, created, key_record)`, see
/// [`SchemaAdmin`]. [`connect`](Self::connect) looks at it, refuses one that cannot work, and logs what else it finds.
///
/// # Creation times
/// `created` holds the digits of UTC, `YYYY-MM-DD HH:MM:SS`, whatever the time zone of the server is: it is sent as text,
/// and the time zone of sessions is left alone, so that all implementations find each other's rows. That works for
/// `DATETIME`, which this crate makes, and for `TIMESTAMP`, which others make, with these limits of the latter:
/// * it ends at 2038-01-19 03:14:07 in the server's time zone; later keys are refused.
/// * where clocks are put forward in spring, the digits of one hour are no time; a key that is created while clocks of UTC
///   show them is refused, and can be created an hour later. Sessions of other programs that are not strict have the
///   server move such digits to the end of the hour, where no look-up finds the row; this store tells it as corrupt.
/// * where clocks are put back in autumn nothing happens: digits that stand for two instants stand for the same one each
///   time.
///
/// # Ids
/// Ids are compared byte by byte, whatever the collation of the column is. Where the column itself takes two ids for the
/// same (`alice` and `Alice`, or `alice` and `alice` with a space behind it), they cannot share a creation time; the second
/// one is refused with an error that says so, and never mistaken for the first.
///
/// # Sessions
/// `sql_mode` of every session is strict, whatever the server's is: what cannot be stored as it is is refused. `autocommit`
/// is on and the isolation level is `REPEATABLE READ`.
///
/// # Several servers
/// Hosts are tried in the order that the address names them. A server that only reads (error 1290, 1836) is left at once:
/// the next call connects anew. Clusters that take writes on several servers at a time must be used through one of
/// them, or shredding may miss a row that is on its way between them.
///
/// # Tested with
/// MariaDB 10.11. MySQL 5.7 to 9 speak the same protocol and the same statements; they are not part of the tests.
///
/// # Cancel safety
/// A call that is dropped has happened whole or not at all, or, while shredding, up to some point: shredding again goes
/// on. Its connection is closed and serves no other call.
///
/// # Security
/// Rows hold wrapped keys only. Passwords appear in no error, no log and no `Debug` text. How connections are encrypted is
/// up to [`TlsSettings`](crate::stores::TlsSettings); files that they name are read for each new connection. Statements send
/// values apart from their text.
///
/// # Examples
/// ```no_run
/// use keyward::stores::MysqlMetastore;
///
/// # async fn story() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MysqlMetastore::connect("mysql://keyward:s3cret@db.example/keys".parse()?).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MysqlMetastore {
    pool: Arc<Pool>,
    facts: Arc<ServerFacts>,
}

impl MysqlMetastore {
    /// Connects once and makes sure that the table is there and works.
    ///
    /// # Errors
    /// [`StoreError::Permanent`] when the server refuses (password, certificate, rights), when there is no table, or when it
    /// cannot work; it says what helps. [`StoreError::Transient`] when no server answers.
    pub async fn connect(options: MysqlOptions) -> Result<Self, StoreError> {
        let mut store = Self::connect_for_schema(options).await?;
        store.facts = Arc::new(check(&mut store.pool.get(CONNECTING).await?).await?);
        Ok(store)
    }

    /// Connects once, whether there is a table or not, for [`SchemaAdmin`].
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect) that are not about the table.
    pub async fn connect_for_schema(options: MysqlOptions) -> Result<Self, StoreError> {
        if options.server.database.is_none() {
            let (place, advice) =
                (options.server.place("mysql"), "name the database that has the table: mysql://…/DATABASE");
            return Err(permanent(CONNECTING, &place, advice, "the address names no database"));
        }
        choose_provider();
        let pool = Arc::new(Pool::new(options));
        let facts = server(&mut pool.get(CONNECTING).await?).await?;
        Ok(Self { pool, facts: Arc::new(facts) })
    }
}

impl fmt::Debug for MysqlMetastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlMetastore").field("place", &self.pool.place()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Metastore for MysqlMetastore {
    async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        load(&mut self.pool.get(LOADING).await?, key).await
    }

    async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        load_latest(&mut self.pool.get(LOADING).await?, id).await
    }

    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        let key = KeyMeta { id: id.clone(), created: record.created };
        store(&mut self.pool.get(STORING).await?, &key, record).await
    }

    /// `sql`, as the metrics of other implementations have it for all SQL databases.
    fn kind(&self) -> &'static str {
        "sql"
    }

    fn place(&self) -> &str {
        self.pool.place()
    }
}

#[async_trait]
impl KeyAdmin for MysqlMetastore {
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        list(&mut self.pool.get(LISTING).await?, after, limit).await
    }

    async fn versions(&self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
        versions(&mut self.pool.get(LISTING).await?, id).await
    }

    async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, StoreError> {
        let mut connection = self.pool.get(REVOKING).await?;
        edit(&mut connection, key, Revocation::NotFound, |text| revoke(key, text)).await
    }

    async fn shred(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError> {
        check_tombstone(SHREDDING, tombstone)?;
        shred(&mut self.pool.get(SHREDDING).await?, id, tombstone).await
    }

    async fn replace_wrapped_key(&self, key: &KeyMeta, old: &[u8], new: &[u8]) -> Result<Replacement, StoreError> {
        check_wrapped_key(REPLACING, new)?;
        let mut connection = self.pool.get(REPLACING).await?;
        edit(&mut connection, key, Replacement::NotFound, |text| rewrap(key, text, old, new)).await
    }
}

/// Making the table takes the right `CREATE`, its index `INDEX`, looking at it `SELECT` on it.
#[async_trait]
impl SchemaAdmin for MysqlMetastore {
    fn schema(&self) -> String {
        create(&self.facts)
    }

    async fn inspect(&self) -> Result<TableReport, StoreError> {
        inspect(&mut self.pool.get(INSPECTING).await?).await
    }

    async fn apply(&self) -> Result<Vec<String>, StoreError> {
        apply(&mut self.pool.get(MIGRATING).await?).await
    }
}
