//! How a key is found, checked or made: the format's algorithms, one load at a time.
//!
//! Only "not found" and "invalid" make a key, and what an operator or the policy ask for ahead of time; an error never
//! does. A parent is always the one that the row names.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use actix::Addr;

use super::actor::KeyCacheActor;
use super::cached_key::CachedKey;
use super::handle::Get;
use super::index::KeyIndex;
use super::outlawed::Outlawed;
use super::ring::{KeyRing, Wanted};
use super::status::KeyStatus;
use crate::actors::{Guard, KmsClient, MetastoreWriter};
use crate::audit::Audit;
use crate::clock::{Clock, unix_millis};
use crate::error::Error;
use crate::ids::{KeyId, KeyKind, KeyMeta, Realm};
use crate::memory::{LockedKey, RandomFill, SealedKey};
use crate::metrics::{KeyMeters, Meters};
use crate::policy::{CryptoPolicy, RotationCause};
use crate::record::{EnvelopeKeyRecord, TOMBSTONE_CREATED};
use crate::stores::StoreOutcome;

/// How often a creator that lost the race looks again; every further loss needs another process that makes an invalid
/// key in between.
const ATTEMPTS: u32 = 16;

/// How much longer each attempt is waited for, from the third on.
const ATTEMPT_DELAY: Duration = Duration::from_millis(5);

/// What loads need.
#[derive(Clone)]
pub(crate) struct Loader {
    pub(crate) store: MetastoreWriter,
    pub(crate) kms: KmsClient,
    pub(crate) guard: Guard,
    pub(crate) index: Arc<KeyIndex>,
    pub(crate) outlawed: Arc<Outlawed>,
    /// Loads under way.
    pub(crate) in_flight: Arc<AtomicUsize>,
    pub(crate) realm: Realm,
    pub(crate) policy: Arc<CryptoPolicy>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: RandomFill,
    pub(crate) meters: Arc<Meters>,
    pub(crate) audit: Arc<Audit>,
}

/// What is to be done when the newest row was looked at.
enum Plan {
    /// Use it.
    Adopt(EnvelopeKeyRecord, Option<Arc<CachedKey>>),
    /// Make a key that comes after it.
    Make(RotationCause),
}

impl Loader {
    pub(super) fn now(&self) -> i64 {
        unix_millis(self.clock.now())
    }

    pub(super) fn meters(&self, kind: Option<KeyKind>) -> &KeyMeters {
        if kind == Some(KeyKind::System) { &self.meters.system_keys } else { &self.meters.intermediate_keys }
    }

    /// Finds what is wanted of `ring`; `cache` is where system keys are asked for.
    pub(super) async fn load(
        self,
        cache: Addr<KeyCacheActor>,
        ring: Arc<KeyRing>,
        wanted: Wanted,
    ) -> Result<Arc<CachedKey>, Error> {
        match wanted {
            Wanted::Latest | Wanted::Ahead | Wanted::Rotated => self.newest(&cache, &ring, wanted).await,
            Wanted::Exact(created) | Wanted::Checked(created) | Wanted::Confirmed(created) => {
                self.version(&cache, &ring, created).await
            }
        }
    }

    async fn version(
        &self,
        cache: &Addr<KeyCacheActor>,
        ring: &KeyRing,
        created: i64,
    ) -> Result<Arc<CachedKey>, Error> {
        let meta = KeyMeta { id: ring.id().clone(), created };
        if self.outlawed.is_shredded(&meta.id) {
            return Err(Error::Shredded { id: meta.id.to_string() });
        }
        let asked = self.now();
        let row = self.store.load(meta.clone()).await?;
        let Some(row) = row.filter(|row| !row.is_tombstone()) else {
            return Err(self.missing(ring, &meta).await?);
        };
        ring.checks().observe(asked);
        // What is loaded needs no parent again.
        if let Some(known) = ring.with_version(created, Arc::clone) {
            known.status().observe(self.is_revoked(&meta, &row), asked);
            return Ok(known);
        }
        if ring.id().kind() == Some(KeyKind::System) {
            return self.open_system(ring, row, asked).await;
        }
        let Some(parent) = row.parent_key.clone() else {
            return Err(self.corrupt(&meta, "it names no system key"));
        };
        let parent = self.system_key(cache, parent.id, Wanted::Exact(parent.created)).await?;
        self.open_intermediate(ring, &row, &parent, asked).await
    }

    /// Says why there is no such row: for a key that was there once it is worth a second look.
    async fn missing(&self, ring: &KeyRing, meta: &KeyMeta) -> Result<Error, Error> {
        let was_there = ring.with_version(meta.created, |_| ()).is_some();
        let newest = if was_there { self.store.load_latest(meta.id.clone()).await? } else { None };
        if newest.is_some_and(|row| row.is_tombstone()) {
            return Ok(self.shredded(meta));
        }
        Ok(Error::KeyNotFound { id: meta.id.to_string(), created: meta.created })
    }

    /// Finds the newest key, or makes it.
    async fn newest(
        &self,
        cache: &Addr<KeyCacheActor>,
        ring: &KeyRing,
        wanted: Wanted,
    ) -> Result<Arc<CachedKey>, Error> {
        let is_system = ring.id().kind() == Some(KeyKind::System);
        for attempt in 0..ATTEMPTS {
            // The first loser finds the winner's key; whoever loses again may be reading from a replica that lags.
            if attempt > 1 {
                tokio::time::sleep(ATTEMPT_DELAY.saturating_mul(attempt)).await;
            }
            let asked = self.now();
            let row = self.store.load_latest(ring.id().clone()).await?;
            let latest = row.as_ref().map(|row| row.created);
            let cause = match self.plan(cache, ring, row, wanted, asked).await? {
                Plan::Adopt(row, None) => return self.open_system(ring, row, asked).await,
                Plan::Adopt(row, Some(parent)) => return self.open_intermediate(ring, &row, &parent, asked).await,
                Plan::Make(cause) => cause,
            };
            let made = if is_system {
                self.make_system(ring, latest, asked).await?
            } else {
                // Its own making, where that is called for, is ahead of time too.
                let parent = if wanted == Wanted::Ahead { Wanted::Ahead } else { Wanted::Latest };
                let parent = self.system_key(cache, self.realm.system_key().clone(), parent).await?;
                self.make_intermediate(ring, latest, &parent, asked).await?
            };
            if let Some(key) = made {
                ring.checks().observe(asked);
                tracing::info!(kind = ?ring.id().kind(), created = key.meta().created, %cause, "made a key");
                self.meters(ring.id().kind()).count_rotation(cause.as_str());
                self.audit.key_made(key.meta(), cause);
                return Ok(key);
            }
        }
        Err(Error::KeyContention { id: ring.id().to_string(), attempts: ATTEMPTS })
    }

    /// Decides what becomes of the newest row, by itself, its system key and what is wanted.
    async fn plan(
        &self,
        cache: &Addr<KeyCacheActor>,
        ring: &KeyRing,
        row: Option<EnvelopeKeyRecord>,
        wanted: Wanted,
        asked: i64,
    ) -> Result<Plan, Error> {
        let created = row.as_ref().map_or(TOMBSTONE_CREATED, |row| row.created);
        let meta = KeyMeta { id: ring.id().clone(), created };
        let is_tombstone = row.as_ref().is_some_and(EnvelopeKeyRecord::is_tombstone);
        if is_tombstone || self.outlawed.is_shredded(&meta.id) {
            return Err(self.shredded(&meta));
        }
        let Some(row) = row else { return Ok(Plan::Make(RotationCause::First)) };
        ring.checks().observe(asked);
        let now = self.now();
        if self.policy.is_skewed(row.created, now) {
            tracing::warn!(
                created = row.created,
                "the latest key is dated in the future; check the clocks of all writers"
            );
        }
        if self.is_revoked(&meta, &row) {
            ring.with_version(row.created, |known| known.status().observe(true, asked));
            return Ok(Plan::Make(RotationCause::Revoked));
        }
        if self.policy.is_expired(row.created, now) {
            return Ok(Plan::Make(RotationCause::Expired));
        }
        let wraps = ring.with_version(row.created, |known| known.wraps().get()).unwrap_or(0);
        if self.policy.is_spent(wraps) {
            return Ok(Plan::Make(RotationCause::Budget));
        }
        if wanted == Wanted::Rotated {
            return Ok(Plan::Make(RotationCause::Requested));
        }
        let parent = if ring.id().kind() == Some(KeyKind::System) {
            None
        } else {
            match self.valid_parent(cache, &row).await? {
                Some(parent) => Some(parent),
                None => return Ok(Plan::Make(RotationCause::Parent)),
            }
        };
        if wanted == Wanted::Ahead && self.is_due(cache, ring, &row, parent.as_deref()).await? {
            return Ok(Plan::Make(RotationCause::Ahead));
        }
        Ok(Plan::Adopt(row, parent))
    }

    /// Tells whether the successor of a valid row is to be made now, and would last longer.
    async fn is_due(
        &self,
        cache: &Addr<KeyCacheActor>,
        ring: &KeyRing,
        row: &EnvelopeKeyRecord,
        parent: Option<&CachedKey>,
    ) -> Result<bool, Error> {
        let now = self.now();
        let (jitter, wraps) =
            ring.with_version(row.created, |known| (known.checks().jitter(), known.wraps().get())).unwrap_or_default();
        if self.policy.is_nearly_spent(wraps) {
            return Ok(true);
        }
        let jitter = if parent.is_some() { jitter } else { 0 };
        let due = |created: i64| self.policy.due_at(self.policy.expires_at(created), jitter);
        let parents = parent.map(|parent| parent.meta().created);
        if now < due(parents.map_or(row.created, |parent| parent.min(row.created))) {
            return Ok(false);
        }
        let Some(created) = self.policy.next_created(now, None).filter(|&created| created > row.created) else {
            return Ok(false);
        };
        let Some(parents) = parents else { return Ok(now < due(created)) };
        let next = if now < due(parents) {
            parents
        } else {
            self.system_key(cache, self.realm.system_key().clone(), Wanted::Ahead).await?.meta().created
        };
        Ok(now < due(created.min(next)))
    }

    async fn make_system(
        &self,
        ring: &KeyRing,
        latest: Option<i64>,
        asked: i64,
    ) -> Result<Option<Arc<CachedKey>>, Error> {
        let meta = self.new_meta(ring, latest)?;
        let key = self.guard.reserve().await?.generate::<Error>(&label(&meta))?;
        let encrypted_key = self.kms.wrap(Arc::clone(&key)).await?;
        let record = EnvelopeKeyRecord { created: meta.created, encrypted_key, parent_key: None, revoked: false };
        if self.store.store(meta.id.clone(), record).await? != StoreOutcome::Stored {
            return Ok(None);
        }
        let status = self.new_status(meta, false, asked)?;
        Ok(Some(Arc::new(CachedKey::new(&self.policy, key, status, None))))
    }

    async fn make_intermediate(
        &self,
        ring: &KeyRing,
        latest: Option<i64>,
        parent: &CachedKey,
        asked: i64,
    ) -> Result<Option<Arc<CachedKey>>, Error> {
        let meta = self.new_meta(ring, latest)?;
        let key = self.guard.reserve().await?.generate::<Error>(&label(&meta))?;
        let record = EnvelopeKeyRecord {
            created: meta.created,
            encrypted_key: self.wrap(parent, &key)?.to_vec(),
            parent_key: Some(parent.meta().clone()),
            revoked: false,
        };
        if self.store.store(meta.id.clone(), record).await? != StoreOutcome::Stored {
            return Ok(None);
        }
        let status = self.new_status(meta, false, asked)?;
        Ok(Some(Arc::new(CachedKey::new(&self.policy, key, status, Some(Arc::clone(parent.status()))))))
    }

    /// Returns the system key that a valid row names, unless it is missing or must not encrypt any more.
    async fn valid_parent(
        &self,
        cache: &Addr<KeyCacheActor>,
        row: &EnvelopeKeyRecord,
    ) -> Result<Option<Arc<CachedKey>>, Error> {
        let Some(parent) = row.parent_key.clone() else { return Ok(None) };
        match self.system_key(cache, parent.id, Wanted::Checked(parent.created)).await {
            Ok(key) => Ok(Some(key).filter(|key| !key.is_invalid(self.now()))),
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
            return Err(self.corrupt(&KeyMeta { id, created }, "a key row names it as its system key"));
        }
        let ring = self.index.lend(&id);
        let answer = cache.send(Get { ring: Arc::clone(&ring), wanted, caller: None }).await;
        answer.unwrap_or(Err(Error::Restarted { component: "key cache" }))
    }

    async fn open_system(&self, ring: &KeyRing, row: EnvelopeKeyRecord, asked: i64) -> Result<Arc<CachedKey>, Error> {
        let meta = KeyMeta { id: ring.id().clone(), created: row.created };
        if let Some(known) = self.refreshed(ring, &meta, &row, None, asked) {
            return Ok(known);
        }
        let place = self.guard.reserve().await?;
        let revoked = self.is_revoked(&meta, &row);
        let opened = self.kms.unwrap(row.encrypted_key, label(&meta), place).await;
        let key = opened.inspect_err(|error| {
            if matches!(error, Error::Kms(_)) {
                let (created, class) = (meta.created, error.class());
                tracing::error!(
                    created,
                    class,
                    "a system key cannot be opened: until it can, this process neither encrypts nor decrypts under it"
                );
            }
        })?;
        let status = self.new_status(meta, revoked, asked)?;
        Ok(Arc::new(CachedKey::new(&self.policy, key, status, None)))
    }

    async fn open_intermediate(
        &self,
        ring: &KeyRing,
        row: &EnvelopeKeyRecord,
        parent: &CachedKey,
        asked: i64,
    ) -> Result<Arc<CachedKey>, Error> {
        let meta = KeyMeta { id: ring.id().clone(), created: row.created };
        if let Some(known) = self.refreshed(ring, &meta, row, Some(parent), asked) {
            return Ok(known);
        }
        let sealed: &SealedKey = row
            .encrypted_key
            .as_slice()
            .try_into()
            .map_err(|_| self.corrupt(&meta, "a key wrapped by a system key has 60 bytes"))?;
        let place = self.guard.reserve().await?;
        let key = place.fill(&label(&meta), |bytes| {
            parent
                .key()
                .using(|state| state.unwrap(sealed, &[], bytes))?
                .map_err(|_| self.corrupt(&meta, "it does not open under its system key"))
        })?;
        let status = self.new_status(meta.clone(), self.is_revoked(&meta, row), asked)?;
        Ok(Arc::new(CachedKey::new(&self.policy, key, status, Some(Arc::clone(parent.status())))))
    }

    /// Renews what is known of a version that is loaded already: no unwrapping, the same key in the same place.
    ///
    /// `asked` is when the row was asked for, in Unix milliseconds: what was revoked while a slow answer was on its way is
    /// not known yet.
    fn refreshed(
        &self,
        ring: &KeyRing,
        meta: &KeyMeta,
        row: &EnvelopeKeyRecord,
        parent: Option<&CachedKey>,
        asked: i64,
    ) -> Option<Arc<CachedKey>> {
        ring.with_version(row.created, |known| {
            known.status().observe(self.is_revoked(meta, row), asked);
            Arc::new(known.under(&self.policy, parent.map(|parent| Arc::clone(parent.status()))))
        })
    }

    /// Tells whether a row is revoked, or was once seen so.
    fn is_revoked(&self, meta: &KeyMeta, row: &EnvelopeKeyRecord) -> bool {
        if row.revoked && self.outlawed.revoke(meta) {
            self.audit.key_revoked(meta);
            self.index.revoke(meta);
        }
        row.revoked || self.outlawed.is_revoked(meta)
    }

    /// Names the key that comes after the latest one, if there is one.
    fn new_meta(&self, ring: &KeyRing, latest: Option<i64>) -> Result<KeyMeta, Error> {
        let id = ring.id().clone();
        match self.policy.next_created(self.now(), latest) {
            Some(created) => Ok(KeyMeta { id, created }),
            None => Err(self.corrupt(&KeyMeta { id, created: i64::MAX }, "no key can be created after it")),
        }
    }

    fn new_status(&self, meta: KeyMeta, revoked: bool, asked: i64) -> Result<Arc<KeyStatus>, Error> {
        let mut jitter = [0];
        (self.random)(&mut jitter)?;
        Ok(Arc::new(KeyStatus::new(meta, revoked, asked, jitter[0], &self.policy)))
    }

    fn wrap(&self, parent: &CachedKey, key: &LockedKey) -> Result<SealedKey, Error> {
        let mut nonce = [0; 12];
        (self.random)(&mut nonce)?;
        parent.wraps().count(&nonce);
        Ok(key.with_bytes(|bytes| parent.key().using(|state| state.wrap(bytes, &nonce, &[])))??)
    }

    /// Takes note that all keys of an id were destroyed.
    fn shredded(&self, meta: &KeyMeta) -> Error {
        if self.outlawed.shred(&meta.id) {
            self.audit.key_refused(meta, "all keys of its partition were destroyed");
        }
        Error::Shredded { id: meta.id.to_string() }
    }

    fn corrupt(&self, meta: &KeyMeta, reason: &'static str) -> Error {
        tracing::error!(created = meta.created, reason, "a key row is unusable");
        self.audit.key_refused(meta, reason);
        Error::KeyCorrupt { id: meta.id.to_string(), created: meta.created, reason }
    }
}

/// What the sealed copy of a key in memory is bound to.
fn label(meta: &KeyMeta) -> Vec<u8> {
    [meta.id.as_str().as_bytes(), &meta.created.to_le_bytes()].concat()
}
