//! A store that is some way off, and counts who comes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use keyward::stores::{InMemoryMetastore, Metastore, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};

/// How far: as long as a call to a database in the same place takes, and what a timer's resolution adds.
const LATENCY: Duration = Duration::from_millis(1);

#[derive(Default)]
pub(crate) struct DistantStore {
    rows: InMemoryMetastore,
    reads: AtomicUsize,
    writes: AtomicUsize,
}

impl DistantStore {
    /// How many rows were asked for so far, and how many were to be stored.
    pub(crate) fn calls(&self) -> (usize, usize) {
        (self.reads.load(Ordering::SeqCst), self.writes.load(Ordering::SeqCst))
    }
}

#[async_trait]
impl Metastore for DistantStore {
    async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(LATENCY).await;
        self.rows.load(key).await
    }

    async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(LATENCY).await;
        self.rows.load_latest(id).await
    }

    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(LATENCY).await;
        self.rows.store(id, record).await
    }
}
