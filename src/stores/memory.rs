//! The store of tests and trials: a map that ends with the process.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use async_trait::async_trait;

use super::rows::{check_tombstone, check_wrapped_key, judge_replacement};
use super::{KeyAdmin, KeyRow, Metastore, Replacement, Revocation, StoreError, StoreOutcome};
use crate::ids::{KeyId, KeyMeta};
use crate::record::{EnvelopeKeyRecord, TOMBSTONE_CREATED};

type Versions = BTreeMap<i64, EnvelopeKeyRecord>;
type Rows = BTreeMap<KeyId, Versions>;

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
    // A poisoned lock is taken all the same: every change is one call to a map, which is whole whoever panicked.
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

    fn change<R>(&self, change: impl FnOnce(&mut Rows) -> R) -> R {
        change(&mut self.rows.write().unwrap_or_else(PoisonError::into_inner))
    }
}

fn has_tombstone(versions: &Versions) -> bool {
    versions.get(&TOMBSTONE_CREATED).is_some_and(EnvelopeKeyRecord::is_tombstone)
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
        Ok(self.change(|rows| {
            let versions = rows.entry(id.clone()).or_default();
            if versions.contains_key(&record.created) || has_tombstone(versions) {
                return StoreOutcome::Duplicate;
            }
            versions.insert(record.created, record.clone());
            StoreOutcome::Stored
        }))
    }

    fn region_suffix(&self) -> Option<&str> {
        self.region_suffix.as_deref()
    }

    fn kind(&self) -> &'static str {
        "memory"
    }

    fn place(&self) -> &str {
        "the metastore in memory"
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

    async fn versions(&self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
        Ok(self.read(|rows| {
            let versions = rows.get(id).into_iter().flatten();
            let row = |(created, record): (&i64, &EnvelopeKeyRecord)| KeyRow {
                key: KeyMeta { id: id.clone(), created: *created },
                record: Ok(record.clone()),
            };
            versions.map(row).collect()
        }))
    }

    async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, StoreError> {
        Ok(self.change(|rows| match rows.get_mut(&key.id).and_then(|versions| versions.get_mut(&key.created)) {
            None => Revocation::NotFound,
            Some(record) if record.revoked => Revocation::AlreadyRevoked,
            Some(record) => {
                record.revoked = true;
                Revocation::Revoked
            }
        }))
    }

    async fn shred(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError> {
        check_tombstone("shredding a key in memory", tombstone)?;
        Ok(self.change(|rows| {
            let versions = rows.entry(id.clone()).or_default();
            let stays = if has_tombstone(versions) { versions.remove(&TOMBSTONE_CREATED) } else { None };
            let only = BTreeMap::from([(TOMBSTONE_CREATED, stays.unwrap_or_else(|| tombstone.clone()))]);
            let destroyed = std::mem::replace(versions, only);
            destroyed.into_keys().map(|created| KeyMeta { id: id.clone(), created }).collect()
        }))
    }

    async fn replace_wrapped_key(&self, key: &KeyMeta, old: &[u8], new: &[u8]) -> Result<Replacement, StoreError> {
        check_wrapped_key("replacing a wrapped key in memory", new)?;
        Ok(self.change(|rows| {
            let record = rows.get_mut(&key.id).and_then(|versions| versions.get_mut(&key.created));
            let Some(record) = record else { return Replacement::NotFound };
            judge_replacement(record, old, new).unwrap_or_else(|| {
                record.encrypted_key = new.to_vec();
                Replacement::Replaced
            })
        }))
    }
}
