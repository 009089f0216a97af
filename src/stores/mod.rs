//! Metastores: where system and intermediate keys live, encrypted.
//!
//! A store inserts and reads; it never updates or deletes on the encrypting path. Ids are compared byte by byte. Operators
//! revoke and shred by [`KeyAdmin`].

#[cfg(any(feature = "dynamodb", feature = "mysql", feature = "postgres", feature = "vault"))]
pub(crate) mod address;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod memory;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(any(feature = "dynamodb", feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod place;
#[cfg(feature = "postgres")]
mod postgres;
mod rows;
mod schema;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod sql_server;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod sql_url;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod sqlite_admin;
#[cfg(feature = "sqlite")]
mod sqlite_schema;
#[cfg(feature = "sqlite")]
mod sqlite_table;
#[cfg(feature = "mysql")]
mod utc;

use std::sync::Arc;

use async_trait::async_trait;

pub use crate::error::StoreError;
use crate::ids::{KeyId, KeyMeta};
use crate::record::EnvelopeKeyRecord;
#[cfg(any(feature = "dynamodb", feature = "mysql", feature = "postgres", feature = "vault"))]
pub use address::AddressError;
#[cfg(feature = "dynamodb")]
pub use dynamodb::{DynamoDbMetastore, DynamoDbOptions, RegionSuffix};
pub use memory::InMemoryMetastore;
#[cfg(feature = "mysql")]
pub use mysql::{MysqlMetastore, MysqlOptions};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresMetastore, PostgresOptions};
pub use schema::{Change, Difference, SchemaAdmin, Severity, TableReport};
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub use sql_server::{PoolSettings, ReplicaConsistency, SqlServer, TlsMode, TlsSettings};
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

    /// Inserts a version of key `id` unless one of the same creation time, or a
    /// [tombstone](EnvelopeKeyRecord::tombstone) of this id, exists: nobody makes a shredded key anew.
    ///
    /// # Errors
    /// [`StoreError`]; an existing row or tombstone is [`StoreOutcome::Duplicate`], not an error.
    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError>;

    /// Returns the region suffix that ids of new keys carry; asked once, when a session factory is built.
    fn region_suffix(&self) -> Option<&str> {
        None
    }

    /// Returns the word that stands for this kind of store in the names of metrics, of lowercase letters alone.
    fn kind(&self) -> &'static str {
        "custom"
    }

    /// Returns where the store is, without secrets: `postgres://alice@db.example:5432/keys`. Errors name it.
    fn place(&self) -> &str {
        "the metastore"
    }
}

/// What became of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum StoreOutcome {
    /// The row was inserted.
    Stored,
    /// A row of the same id and creation time, or a tombstone of the id, exists; nothing was changed.
    Duplicate,
}

/// What operators need beyond what encryption needs.
#[async_trait]
pub trait KeyAdmin: Send + Sync + 'static {
    /// Returns up to `limit` rows, from the first one after `after`, which is the last row of the page before.
    ///
    /// A store has one order that it keeps to: that of ids, byte by byte, and creation times where it can; a SQL database
    /// that compares ids in another way has the order of its primary key, DynamoDB one of its own. Rows of a shared table that are no keys are included: their ids have no [`kind`](KeyId::kind).
    ///
    /// # Errors
    /// [`StoreError`]; a row that is no key record is returned as such, it does not end the listing.
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError>;

    /// Returns all versions of one key, the oldest first.
    ///
    /// # Errors
    /// [`StoreError`]; a row that is no key record is returned as such.
    async fn versions(&self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError>;

    /// Marks one version of a key as revoked: it decrypts for ever and encrypts no more.
    ///
    /// Everything else in its record is kept, fields that this crate does not know too. Processes that have the key
    /// loaded notice when they check it next, see
    /// [`revoke_check_interval`](crate::CryptoPolicy::revoke_check_interval).
    ///
    /// # Errors
    /// [`StoreError`]; a row that is no key record is [`StoreError::Corrupt`] and left as it is.
    async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, StoreError>;

    /// Destroys all versions of key `id`, puts `tombstone` in their place, and returns which they were.
    ///
    /// `tombstone` is an [`EnvelopeKeyRecord::tombstone`]; one that is there is kept. Shredding again is harmless, and
    /// removes rows that programs which know no tombstones have added since. Records under the key cannot be decrypted
    /// any more, except by processes that have it loaded, for as long as they have, and with a copy of the table from
    /// before.
    ///
    /// # Errors
    /// [`StoreError`]; the key may be destroyed or not, and shredding again finds out.
    async fn shred(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError>;

    /// Puts `new` in the place of the wrapped key of one version of a key, if that is still `old`: the same key, wrapped in
    /// another way. A [tombstone](EnvelopeKeyRecord::is_tombstone) has none, and is [`Replacement::NotFound`].
    ///
    /// Everything else in its record is kept, fields that this crate does not know too.
    ///
    /// # Errors
    /// [`StoreError`]; a row that is no key record is [`StoreError::Corrupt`] and left as it is. `new` may not be empty.
    async fn replace_wrapped_key(&self, key: &KeyMeta, old: &[u8], new: &[u8]) -> Result<Replacement, StoreError>;
}

/// What became of a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Replacement {
    /// The new wrapped key is stored.
    Replaced,
    /// The wrapped key was another one; nothing was changed.
    Changed,
    /// There is no such key.
    NotFound,
}

/// What became of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Revocation {
    /// The key is revoked now.
    Revoked,
    /// It was revoked before; nothing was changed.
    AlreadyRevoked,
    /// There is no such key.
    NotFound,
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

    fn kind(&self) -> &'static str {
        (**self).kind()
    }

    fn place(&self) -> &str {
        (**self).place()
    }
}

#[async_trait]
impl<A: KeyAdmin + ?Sized> KeyAdmin for Arc<A> {
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        (**self).list(after, limit).await
    }

    async fn versions(&self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
        (**self).versions(id).await
    }

    async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, StoreError> {
        (**self).revoke(key).await
    }

    async fn shred(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError> {
        (**self).shred(id, tombstone).await
    }

    async fn replace_wrapped_key(&self, key: &KeyMeta, old: &[u8], new: &[u8]) -> Result<Replacement, StoreError> {
        (**self).replace_wrapped_key(key, old, new).await
    }
}
