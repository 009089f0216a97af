//! What operators do with keys, beside or within a running program.

use std::fmt;
use std::sync::Arc;

use crate::actors::Wanted;
use crate::error::{Error, StoreError};
use crate::ids::{KeyId, KeyKind, KeyMeta, Partition};
use crate::record::EnvelopeKeyRecord;
use crate::session::Shared;
use crate::stores::{KeyAdmin, Revocation};

/// How many rows are asked for at a time.
const PAGE: usize = 500;

/// Revokes, rotates and destroys keys of a session factory, with effect in it at once.
///
/// Other processes, and other factories, notice within their
/// [`revoke_check_interval`](crate::CryptoPolicy::revoke_check_interval). Cloning shares it.
///
/// ```
/// use keyward::stores::Revocation;
/// # use keyward::{SessionFactory, kms::StaticKms, stores::InMemoryMetastore};
/// # use std::sync::Arc;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Arc::new(InMemoryMetastore::new());
/// let factory = SessionFactory::builder("my-service", "my-product")
///     .metastore(Arc::clone(&store))
///     .kms(StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?)
///     .build()
///     .await?;
/// let session = factory.session("alice").await?;
/// let before = session.encrypt(b"tea").await?;
///
/// let keys = factory.keys(store);
/// assert_eq!(keys.revoke(before.parent_key()).await?, Revocation::Revoked);
/// assert_ne!(session.encrypt(b"tea").await?.parent_key(), before.parent_key());
/// assert_eq!(session.decrypt(&before).await?, b"tea");
///
/// keys.shred("alice").await?;
/// assert!(session.decrypt(&before).await.is_err());
/// # factory.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Keys {
    shared: Arc<Shared>,
    store: Arc<dyn KeyAdmin>,
}

/// What became of revoking many keys.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RevokedKeys {
    /// Those that are revoked now and were not before.
    pub revoked: Vec<KeyMeta>,
    /// Those that could not be revoked, and why.
    pub failed: Vec<(KeyMeta, Error)>,
}

impl Keys {
    pub(crate) fn new(shared: Arc<Shared>, store: Arc<dyn KeyAdmin>) -> Self {
        Self { shared, store }
    }

    /// Revokes one version of a key: it encrypts no more, here from this moment on, and decrypts for ever.
    ///
    /// Revoking a system key takes the intermediate keys under it out of use.
    ///
    /// # Errors
    /// [`Error::Metastore`]: the key may be revoked there or not, and is out of use here; [`Error::Closed`].
    ///
    /// # Cancel safety
    /// As all operations here: what was begun goes on to its end.
    pub async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, Error> {
        let (own, key) = (self.clone(), key.clone());
        self.shared.system.detached(async move { own.revoke_now(&key).await }).await
    }

    /// Revokes all keys of a kind that were created before `created_before` (Unix seconds), those of other services and
    /// products in the store too.
    ///
    /// # Errors
    /// [`Error::Metastore`] when the keys cannot be listed; one that cannot be revoked keeps no other from being so.
    pub async fn revoke_before(&self, kind: KeyKind, created_before: i64) -> Result<RevokedKeys, Error> {
        let own = self.clone();
        self.shared.system.detached(async move { own.revoke_all(kind, created_before).await }).await
    }

    /// Makes a new intermediate key for a partition, under which it encrypts from now on.
    ///
    /// # Errors
    /// [`Error::Partition`], or why the key could not be made.
    pub async fn rotate(&self, partition: &str) -> Result<KeyMeta, Error> {
        let partition = self.shared.realm.partition(partition)?;
        self.rotate_key(partition.intermediate_key()).await
    }

    /// Makes a new system key, under which intermediate keys are made from now on.
    ///
    /// Those that there are stay in use for as long as theirs is valid: to replace them too, revoke that.
    ///
    /// # Errors
    /// Why the key could not be made.
    pub async fn rotate_system_key(&self) -> Result<KeyMeta, Error> {
        self.rotate_key(self.shared.realm.system_key()).await
    }

    /// Destroys all keys of a partition for good, and returns which versions there were: its own, those without a region
    /// suffix, and those with a suffix that the factory may read.
    ///
    /// Nothing that was encrypted for it can be decrypted again, but with a copy of the metastore from before. It can have
    /// no new keys either: encrypting ends in [`Error::Shredded`], and so does decrypting, or in [`Error::KeyNotFound`] in
    /// processes that never had the key. Shredding again is harmless.
    ///
    /// # Errors
    /// [`Error::Partition`], [`Error::Metastore`]: keys may be destroyed or not, and shredding again finds out. A store may
    /// need longer than the factory's `metastore_timeout` to erase them, and goes on when that is over.
    pub async fn shred(&self, partition: &str) -> Result<Vec<KeyMeta>, Error> {
        let (own, partition) = (self.clone(), self.shared.realm.partition(partition)?);
        self.shared.system.detached(async move { own.shred_now(&partition).await }).await
    }

    async fn revoke_now(&self, key: &KeyMeta) -> Result<Revocation, Error> {
        let outcome = self.within("revoke a key", self.store.revoke(key)).await;
        // Whoever wants it revoked does not want it used until the store has answered.
        if !matches!(outcome, Ok(Revocation::NotFound)) {
            self.shared.system.keys.revoke(key.clone()).await?;
        }
        outcome
    }

    async fn revoke_all(&self, kind: KeyKind, created_before: i64) -> Result<RevokedKeys, Error> {
        let mut outcome = RevokedKeys::default();
        let mut after: Option<KeyMeta> = None;
        loop {
            let page = self.within("list keys", self.store.list(after.as_ref(), PAGE)).await?;
            let Some(last) = page.last() else { return Ok(outcome) };
            after = Some(last.key.clone());
            let is_wanted = |key: &KeyMeta| key.id.kind() == Some(kind) && key.created < created_before;
            for key in page.into_iter().map(|row| row.key).filter(is_wanted) {
                match self.revoke_now(&key).await {
                    Ok(Revocation::Revoked) => outcome.revoked.push(key),
                    Ok(_) => {}
                    Err(error) => outcome.failed.push((key, error)),
                }
            }
        }
    }

    async fn shred_now(&self, partition: &Partition) -> Result<Vec<KeyMeta>, Error> {
        let mut shredded = Vec::new();
        for id in partition.readable_keys() {
            let versions = self.within("list the versions of a key", self.store.versions(&id)).await?;
            let parent = versions.into_iter().find_map(|row| row.record.ok()?.parent_key);
            let none = KeyMeta { id: self.shared.realm.system_key().clone(), created: 0 };
            let tombstone = EnvelopeKeyRecord::tombstone(Some(parent.unwrap_or(none)));
            let destroyed = self.within("shred the keys of a partition", self.store.shred(&id, &tombstone)).await;
            let keys = &self.shared.system.keys;
            match destroyed {
                Ok(destroyed) => {
                    self.shared.audit.key_shredded(&id, destroyed.len());
                    keys.shred(id).await?;
                    shredded.extend(destroyed);
                }
                Err(error) => {
                    // They may be destroyed: whoever needs them looks first.
                    keys.forget(id).await?;
                    return Err(error);
                }
            }
        }
        Ok(shredded)
    }

    async fn rotate_key(&self, id: &KeyId) -> Result<KeyMeta, Error> {
        let keys = &self.shared.system.keys;
        let ring = keys.index().lend(id);
        Ok(keys.get(Arc::clone(&ring), Wanted::Rotated).await?.meta().clone())
    }

    /// Gives a call to the store its time; only on a thread that has timers.
    async fn within<R>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<R, StoreError>>,
    ) -> Result<R, Error> {
        let (after, place) = (self.shared.system.store_timeout(), self.shared.system.store_place());
        let late = |_| Err(StoreError::Timeout { operation, place: place.to_owned(), after });
        Ok(tokio::time::timeout(after, call).await.unwrap_or_else(late)?)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}
