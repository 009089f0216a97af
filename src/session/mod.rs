//! Sessions: encrypt and decrypt for one partition, in the caller's own task.
//!
//! Here is the public API; `access.rs` is how an operation comes by its key, `offload.rs` where large payloads go, and
//! `shared.rs` what sessions share with their factory.

mod access;
mod offload;
mod shared;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use crate::actors::SessionCore;
use crate::error::{BoxError, Error};
use crate::metrics::Timed;
use crate::record::{DataRowRecord, with_parent};
pub(crate) use shared::Shared;

/// Encrypts and decrypts the records of one partition.
///
/// Cheap to clone and to move between tasks and threads; each clone is closed on its own. Once the partition's key is
/// loaded, an operation sends no message, takes no lock and calls no system.
pub struct Session {
    core: Arc<SessionCore>,
    shared: Arc<Shared>,
    closed: AtomicBool,
}

/// Where an application keeps records, for reading.
#[async_trait]
pub trait Loader: Send + Sync {
    /// What records are found by.
    type Key: Send + Sync + ?Sized;

    /// Returns the record stored under `key`, or `None` when there is none.
    ///
    /// # Errors
    /// Whatever keeps the record from being read; the session reports it as [`Error::Persistence`].
    async fn load(&self, key: &Self::Key) -> Result<Option<DataRowRecord>, BoxError>;
}

/// Where an application keeps records, for writing.
#[async_trait]
pub trait Storer: Send + Sync {
    /// What records are found by.
    type Key: Send;

    /// Stores a record and returns the key to find it by.
    ///
    /// # Errors
    /// Whatever keeps the record from being stored; the session reports it as [`Error::Persistence`].
    async fn store(&self, record: &DataRowRecord) -> Result<Self::Key, BoxError>;
}

impl Session {
    pub(crate) fn new(core: Arc<SessionCore>, shared: Arc<Shared>) -> Self {
        Self { core, shared, closed: AtomicBool::new(false) }
    }

    /// Returns the partition id.
    #[must_use]
    pub fn partition(&self) -> &str {
        self.core.partition().id()
    }

    /// Encrypts a payload, which may be empty, under a fresh data row key.
    ///
    /// # Errors
    /// [`Error`]; nothing is returned unless it can be decrypted again.
    ///
    /// # Cancel safety
    /// Dropping the future loses the record and nothing else; a key that is being made is made.
    pub async fn encrypt(&self, payload: &[u8]) -> Result<DataRowRecord, Error> {
        let operation = self.begin(Timed::Encrypt);
        let result = self.seal(payload, operation.now, Shared::seal).await;
        self.end(operation, result)
    }

    /// Encrypts a payload into the JSON text of its record, in one pass.
    ///
    /// # Errors
    /// As for [`encrypt`](Self::encrypt).
    ///
    /// # Cancel safety
    /// As for [`encrypt`](Self::encrypt).
    pub async fn encrypt_json(&self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let operation = self.begin(Timed::Encrypt);
        let result = self.seal(payload, operation.now, Shared::seal_json).await;
        self.end(operation, result)
    }

    /// Decrypts a record of this partition.
    ///
    /// Returns a plain `Vec`: what is in it belongs to the application, which knows when to wipe it.
    ///
    /// # Errors
    /// [`Error::WrongPartition`], [`Error::KeyNotFound`], [`Error::Undecryptable`], or why its key could not be loaded.
    ///
    /// # Cancel safety
    /// Decrypting changes nothing; a load that is under way goes on.
    pub async fn decrypt(&self, record: &DataRowRecord) -> Result<Vec<u8>, Error> {
        let operation = self.begin(Timed::Decrypt);
        let result = self.open(record, operation.now).await;
        self.end(operation, result)
    }

    /// Decrypts the JSON text of a record of this partition.
    ///
    /// # Errors
    /// As for [`decrypt`](Self::decrypt), and [`Error::Record`] when the text is no record.
    ///
    /// # Cancel safety
    /// As for [`decrypt`](Self::decrypt).
    pub async fn decrypt_json(&self, json: &[u8]) -> Result<Vec<u8>, Error> {
        let operation = self.begin(Timed::Decrypt);
        let result = self.open_json(json, operation.now).await;
        self.end(operation, result)
    }

    /// Wraps the record's data row key under the partition's newest intermediate key; the payload is neither read nor
    /// changed. Returns `None` for a record that needs no change.
    ///
    /// Once all records that are under a key were treated so, nothing needs that key any more. Errors are not counted as
    /// those of encrypting and decrypting are.
    ///
    /// # Errors
    /// Those of [`decrypt`](Self::decrypt) and [`encrypt`](Self::encrypt) that are not about the payload.
    ///
    /// # Cancel safety
    /// As for [`encrypt`](Self::encrypt).
    pub async fn rewrap(&self, record: &DataRowRecord) -> Result<Option<DataRowRecord>, Error> {
        let rewrapped = self.rewrapped(record.parent_key(), record.encrypted_key()).await?;
        Ok(rewrapped.map(|(encrypted_key, parent)| record.with_key(encrypted_key, parent)))
    }

    /// As [`rewrap`](Self::rewrap), of the JSON text of a record: fields that this crate does not know are kept as they are.
    ///
    /// # Errors
    /// As for [`rewrap`](Self::rewrap), and [`Error::Record`] when the text is no record.
    ///
    /// # Cancel safety
    /// As for [`encrypt`](Self::encrypt).
    pub async fn rewrap_json(&self, json: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let record = DataRowRecord::from_json(json)?;
        match self.rewrapped(record.parent_key(), record.encrypted_key()).await? {
            Some((encrypted_key, parent)) => Ok(Some(with_parent(json, &encrypted_key, &parent)?)),
            None => Ok(None),
        }
    }

    /// Encrypts a payload, hands the record to `storer`, and returns the key it was stored under.
    ///
    /// # Errors
    /// As for [`encrypt`](Self::encrypt), and [`Error::Persistence`] when the storer fails.
    pub async fn store<S: Storer + ?Sized>(&self, payload: &[u8], storer: &S) -> Result<S::Key, Error> {
        let record = self.encrypt(payload).await?;
        storer.store(&record).await.map_err(|source| self.failed("storer", source))
    }

    /// Fetches a record from `loader` and decrypts it.
    ///
    /// # Errors
    /// As for [`decrypt`](Self::decrypt), [`Error::RecordNotFound`] when the loader has none, and
    /// [`Error::Persistence`] when it fails.
    pub async fn load<L: Loader + ?Sized>(&self, key: &L::Key, loader: &L) -> Result<Vec<u8>, Error> {
        let record =
            loader.load(key).await.map_err(|source| self.failed("loader", source))?.ok_or(Error::RecordNotFound)?;
        self.decrypt(&record).await
    }

    /// Closes this handle: every later operation of it ends in [`Error::Closed`]. Clones are not affected.
    ///
    /// Closing twice does nothing more; dropping the handle does the same without telling.
    ///
    /// # Errors
    /// None today; the signature leaves room for them.
    #[expect(clippy::unused_async, reason = "the signature leaves room for a registry that must be told")]
    pub async fn close(&self) -> Result<(), Error> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}

impl Clone for Session {
    /// Makes another handle, open if this one is.
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
            shared: Arc::clone(&self.shared),
            closed: AtomicBool::new(self.closed.load(Ordering::Acquire)),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}
