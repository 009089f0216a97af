//! Calls of operators to a store end, however the server is: inside a session factory they have its deadlines.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyward::stores::{KeyAdmin, KeyRow, Replacement, Revocation, StoreError};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};
use tokio::time::timeout;

/// How long one call may take: a page of keys, or one key.
const CALL: Duration = Duration::from_secs(30);

/// How long shredding may take, which in SQLite writes the file anew.
const SHREDDING: Duration = Duration::from_secs(600);

/// A store whose calls end.
pub(super) struct Timely {
    store: Arc<dyn KeyAdmin>,
    place: String,
}

impl Timely {
    pub(super) fn new(store: Arc<dyn KeyAdmin>, place: String) -> Self {
        Self { store, place }
    }
}

/// Gives a call its time.
///
/// # Errors
/// [`StoreError::Timeout`], and those of the call.
pub(super) async fn within<R>(
    operation: &'static str,
    place: &str,
    after: Duration,
    call: impl Future<Output = Result<R, StoreError>>,
) -> Result<R, StoreError> {
    let late = |_| Err(StoreError::Timeout { operation, place: place.to_owned(), after });
    timeout(after, call).await.unwrap_or_else(late)
}

#[async_trait]
impl KeyAdmin for Timely {
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        within("list keys", &self.place, CALL, self.store.list(after, limit)).await
    }

    async fn versions(&self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
        within("list the versions of a key", &self.place, CALL, self.store.versions(id)).await
    }

    async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, StoreError> {
        within("revoke a key", &self.place, CALL, self.store.revoke(key)).await
    }

    async fn shred(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError> {
        within("shred a key", &self.place, SHREDDING, self.store.shred(id, tombstone)).await
    }

    async fn replace_wrapped_key(&self, key: &KeyMeta, old: &[u8], new: &[u8]) -> Result<Replacement, StoreError> {
        within("replace a wrapped key", &self.place, CALL, self.store.replace_wrapped_key(key, old, new)).await
    }
}
