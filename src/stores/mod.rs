//! Metastores: where system and intermediate keys live, encrypted.
//!
//! A store inserts and reads; it never updates or deletes on the encrypting path. Ids are compared byte by byte.

mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod sqlite_table;

use std::sync::Arc;

use async_trait::async_trait;

pub use crate::error::StoreError;
use crate::ids::{KeyId, KeyMeta};
use crate::record::EnvelopeKeyRecord;
pub use memory::InMemoryMetastore;
#[cfg(feature = "sqlite")]
pub use sqlite::{BUSY_TIMEOUT, SqliteMetastore, SqliteOptions};

/// A table of key records, addressed by key id and creation time.
///
/// Calls may be made from any thread, many at once. A call that is dropped halfway must leave the table as if it had
/// been made or not made at all.
#[async_trait]
pub trait Metastore: Send + Sync + 'static {
    /// Returns one version of a key, or `None` when there is no such row.
    ///
    /// # Errors
    /// [`StoreError`]; a row that is no key record is [`StoreError::Corrupt`], never `None`.
    async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError>;

    /// Returns the version of key `id` that was created last, valid or not, or `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError`]; a row that is no key record is [`StoreError::Corrupt`], never `None`.
    async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError>;

    /// Inserts a version of key `id` unless one of the same creation time exists.
    ///
    /// # Errors
    /// [`StoreError`]; an existing row is [`StoreOutcome::Duplicate`], not an error.
    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError>;

    /// Returns the region suffix that ids of new keys carry; asked once, when a session factory is built.
    fn region_suffix(&self) -> Option<&str> {
        None
    }
}

/// What became of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum StoreOutcome {
    /// The row was inserted.
    Stored,
    /// A row of the same id and creation time exists and was left as it is.
    Duplicate,
}

/// What operators need beyond what encryption needs.
#[async_trait]
pub trait KeyAdmin: Send + Sync + 'static {
    /// Returns up to `limit` rows in the order of their keys, from the first one after `after`.
    ///
    /// Rows of a shared table that are no keys are included: their ids have no [`kind`](KeyId::kind).
    ///
    /// # Errors
    /// [`StoreError`]; a row that is no key record is returned as such, it does not end the listing.
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError>;
}

/// A row of the key table.
#[derive(Debug)]
pub struct KeyRow {
    /// Which version of which key.
    pub key: KeyMeta,
    /// Its record, or why it is none.
    pub record: Result<EnvelopeKeyRecord, StoreError>,
}

#[async_trait]
impl<M: Metastore + ?Sized> Metastore for Arc<M> {
    async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        (**self).load(key).await
    }

    async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        (**self).load_latest(id).await
    }

    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        (**self).store(id, record).await
    }

    fn region_suffix(&self) -> Option<&str> {
        (**self).region_suffix()
    }
}

/// Reads the text of a row, naming the row when it is no key record.
#[cfg(feature = "sqlite")]
pub(crate) fn parse_row(key: &KeyMeta, text: &[u8]) -> Result<EnvelopeKeyRecord, StoreError> {
    let corrupt = |source| StoreError::Corrupt { id: key.id.to_string(), created: Some(key.created), source };
    let record = EnvelopeKeyRecord::from_json(text).map_err(|error| corrupt(error.into()))?;
    if record.created != key.created {
        return Err(corrupt(format!("the record says it was created {}", record.created).into()));
    }
    Ok(record)
}
