//! How an operation comes by its key: at once where it is loaded, and else by a message.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::offload::{OFFLOAD_ABOVE, copy};
use super::{Session, Shared};
use crate::actors::{CachedKey, KeyRing, Verdict, Wanted};
use crate::error::{BoxError, Error};
use crate::ids::{KeyId, KeyMeta};
use crate::metrics::{Meters, Stopwatch, Timed};
use crate::record::{DataRowRecord, OVERHEAD, RecordView};

/// How many keys that arrive expired are put up with in one operation.
const LATE_KEYS: u32 = 4;

/// Bytes that JSON text has beside its base64, generously: names, numbers, escaped ids.
const JSON_FRAME: usize = 16 * 1024;

/// An operation under way.
pub(super) struct Operation {
    timed: Timed,
    /// When it began, in Unix milliseconds.
    pub(super) now: i64,
    stopwatch: Option<Stopwatch>,
}

impl Session {
    /// Begins an operation, which is timed if it is its turn.
    #[inline]
    pub(super) fn begin(&self, timed: Timed) -> Operation {
        let now = self.shared.now();
        Operation { timed, now, stopwatch: self.shared.meters.begin(timed, now) }
    }

    /// Ends an operation, and counts if it failed.
    #[inline]
    pub(super) fn end<R>(&self, operation: Operation, result: Result<R, Error>) -> Result<R, Error> {
        self.shared.meters.end(operation.stopwatch);
        if let Err(error) = &result {
            self.note(operation.timed, error);
        }
        result
    }

    #[cold]
    fn note(&self, timed: Timed, error: &Error) {
        let class = error.class();
        self.shared.meters.count_error(class);
        let is_refusal = matches!(
            error,
            Error::Undecryptable
                | Error::WrongPartition
                | Error::KeyNotFound { .. }
                | Error::Shredded { .. }
                | Error::Throttled { .. }
        );
        if matches!(timed, Timed::Decrypt) && is_refusal {
            self.shared.audit.decrypt_refused(self.core.ring().id(), class);
        }
    }

    /// Makes the error of an application's loader or storer, and counts it.
    pub(super) fn failed(&self, operation: &'static str, source: BoxError) -> Error {
        let error = Error::Persistence { operation, source: source.into() };
        self.shared.meters.count_error(error.class());
        error
    }

    /// Encrypts a payload in the way that `seal` does.
    pub(super) async fn seal<R: Send + 'static>(
        &self,
        payload: &[u8],
        now: i64,
        seal: impl Fn(&Shared, &CachedKey, i64, &[u8]) -> Result<R, Error> + Copy + Send + 'static,
    ) -> Result<R, Error> {
        self.check_size(payload.len(), self.shared.max_payload)?;
        if payload.len() > OFFLOAD_ABOVE {
            // Boxed, here and below: what is rare does not make the futures of what is not larger.
            return Box::pin(async {
                // Copied first: the key is judged as late as can be.
                let payload = copy(payload).await;
                let key = self.latest(self.shared.now()).await?;
                self.offload(key, move |shared, key| seal(shared, key, now, &payload)).await
            })
            .await;
        }
        self.with_latest(now, |shared, key| seal(shared, key, now, payload)).await
    }

    /// Decrypts a record.
    pub(super) async fn open(&self, record: &DataRowRecord, now: i64) -> Result<Vec<u8>, Error> {
        self.check_size(record.data().len(), self.shared.max_payload.saturating_add(OVERHEAD))?;
        let (id, created) = (record.parent_key().id.as_str(), record.parent_key().created);
        if record.data().len() > OFFLOAD_ABOVE {
            return Box::pin(async {
                let key = self.with_version(id, created, now, |_, key| Ok(Arc::clone(key))).await?;
                let mut data = copy(record.data()).await;
                let record = record.with_data(std::mem::take(&mut data));
                self.offload(key, move |shared, key| shared.envelope.open(key.key(), &record)).await
            })
            .await;
        }
        self.with_version(id, created, now, |shared, key| shared.envelope.open(key.key(), record)).await
    }

    /// Decrypts the JSON text of a record.
    pub(super) async fn open_json(&self, json: &[u8], now: i64) -> Result<Vec<u8>, Error> {
        let limit = self.shared.max_payload.saturating_add(OVERHEAD).div_ceil(3).saturating_mul(4);
        self.check_size(json.len(), limit.saturating_add(JSON_FRAME))?;
        if json.len() > OFFLOAD_ABOVE {
            return Box::pin(async {
                let json = copy(json).await;
                let parse = move || DataRowRecord::from_json(&json);
                self.open(&self.blocking(parse).await??, now).await
            })
            .await;
        }
        if let Some(view) = RecordView::parse(json) {
            self.check_size(view.data_size(), self.shared.max_payload.saturating_add(OVERHEAD))?;
            let open = |shared: &Shared, key: &Arc<CachedKey>| shared.envelope.open_view(key.key(), &view);
            let opened = self.with_version(view.parent_id, view.parent_created, now, open).await;
            // What looks canonical and is not base64 may have escapes or more fields where the view sees data.
            if !matches!(opened, Err(Error::Record(_))) {
                return opened;
            }
        }
        let record = DataRowRecord::from_json(json)?;
        Box::pin(self.open(&record, now)).await
    }

    /// Wraps a data row key under the newest key, unless it is; `parent` is what it is under now.
    pub(super) async fn rewrapped(
        &self,
        parent: &KeyMeta,
        encrypted_key: &[u8],
    ) -> Result<Option<(Vec<u8>, KeyMeta)>, Error> {
        self.check_open()?;
        let now = self.shared.now();
        // First of all, so that a record that names no key of this partition has none made.
        let from = self.with_version(parent.id.as_str(), parent.created, now, |_, key| Ok(Arc::clone(key))).await?;
        let newest = self.latest(now).await?;
        if parent == newest.meta() {
            return Ok(None);
        }
        // Another process made it and this one has not seen it yet, unless it was revoked since.
        let is_later = parent.id == newest.meta().id && parent.created > newest.meta().created;
        if is_later && from.verdict(&self.shared.policy, now) != Verdict::Invalid {
            return Ok(None);
        }
        let encrypted_key = self.shared.envelope.rewrap(from.key(), Shared::parent(&newest), encrypted_key)?;
        Ok(Some((encrypted_key.to_vec(), newest.meta().clone())))
    }

    /// Runs `work` with the newest valid key: at once if it is loaded, and else when it is.
    pub(super) async fn with_latest<R>(
        &self,
        now: i64,
        work: impl FnOnce(&Shared, &Arc<CachedKey>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let ring = self.core.ring();
        let mut work = Some(work);
        let mut run = |key: &Arc<CachedKey>| {
            let work = work.take().expect("either the loaded key or the one waited for is used");
            self.finish(key, work(&self.shared, key))
        };
        let warm = ring.with_latest(&self.shared.policy, now, |key, verdict| {
            Meters::hit(Timed::Encrypt);
            if verdict != Verdict::Usable {
                self.look_ahead(ring, key, verdict, now);
            }
            run(key)
        });
        if let Some(result) = warm {
            return result;
        }
        run(&Box::pin(self.wait_for_latest()).await?)
    }

    /// Has a key that may encrypt looked at, or replaced, before it may not any more.
    #[cold]
    fn look_ahead(&self, ring: &Arc<KeyRing>, key: &CachedKey, verdict: Verdict, now: i64) {
        if verdict == Verdict::Overdue {
            self.shared.meters.stale.increment(1);
        }
        if let Some(claim) = key.claim(&self.shared.policy, now)
            && !self.shared.system.keys.look(Arc::clone(ring), Wanted::Ahead)
        {
            claim.give_back();
        }
    }

    /// Waits for a key that is valid when it arrives: one that is slow to be stored may have expired by then.
    async fn wait_for_latest(&self) -> Result<Arc<CachedKey>, Error> {
        let ring = self.core.ring();
        for _ in 0..LATE_KEYS {
            let key = self.shared.system.keys.get(Arc::clone(ring), Wanted::Latest).await?;
            match key.verdict(&self.shared.policy, self.shared.now()) {
                Verdict::Invalid => {}
                Verdict::Overdue => {
                    self.shared.meters.stale.increment(1);
                    return Ok(key);
                }
                _ => return Ok(key),
            }
        }
        Err(Error::KeyContention { id: ring.id().to_string(), attempts: LATE_KEYS })
    }

    pub(super) async fn latest(&self, now: i64) -> Result<Arc<CachedKey>, Error> {
        self.with_latest(now, |_, key| Ok(Arc::clone(key))).await
    }

    /// Runs `work` with one version of a key that this partition may read.
    pub(super) async fn with_version<R>(
        &self,
        id: &str,
        created: i64,
        now: i64,
        work: impl FnOnce(&Shared, &Arc<CachedKey>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let own = self.core.ring();
        let lent;
        let ring = if id == own.id().as_str() {
            own
        } else if self.core.partition().may_read(id) {
            lent = self.shared.system.keys.index().lend(&KeyId::new(id));
            &lent
        } else {
            return Err(Error::WrongPartition);
        };
        self.with_version_of(ring, created, now, work).await
    }

    async fn with_version_of<R>(
        &self,
        ring: &Arc<KeyRing>,
        created: i64,
        now: i64,
        work: impl FnOnce(&Shared, &Arc<CachedKey>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let keys = &self.shared.system.keys;
        let mut work = Some(work);
        let mut run = |key: &Arc<CachedKey>| {
            let work = work.take().expect("either the loaded key or the one waited for is used");
            self.finish(key, work(&self.shared, key))
        };
        let warm = ring.with_confirmed(created, &self.shared.policy, now, |key, is_to_be_confirmed| {
            Meters::hit(Timed::Decrypt);
            if is_to_be_confirmed
                && let Some(claim) = ring.claim(now)
                && !keys.look(Arc::clone(ring), Wanted::Confirmed(created))
            {
                claim.give_back();
            }
            run(key)
        });
        if let Some(result) = warm {
            return result;
        }
        match Box::pin(keys.get(Arc::clone(ring), Wanted::Confirmed(created))).await {
            Ok(key) => run(&key),
            // The store is slow to confirm a key that is loaded; nothing says that it was destroyed.
            Err(error @ Error::Timeout { .. }) => ring.with_version(created, run).unwrap_or(Err(error)),
            Err(error) => Err(error),
        }
    }

    /// Asks for a key that was not resident to be made so, now that it was used.
    pub(super) fn finish<R>(&self, key: &CachedKey, result: Result<R, Error>) -> Result<R, Error> {
        if key.key().take_used_cold() {
            self.shared.system.promote(key.key());
        }
        result
    }

    pub(super) fn check_open(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) || self.shared.system.is_closing() {
            return Err(Error::Closed);
        }
        Ok(())
    }

    pub(super) fn check_size(&self, size: usize, limit: usize) -> Result<(), Error> {
        self.check_open()?;
        if size > limit { Err(Error::TooLarge { size, limit }) } else { Ok(()) }
    }
}
