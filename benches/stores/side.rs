//! What a store, or a bare driver, is asked for.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use keyward::stores::{Metastore, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};

pub(crate) type BenchResult<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Tasks that make calls at once, and connections for them.
pub(crate) const TASKS: usize = 16;

/// Rows that there are before anything is measured.
const LOADED: usize = 1000;

/// When the keys were created.
const CREATED: i64 = 1_700_000_000;

/// A row of the table.
pub(crate) struct Row {
    pub(crate) partition: String,
    pub(crate) key: KeyMeta,
    pub(crate) record: EnvelopeKeyRecord,
    /// The text of the record, which drivers are not measured making.
    pub(crate) text: String,
}

impl Row {
    fn new(partition: String) -> Self {
        let parent_key = KeyMeta { id: KeyId::new("_SK_my-service_my-product"), created: CREATED };
        let id = KeyId::new(&format!("_IK_{partition}_my-service_my-product"));
        let record = EnvelopeKeyRecord {
            created: CREATED,
            encrypted_key: vec![0xa5; 60],
            parent_key: Some(parent_key),
            revoked: false,
        };
        Self { partition, key: KeyMeta { id, created: CREATED }, text: record.to_json(), record }
    }
}

/// Rows that are there, and rows that are not.
pub(crate) struct Rows {
    loaded: Vec<Row>,
    turns: AtomicUsize,
}

impl Rows {
    pub(crate) fn new() -> Arc<Self> {
        let loaded = (0..LOADED).map(|number| Row::new(format!("known-{number:09}"))).collect();
        Arc::new(Self { loaded, turns: AtomicUsize::new(0) })
    }

    /// Stores those that are to be there.
    pub(crate) async fn put(&self, side: &dyn Side) -> BenchResult {
        for row in &self.loaded {
            side.store(0, row).await?;
        }
        Ok(())
    }

    /// Returns one that is there.
    pub(crate) fn any(&self) -> &Row {
        &self.loaded[self.turns.fetch_add(1, Ordering::Relaxed) % LOADED]
    }

    /// Returns one that is not.
    pub(crate) fn fresh(&self) -> Row {
        Row::new(format!("fresh-{:09}", self.turns.fetch_add(1, Ordering::Relaxed)))
    }
}

/// A store or a driver. Each call fails unless it finds, or stores, what it is to. `task` says which of [`TASKS`] calls.
#[async_trait]
pub(crate) trait Side: Send + Sync {
    async fn load(&self, task: usize, row: &Row) -> BenchResult;

    async fn load_latest(&self, task: usize, row: &Row) -> BenchResult;

    /// Stores a row, with nothing else where the driver is bare.
    async fn store(&self, task: usize, row: &Row) -> BenchResult;

    /// Does what a store is to do once it has inserted.
    async fn follow_up(&self, _task: usize, _row: &Row) -> BenchResult {
        Ok(())
    }
}

/// Ours.
#[async_trait]
impl<M: Metastore> Side for M {
    async fn load(&self, _: usize, row: &Row) -> BenchResult {
        expect_one(Metastore::load(self, &row.key).await?.is_some())
    }

    async fn load_latest(&self, _: usize, row: &Row) -> BenchResult {
        expect_one(Metastore::load_latest(self, &row.key.id).await?.is_some())
    }

    async fn store(&self, _: usize, row: &Row) -> BenchResult {
        let outcome = Metastore::store(self, &row.key.id, &row.record).await?;
        expect_one(outcome == StoreOutcome::Stored)
    }
}

/// Fails unless a row was found, or stored.
pub(crate) fn expect_one(is_so: bool) -> BenchResult {
    if is_so { Ok(()) } else { Err("a call had another outcome than it was to have".into()) }
}
