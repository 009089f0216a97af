//! Sessions: encrypt and decrypt for one partition, in the caller's own task.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::actors::{CachedKey, KeyRing, SessionCore, Verdict, Wanted};
use crate::clock::unix_millis;
use crate::error::{BoxError, Error};
use crate::factory::Shared;
use crate::ids::KeyId;
use crate::record::{DataRowRecord, OVERHEAD, RecordView};

/// Payloads above this size (about a millisecond of work on a slow machine) are handed to a blocking pool.
const OFFLOAD_ABOVE: usize = 4 * 1024 * 1024;

/// How much of a large payload is copied before other tasks get their turn.
const COPY_STEP: usize = 1024 * 1024;

/// How many keys that arrive expired are put up with in one operation.
const LATE_KEYS: u32 = 4;

/// Bytes that JSON text has beside its base64, generously: names, numbers, escaped ids.
const JSON_FRAME: usize = 16 * 1024;

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
        self.check_size(payload.len(), self.shared.max_payload)?;
        if payload.len() > OFFLOAD_ABOVE {
            let (key, payload) = (self.latest().await?, copy(payload).await);
            return self.offload(key, move |shared, key| shared.seal(key, &payload)).await;
        }
        self.with_latest(|shared, key| shared.seal(key, payload)).await
    }

    /// Encrypts a payload into the JSON text of its record, in one pass.
    ///
    /// # Errors
    /// As for [`encrypt`](Self::encrypt).
    ///
    /// # Cancel safety
    /// As for [`encrypt`](Self::encrypt).
    pub async fn encrypt_json(&self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        self.check_size(payload.len(), self.shared.max_payload)?;
        if payload.len() > OFFLOAD_ABOVE {
            let (key, payload) = (self.latest().await?, copy(payload).await);
            return self.offload(key, move |shared, key| shared.seal_json(key, &payload)).await;
        }
        self.with_latest(|shared, key| shared.seal_json(key, payload)).await
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
        self.check_size(record.data().len(), self.shared.max_payload.saturating_add(OVERHEAD))?;
        let (id, created) = (record.parent_key().id.as_str(), record.parent_key().created);
        if record.data().len() > OFFLOAD_ABOVE {
            let key = self.with_version(id, created, |_, key| Ok(Arc::clone(key))).await?;
            let mut data = copy(record.data()).await;
            let record = record.with_data(std::mem::take(&mut data));
            return self.offload(key, move |shared, key| shared.envelope.open(key.key(), &record)).await;
        }
        self.with_version(id, created, |shared, key| shared.envelope.open(key.key(), record)).await
    }

    /// Decrypts the JSON text of a record of this partition.
    ///
    /// # Errors
    /// As for [`decrypt`](Self::decrypt), and [`Error::Record`] when the text is no record.
    ///
    /// # Cancel safety
    /// As for [`decrypt`](Self::decrypt).
    pub async fn decrypt_json(&self, json: &[u8]) -> Result<Vec<u8>, Error> {
        let limit = self.shared.max_payload.saturating_add(OVERHEAD).div_ceil(3).saturating_mul(4);
        self.check_size(json.len(), limit.saturating_add(JSON_FRAME))?;
        if json.len() > OFFLOAD_ABOVE {
            let json = copy(json).await;
            let parse = move || DataRowRecord::from_json(&json);
            return self.decrypt(&self.blocking(parse).await??).await;
        }
        if let Some(view) = RecordView::parse(json) {
            self.check_size(view.data_size(), self.shared.max_payload.saturating_add(OVERHEAD))?;
            let open = |shared: &Shared, key: &Arc<CachedKey>| shared.envelope.open_view(key.key(), &view);
            let opened = self.with_version(view.parent_id, view.parent_created, open).await;
            // What looks canonical and is not base64 may have escapes or more fields where the view sees data.
            if !matches!(opened, Err(Error::Record(_))) {
                return opened;
            }
        }
        self.decrypt(&DataRowRecord::from_json(json)?).await
    }

    /// Encrypts a payload, hands the record to `storer`, and returns the key it was stored under.
    ///
    /// # Errors
    /// As for [`encrypt`](Self::encrypt), and [`Error::Persistence`] when the storer fails.
    pub async fn store<S: Storer + ?Sized>(&self, payload: &[u8], storer: &S) -> Result<S::Key, Error> {
        let record = self.encrypt(payload).await?;
        storer.store(&record).await.map_err(|source| Error::Persistence { operation: "storer", source: source.into() })
    }

    /// Fetches a record from `loader` and decrypts it.
    ///
    /// # Errors
    /// As for [`decrypt`](Self::decrypt), [`Error::RecordNotFound`] when the loader has none, and
    /// [`Error::Persistence`] when it fails.
    pub async fn load<L: Loader + ?Sized>(&self, key: &L::Key, loader: &L) -> Result<Vec<u8>, Error> {
        let record = loader
            .load(key)
            .await
            .map_err(|source| Error::Persistence { operation: "loader", source: source.into() })?
            .ok_or(Error::RecordNotFound)?;
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

    /// Runs `work` with the newest valid key: at once if it is loaded, and else when it is.
    async fn with_latest<R>(
        &self,
        work: impl FnOnce(&Shared, &Arc<CachedKey>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let ring = self.core.ring();
        let (policy, now) = (&self.shared.policy, self.shared.now());
        let mut work = Some(work);
        let mut run = |key: &Arc<CachedKey>| {
            let work = work.take().expect("either the loaded key or the one waited for is used");
            self.finish(key, work(&self.shared, key))
        };
        let warm = ring.with_latest(policy, now, |key, verdict| {
            if verdict == Verdict::Aging && key.claim_refresh() {
                self.shared.system.keys.refresh(Arc::clone(ring), key);
            }
            run(key)
        });
        match warm {
            Some(result) => result,
            None => run(&self.wait_for_latest().await?),
        }
    }

    /// Waits for a key that is valid when it arrives: one that is slow to be stored may have expired by then.
    async fn wait_for_latest(&self) -> Result<Arc<CachedKey>, Error> {
        let ring = self.core.ring();
        for _ in 0..LATE_KEYS {
            let key = self.shared.system.keys.get(Arc::clone(ring), Wanted::Latest).await?;
            if key.verdict(&self.shared.policy, self.shared.now()) != Verdict::Invalid {
                return Ok(key);
            }
        }
        Err(Error::KeyContention { id: ring.id().to_string(), attempts: LATE_KEYS })
    }

    async fn latest(&self) -> Result<Arc<CachedKey>, Error> {
        self.with_latest(|_, key| Ok(Arc::clone(key))).await
    }

    /// Runs `work` with one version of a key that this partition may read.
    async fn with_version<R>(
        &self,
        id: &str,
        created: i64,
        work: impl FnOnce(&Shared, &Arc<CachedKey>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut work = Some(work);
        let mut run = |key: &Arc<CachedKey>| {
            let work = work.take().expect("either the loaded key or the one waited for is used");
            self.finish(key, work(&self.shared, key))
        };
        if id == self.core.ring().id().as_str()
            && let Some(result) = self.core.ring().with_version(created, &mut run)
        {
            return result;
        }
        run(&self.version(id, created).await?)
    }

    /// Returns one version of a key that this partition may read.
    async fn version(&self, id: &str, created: i64) -> Result<Arc<CachedKey>, Error> {
        if !self.core.partition().may_read(id) {
            return Err(Error::WrongPartition);
        }
        let keys = &self.shared.system.keys;
        if id == self.core.ring().id().as_str() {
            return keys.get(Arc::clone(self.core.ring()), Wanted::Exact(created)).await;
        }
        let ring: Arc<KeyRing> = keys.index().ring(&KeyId::new(id));
        let found = match ring.with_version(created, Arc::clone) {
            Some(key) => Ok(key),
            None => keys.get(Arc::clone(&ring), Wanted::Exact(created)).await,
        };
        keys.index().release(ring);
        found
    }

    /// Runs `work` on a blocking pool.
    async fn offload<R: Send + 'static>(
        &self,
        key: Arc<CachedKey>,
        work: impl FnOnce(&Shared, &CachedKey) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let (shared, own) = (Arc::clone(&self.shared), Arc::clone(&key));
        let result = self.blocking(move || work(&shared, &own)).await?;
        self.finish(&key, result)
    }

    async fn blocking<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Result<R, Error> {
        self.shared.system.runtime().spawn_blocking(work).await.map_err(|_| {
            // The pool ends with the factory.
            if self.shared.system.is_closing() {
                Error::Closed
            } else {
                Error::Restarted { component: "blocking pool" }
            }
        })
    }

    /// Asks for a key that was not resident to be made so, now that it was used.
    fn finish<R>(&self, key: &CachedKey, result: Result<R, Error>) -> Result<R, Error> {
        if key.key().take_used_cold() {
            self.shared.system.promote(key.key());
        }
        result
    }

    fn check_size(&self, size: usize, limit: usize) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) || self.shared.system.is_closing() {
            return Err(Error::Closed);
        }
        if size > limit { Err(Error::TooLarge { size, limit }) } else { Ok(()) }
    }
}

impl Shared {
    fn now(&self) -> i64 {
        unix_millis(self.clock.now())
    }

    fn seal(&self, key: &CachedKey, payload: &[u8]) -> Result<DataRowRecord, Error> {
        self.envelope.seal((key.meta(), key.key()), self.now().div_euclid(1000), payload)
    }

    fn seal_json(&self, key: &CachedKey, payload: &[u8]) -> Result<Vec<u8>, Error> {
        self.envelope.seal_json((key.meta(), key.key()), self.now().div_euclid(1000), payload)
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

/// Copies a large payload for the blocking pool, letting other tasks run in between.
async fn copy(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut copy = Zeroizing::new(Vec::with_capacity(bytes.len()));
    for step in bytes.chunks(COPY_STEP) {
        copy.extend_from_slice(step);
        yield_once().await;
    }
    copy
}

/// Lets other tasks of whatever executor runs this one have their turn.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
