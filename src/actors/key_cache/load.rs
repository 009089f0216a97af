//! How a key is found, checked or made: the format's algorithms, one load at a time.
//!
//! Only "not found" and "invalid" make a key; an error never does. A parent is always the one that the row names.

use std::sync::Arc;

use actix::Addr;

use super::ring::{CachedKey, KeyIndex, KeyRing, KeyStatus, Verdict, Wanted};
use super::{Get, KeyCacheActor};
use crate::actors::{Guard, KmsClient, MetastoreWriter};
use crate::clock::{Clock, unix_millis};
use crate::error::Error;
use crate::ids::{KeyId, KeyKind, KeyMeta, Realm};
use crate::memory::{LockedKey, RandomFill, SealedKey};
use crate::policy::CryptoPolicy;
use crate::record::EnvelopeKeyRecord;
use crate::stores::StoreOutcome;

/// How often a creator that lost the race looks again; every further loss needs another process that makes an invalid
/// key in between.
const ATTEMPTS: u32 = 16;

/// What loads need.
#[derive(Clone)]
pub(crate) struct Loader {
    pub(crate) store: MetastoreWriter,
    pub(crate) kms: KmsClient,
    pub(crate) guard: Guard,
    pub(crate) index: Arc<KeyIndex>,
    pub(crate) realm: Realm,
    pub(crate) policy: Arc<CryptoPolicy>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: RandomFill,
}

impl Loader {
    pub(super) fn now(&self) -> i64 {
        unix_millis(self.clock.now())
    }

    /// Finds what is wanted of `ring`; `cache` is where system keys are asked for.
    pub(super) async fn load(
        self,
        cache: Addr<KeyCacheActor>,
        ring: Arc<KeyRing>,
        wanted: Wanted,
    ) -> Result<Arc<CachedKey>, Error> {
        match (wanted, ring.id().kind()) {
            (Wanted::Latest, Some(KeyKind::System)) => self.latest_system(&ring).await,
            (Wanted::Latest, _) => self.latest_intermediate(&cache, &ring).await,
            (Wanted::Exact(created) | Wanted::Checked(created), kind) => {
                let meta = KeyMeta { id: ring.id().clone(), created };
                let asked = self.now();
                let row = self.store.load(meta.clone()).await?;
                let row = row.ok_or_else(|| Error::KeyNotFound { id: meta.id.to_string(), created })?;
                if kind == Some(KeyKind::System) {
                    return self.open_system(&ring, row, asked).await;
                }
                let Some(parent) = row.parent_key.clone() else {
                    return Err(corrupt(&meta, "it names no system key"));
                };
                let parent = self.system_key(&cache, parent.id, Wanted::Exact(parent.created)).await?;
                self.open_intermediate(&ring, &row, &parent, asked).await
            }
        }
    }

    async fn latest_system(&self, ring: &KeyRing) -> Result<Arc<CachedKey>, Error> {
        for _ in 0..ATTEMPTS {
            let asked = self.now();
            let row = self.store.load_latest(ring.id().clone()).await?;
            let replaced = match row {
                Some(row) if self.is_valid(&row) => return self.open_system(ring, row, asked).await,
                other => other.inspect(|row| note_invalid(ring, row, asked)),
            };
            let meta = self.new_meta(ring, replaced.as_ref())?;
            let key = self.guard.reserve().await?.generate::<Error>(&label(&meta))?;
            let encrypted_key = self.kms.wrap(Arc::clone(&key)).await?;
            let record = EnvelopeKeyRecord { created: meta.created, encrypted_key, parent_key: None, revoked: false };
            if self.store.store(meta.id.clone(), record).await? == StoreOutcome::Stored {
                tracing::info!(created = meta.created, "made a system key");
                let status = self.new_status(meta.created, asked)?;
                return Ok(Arc::new(CachedKey::new(meta, key, status, None)));
            }
        }
        Err(Error::KeyContention { id: ring.id().to_string(), attempts: ATTEMPTS })
    }

    async fn latest_intermediate(&self, cache: &Addr<KeyCacheActor>, ring: &KeyRing) -> Result<Arc<CachedKey>, Error> {
        for _ in 0..ATTEMPTS {
            let asked = self.now();
            let row = self.store.load_latest(ring.id().clone()).await?;
            if let Some(row) = row.as_ref().filter(|row| self.is_valid(row))
                && let Some(parent) = self.valid_parent(cache, row).await?
            {
                return self.open_intermediate(ring, row, &parent, asked).await;
            }
            if let Some(row) = &row {
                note_invalid(ring, row, asked);
            }
            let parent = self.system_key(cache, self.realm.system_key().clone(), Wanted::Latest).await?;
            let meta = self.new_meta(ring, row.as_ref())?;
            let key = self.guard.reserve().await?.generate::<Error>(&label(&meta))?;
            let record = EnvelopeKeyRecord {
                created: meta.created,
                encrypted_key: self.wrap(&parent, &key)?.to_vec(),
                parent_key: Some(parent.meta().clone()),
                revoked: false,
            };
            if self.store.store(meta.id.clone(), record).await? == StoreOutcome::Stored {
                tracing::debug!(created = meta.created, "made an intermediate key");
                let status = self.new_status(meta.created, asked)?;
                return Ok(Arc::new(CachedKey::new(meta, key, status, Some(Arc::clone(parent.status())))));
            }
        }
        Err(Error::KeyContention { id: ring.id().to_string(), attempts: ATTEMPTS })
    }

    /// Returns the system key that a valid row names, unless it is missing or must not encrypt any more.
    async fn valid_parent(
        &self,
        cache: &Addr<KeyCacheActor>,
        row: &EnvelopeKeyRecord,
    ) -> Result<Option<Arc<CachedKey>>, Error> {
        let Some(parent) = row.parent_key.clone() else { return Ok(None) };
        match self.system_key(cache, parent.id, Wanted::Checked(parent.created)).await {
            Ok(key) => Ok(Some(key).filter(|key| key.verdict(&self.policy, self.now()) != Verdict::Invalid)),
            Err(Error::KeyNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks the cache, so that however many intermediate keys need a system key it is loaded once.
    async fn system_key(
        &self,
        cache: &Addr<KeyCacheActor>,
        id: KeyId,
        wanted: Wanted,
    ) -> Result<Arc<CachedKey>, Error> {
        if id.kind() != Some(KeyKind::System) {
            let created = if let Wanted::Exact(created) | Wanted::Checked(created) = wanted { created } else { 0 };
            return Err(corrupt(&KeyMeta { id, created }, "a key row names it as its system key"));
        }
        let ring = self.index.ring(&id);
        let answer = cache.send(Get { ring: Arc::clone(&ring), wanted, deadline: None }).await;
        self.index.release(ring);
        answer.unwrap_or(Err(Error::Restarted { component: "key cache" }))
    }

    async fn open_system(&self, ring: &KeyRing, row: EnvelopeKeyRecord, asked: i64) -> Result<Arc<CachedKey>, Error> {
        let meta = KeyMeta { id: ring.id().clone(), created: row.created };
        if let Some(known) = refreshed(ring, &row, None, asked) {
            return Ok(known);
        }
        let place = self.guard.reserve().await?;
        let key = self.kms.unwrap(row.encrypted_key, label(&meta), place).await?;
        let status = self.new_status(row.created, asked)?;
        status.observe(row.revoked, asked);
        Ok(Arc::new(CachedKey::new(meta, key, status, None)))
    }

    async fn open_intermediate(
        &self,
        ring: &KeyRing,
        row: &EnvelopeKeyRecord,
        parent: &CachedKey,
        asked: i64,
    ) -> Result<Arc<CachedKey>, Error> {
        let meta = KeyMeta { id: ring.id().clone(), created: row.created };
        if let Some(known) = refreshed(ring, row, Some(parent), asked) {
            return Ok(known);
        }
        let sealed: &SealedKey = row
            .encrypted_key
            .as_slice()
            .try_into()
            .map_err(|_| corrupt(&meta, "a key wrapped by a system key has 60 bytes"))?;
        let place = self.guard.reserve().await?;
        let key = place.fill(&label(&meta), |bytes| {
            parent
                .key()
                .using(|state| state.unwrap(sealed, &[], bytes))?
                .map_err(|_| corrupt(&meta, "it does not open under its system key"))
        })?;
        let status = self.new_status(row.created, asked)?;
        status.observe(row.revoked, asked);
        Ok(Arc::new(CachedKey::new(meta, key, status, Some(Arc::clone(parent.status())))))
    }

    fn is_valid(&self, row: &EnvelopeKeyRecord) -> bool {
        !row.revoked && !self.policy.is_expired(row.created, self.now())
    }

    /// Names the key that replaces the invalid latest one, if there is one.
    fn new_meta(&self, ring: &KeyRing, replaced: Option<&EnvelopeKeyRecord>) -> Result<KeyMeta, Error> {
        let latest = replaced.map(|row| row.created);
        let now = self.now();
        if let Some(latest) = latest.filter(|latest| latest.saturating_mul(1000) > now) {
            tracing::warn!(created = latest, "an invalid key is dated in the future; check the clocks of all writers");
        }
        let id = ring.id().clone();
        match self.policy.next_created(now, latest) {
            Some(created) => Ok(KeyMeta { id, created }),
            None => Err(corrupt(&KeyMeta { id, created: i64::MAX }, "no key can be created after it")),
        }
    }

    fn new_status(&self, created: i64, asked: i64) -> Result<Arc<KeyStatus>, Error> {
        let mut jitter = [0];
        (self.random)(&mut jitter)?;
        Ok(Arc::new(KeyStatus::new(created, false, asked, jitter[0])))
    }

    fn wrap(&self, parent: &CachedKey, key: &LockedKey) -> Result<SealedKey, Error> {
        let mut nonce = [0; 12];
        (self.random)(&mut nonce)?;
        Ok(key.with_bytes(|bytes| parent.key().using(|state| state.wrap(bytes, &nonce, &[])))??)
    }
}

/// Renews what is known of a version that is loaded already: no unwrapping, the same key in the same place.
///
/// `asked` is when the row was asked for, in Unix milliseconds: what was revoked while a slow answer was on its way is
/// not known yet.
fn refreshed(
    ring: &KeyRing,
    row: &EnvelopeKeyRecord,
    parent: Option<&CachedKey>,
    asked: i64,
) -> Option<Arc<CachedKey>> {
    ring.with_version(row.created, |known| {
        known.status().observe(row.revoked, asked);
        let parent = parent.map(|parent| Arc::clone(parent.status()));
        let (key, status) = (Arc::clone(known.key()), Arc::clone(known.status()));
        Arc::new(CachedKey::new(known.meta().clone(), key, status, parent))
    })
}

/// Takes note of a revocation, so that it is known to all who hold the version.
fn note_invalid(ring: &KeyRing, row: &EnvelopeKeyRecord, asked: i64) {
    ring.with_version(row.created, |known| known.status().observe(row.revoked, asked));
}

/// What the sealed copy of a key in memory is bound to.
fn label(meta: &KeyMeta) -> Vec<u8> {
    [meta.id.as_str().as_bytes(), &meta.created.to_le_bytes()].concat()
}

fn corrupt(meta: &KeyMeta, reason: &'static str) -> Error {
    tracing::error!(created = meta.created, reason, "a key row is unusable");
    Error::KeyCorrupt { id: meta.id.to_string(), created: meta.created, reason }
}
