//! The store in MySQL or MariaDB: one table, shared by any number of processes and of implementations of the format.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use super::admin::{LISTING, REVOKING, SHREDDING, list, revoke, shred, versions};
use super::facts::{ServerFacts, server};
use super::options::MysqlOptions;
use super::pool::{Connection, Pool};
use super::report::create;
use super::schema::{INSPECTING, MIGRATING, apply, check, inspect};
use super::table::{LOADING, STORING, load, load_latest, store};
use super::tls::choose_provider;
use crate::error::BoxError;
use crate::ids::{KeyId, KeyMeta};
use crate::record::EnvelopeKeyRecord;
use crate::stores::driver_thread::DriverThread;
use crate::stores::place::permanent;
use crate::stores::rows::check_tombstone;
use crate::stores::{KeyAdmin, KeyRow, Metastore, Revocation, SchemaAdmin, StoreError, StoreOutcome, TableReport};

const CONNECTING: &str = "connecting to MySQL";

/// A metastore in MySQL or MariaDB; cloning shares it.
///
/// Works on every executor: connections are made and used on a thread of their own, named `keyward-mysql`, which ends with
/// the last clone. It needs the rights `SELECT` and `INSERT` on the table; operators also `UPDATE` and `DELETE`. Calls
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
    server: Arc<Server>,
}

/// What clones share.
struct Server {
    thread: DriverThread,
    pool: Arc<Pool>,
    facts: ServerFacts,
}

impl MysqlMetastore {
    /// Connects once and makes sure that the table is there and works.
    ///
    /// # Errors
    /// [`StoreError::Permanent`] when the server refuses (password, certificate, rights), when there is no table, or when it
    /// cannot work; it says what helps. [`StoreError::Transient`] when no server answers.
    pub async fn connect(options: MysqlOptions) -> Result<Self, StoreError> {
        Self::connect_and(options, |mut connection| async move { check(&mut connection).await }).await
    }

    /// Connects once, whether there is a table or not, for [`SchemaAdmin`].
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect) that are not about the table.
    pub async fn connect_for_schema(options: MysqlOptions) -> Result<Self, StoreError> {
        Self::connect_and(options, |mut connection| async move { server(&mut connection).await }).await
    }

    async fn connect_and<F: Future<Output = Result<ServerFacts, StoreError>> + Send + 'static>(
        options: MysqlOptions,
        look: impl FnOnce(Connection) -> F + Send + 'static,
    ) -> Result<Self, StoreError> {
        let place = options.server.place("mysql");
        let refusal = |advice, source: BoxError| permanent(CONNECTING, &place, advice, source);
        if options.server.database.is_none() {
            let advice = Some("name the database that has the table: mysql://…/DATABASE");
            return Err(refusal(advice, "the address names no database".into()));
        }
        choose_provider();
        let pool = Arc::new(Pool::new(options));
        let thread = DriverThread::start("keyward-mysql").map_err(|error| refusal(None, error.into()))?;
        let mut server = Server { thread, pool, facts: ServerFacts::default() };
        server.facts = server.call(CONNECTING, look).await?;
        Ok(Self { server: Arc::new(server) })
    }

    /// Has the driver's thread do `work` on a connection and waits for its answer.
    async fn call<R: Send + 'static, F: Future<Output = Result<R, StoreError>> + Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(Connection) -> F + Send + 'static,
    ) -> Result<R, StoreError> {
        self.server.call(operation, work).await
    }
}

impl Server {
    async fn call<R: Send + 'static, F: Future<Output = Result<R, StoreError>> + Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(Connection) -> F + Send + 'static,
    ) -> Result<R, StoreError> {
        let pool = Arc::clone(&self.pool);
        let answer = self.thread.run(async move { work(pool.get(operation).await?).await }).await;
        answer.unwrap_or_else(|error| {
            let advice = "open the store again, and report what the driver did";
            Err(permanent(operation, self.pool.place(), advice, error))
        })
    }
}

impl fmt::Debug for MysqlMetastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlMetastore").field("place", &self.server.pool.place()).finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pool = Arc::clone(&self.pool);
        self.thread.end_with(async move { pool.close().await });
    }
}

#[async_trait]
impl Metastore for MysqlMetastore {
    async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        let key = key.clone();
        self.call(LOADING, move |mut connection| async move { load(&mut connection, &key).await }).await
    }

    async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        let id = id.clone();
        self.call(LOADING, move |mut connection| async move { load_latest(&mut connection, &id).await }).await
    }

    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        let (key, record) = (KeyMeta { id: id.clone(), created: record.created }, record.clone());
        self.call(STORING, move |mut connection| async move { store(&mut connection, &key, &record).await }).await
    }

    /// `sql`, as the metrics of other implementations have it for all SQL databases.
    fn kind(&self) -> &'static str {
        "sql"
    }

    fn place(&self) -> &str {
        self.server.pool.place()
    }
}

#[async_trait]
impl KeyAdmin for MysqlMetastore {
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        let after = after.cloned();
        self.call(LISTING, move |mut connection| async move { list(&mut connection, after.as_ref(), limit).await })
            .await
    }

    async fn versions(&self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
        let id = id.clone();
        self.call(LISTING, move |mut connection| async move { versions(&mut connection, &id).await }).await
    }

    async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, StoreError> {
        let key = key.clone();
        self.call(REVOKING, move |mut connection| async move { revoke(&mut connection, &key).await }).await
    }

    async fn shred(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError> {
        check_tombstone(SHREDDING, tombstone)?;
        let (id, tombstone) = (id.clone(), tombstone.clone());
        self.call(SHREDDING, move |mut connection| async move { shred(&mut connection, &id, &tombstone).await }).await
    }
}

/// Making the table takes the right `CREATE`, its index `INDEX`, looking at it `SELECT` on it.
#[async_trait]
impl SchemaAdmin for MysqlMetastore {
    fn schema(&self) -> String {
        create(&self.server.facts)
    }

    async fn inspect(&self) -> Result<TableReport, StoreError> {
        self.call(INSPECTING, |mut connection| async move { inspect(&mut connection).await }).await
    }

    async fn apply(&self) -> Result<Vec<String>, StoreError> {
        self.call(MIGRATING, |mut connection| async move { apply(&mut connection).await }).await
    }
}
