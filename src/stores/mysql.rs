//! The store in MySQL or MariaDB: one table, shared by any number of processes and of implementations of the format.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use super::driver_thread::DriverThread;
use super::mysql_admin::{LISTING, REVOKING, SHREDDING, list, revoke, shred, versions};
use super::mysql_options::MysqlOptions;
use super::mysql_pool::{Connection, Pool};
use super::mysql_table::{LOADING, STORING, load, load_latest, store};
use super::mysql_tls::choose_provider;
use super::place::permanent;
use super::rows::check_tombstone;
use super::{KeyAdmin, KeyRow, Metastore, Revocation, StoreError, StoreOutcome};
use crate::ids::{KeyId, KeyMeta};
use crate::record::EnvelopeKeyRecord;

const CONNECTING: &str = "connecting to MySQL";

/// A metastore in MySQL or MariaDB.
#[derive(Clone)]
pub struct MysqlMetastore {
    server: Arc<Server>,
}

struct Server {
    thread: DriverThread,
    pool: Arc<Pool>,
}

impl MysqlMetastore {
    /// Connects.
    pub async fn connect(options: MysqlOptions) -> Result<Self, StoreError> {
        Self::connect_for_schema(options).await
    }

    /// Connects.
    pub async fn connect_for_schema(options: MysqlOptions) -> Result<Self, StoreError> {
        let pool = Arc::new(Pool::new(options));
        choose_provider();
        let thread =
            DriverThread::start("keyward-mysql").map_err(|error| permanent(CONNECTING, pool.place(), None, error))?;
        let store = Self { server: Arc::new(Server { thread, pool }) };
        store.call(CONNECTING, |_| async { Ok(()) }).await?;
        Ok(store)
    }

    /// Has the driver's thread do `work` on a connection and waits for its answer.
    async fn call<R: Send + 'static, F: Future<Output = Result<R, StoreError>> + Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(Connection) -> F + Send + 'static,
    ) -> Result<R, StoreError> {
        let pool = Arc::clone(&self.server.pool);
        let answer = self.server.thread.run(async move { work(pool.get(operation).await?).await }).await;
        answer.unwrap_or_else(|error| {
            let advice = "open the store again, and report what the driver did";
            Err(permanent(operation, self.server.pool.place(), advice, error))
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
