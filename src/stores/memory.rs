//! The store of tests and trials: a map that ends with the process.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use async_trait::async_trait;

use super::{KeyAdmin, KeyRow, Metastore, StoreError, StoreOutcome};
use crate::ids::{KeyId, KeyMeta};
use crate::record::EnvelopeKeyRecord;

type Rows = BTreeMap<KeyId, BTreeMap<i64, EnvelopeKeyRecord>>;

/// A metastore in the memory of the process, for tests and trials.
///
/// Its keys vanish with it, and with them everything that was encrypted under them. Share it with `Arc`.
///
/// Calls take a lock for the time of one map look-up and never wait for anything else, so none can be dropped halfway.
///
/// # Examples
/// ```
/// use keyward::stores::{InMemoryMetastore, Metastore};
///
/// let store = InMemoryMetastore::new().with_region_suffix("eu-west-1");
/// assert_eq!(store.region_suffix(), Some("eu-west-1"));
/// ```
#[derive(Debug, Default)]
pub struct InMemoryMetastore {
    // A poisoned lock is taken all the same: every change is one insert, so the map is whole whoever panicked.
    rows: RwLock<Rows>,
    region_suffix: Option<String>,
}

impl InMemoryMetastore {
    /// Makes an empty store without region suffix.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the region suffix that ids of new keys carry, as a replicated table would.
    #[must_use]
    pub fn with_region_suffix(mut self, suffix: impl Into<String>) -> Self {
        self.region_suffix = Some(suffix.into());
        self
    }

    fn read<R>(&self, look: impl FnOnce(&Rows) -> R) -> R {
        look(&self.rows.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Metastore for InMemoryMetastore {
    async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        Ok(self.read(|rows| rows.get(&key.id)?.get(&key.created).cloned()))
    }

    async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        Ok(self.read(|rows| rows.get(id)?.values().next_back().cloned()))
    }

    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let versions = rows.entry(id.clone()).or_default();
        if versions.contains_key(&record.created) {
            return Ok(StoreOutcome::Duplicate);
        }
        versions.insert(record.created, record.clone());
        Ok(StoreOutcome::Stored)
    }

    fn region_suffix(&self) -> Option<&str> {
        self.region_suffix.as_deref()
    }
}

#[async_trait]
impl KeyAdmin for InMemoryMetastore {
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        let first = after.map_or_else(|| KeyId::new(""), |key| key.id.clone());
        Ok(self.read(|rows| {
            rows.range(first..)
                .flat_map(|(id, versions)| versions.iter().map(move |(created, record)| (id, *created, record)))
                .map(|(id, created, record)| (KeyMeta { id: id.clone(), created }, record))
                .filter(|(key, _)| after.is_none_or(|after| key > after))
                .take(limit)
                .map(|(key, record)| KeyRow { key, record: Ok(record.clone()) })
                .collect()
        }))
    }
}
