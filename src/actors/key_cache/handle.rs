//! The handle of the key cache, and what it is asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{ArbiterHandle, Message};

use super::actor::KeyCacheActor;
use super::{CachedKey, KeyIndex, KeyRing, Loader, Wanted};
use crate::actors::Mailbox;
use crate::error::Error;
use crate::ids::{KeyId, KeyMeta};

/// Room for callers who miss at once; more wait their turn, and none waits longer than its deadline.
const CAPACITY: usize = 1024;

/// The handle of the key cache.
#[derive(Clone)]
pub(crate) struct KeyCache {
    mailbox: Mailbox<KeyCacheActor>,
    loader: Loader,
    deadline: Duration,
}

impl KeyCache {
    /// Starts the cache. What it publishes outlives it: a cache that dies is replaced by one that knows the same keys.
    pub(in crate::actors) fn start(arbiter: &ArbiterHandle, loader: Loader, deadline: Duration) -> Self {
        let own = loader.clone();
        let mailbox = Mailbox::start("key cache", arbiter, CAPACITY, move || KeyCacheActor::new(own.clone()));
        Self { mailbox, loader, deadline }
    }

    /// Returns what is wanted of `ring`, loading or making it if need be.
    ///
    /// # Errors
    /// [`Error::Timeout`] after the deadline, or why the load failed.
    ///
    /// # Cancel safety
    /// A caller who goes away cancels nobody's load.
    pub(crate) async fn get(&self, ring: Arc<KeyRing>, wanted: Wanted) -> Result<Arc<CachedKey>, Error> {
        let key = self.mailbox.ask(Get { ring, wanted, caller: Some(self.deadline) }).await??;
        // What is not cached, the cache cannot reach any more once it has answered.
        self.loader.outlawed.tell(&key);
        Ok(key)
    }

    /// Has the store looked at for what is wanted, without waiting; `false` when there is no room to ask.
    pub(crate) fn look(&self, ring: Arc<KeyRing>, wanted: Wanted) -> bool {
        self.mailbox.post(Look { ring, wanted })
    }

    /// Has a version encrypt no more, from this moment on.
    pub(crate) async fn revoke(&self, key: KeyMeta) -> Result<(), Error> {
        self.mailbox.ask(Revoke { key }).await
    }

    /// Forgets all versions of a key that was destroyed, and that it ever comes back.
    pub(crate) async fn shred(&self, id: KeyId) -> Result<(), Error> {
        self.mailbox.ask(Shred { id }).await
    }

    /// Forgets all versions of a key, which may have been destroyed.
    pub(crate) async fn forget(&self, id: KeyId) -> Result<(), Error> {
        self.mailbox.ask(Forget { id }).await
    }

    /// Forgets all keys and fails all who wait.
    pub(in crate::actors) async fn close(&self) -> Result<(), Error> {
        let closed = self.mailbox.ask(Close).await;
        self.mailbox.close();
        for ring in self.loader.index.all() {
            ring.clear();
        }
        closed
    }

    /// Tells whether this is a fork of the process that the actors run in.
    pub(in crate::actors) fn is_forked(&self) -> bool {
        self.mailbox.is_forked()
    }

    pub(crate) fn index(&self) -> &Arc<KeyIndex> {
        &self.loader.index
    }

    /// Returns how many ids and how many versions are cached, and how many keys that encrypt are dated further in the future
    /// than clocks may differ.
    pub(in crate::actors) fn size(&self) -> (usize, usize, usize) {
        let now = self.loader.now();
        self.loader.index.size(|key| self.loader.policy.is_skewed(key.meta().created, now))
    }

    /// Returns how many loads are under way.
    pub(in crate::actors) fn loads(&self) -> usize {
        self.loader.in_flight.load(Ordering::Relaxed)
    }

    pub(in crate::actors) fn sent(&self) -> u64 {
        self.mailbox.sent()
    }
}

/// Asks for a key. A caller waits at most for its deadline, the load goes on.
pub(super) struct Get {
    pub(super) ring: Arc<KeyRing>,
    pub(super) wanted: Wanted,
    /// The deadline of a caller; a load that needs another key has its own.
    pub(super) caller: Option<Duration>,
}

impl Message for Get {
    type Result = Result<Arc<CachedKey>, Error>;
}

pub(super) struct Look {
    pub(super) ring: Arc<KeyRing>,
    pub(super) wanted: Wanted,
}

impl Message for Look {
    type Result = ();
}

pub(super) struct Revoke {
    pub(super) key: KeyMeta,
}

impl Message for Revoke {
    type Result = ();
}

pub(super) struct Shred {
    pub(super) id: KeyId,
}

impl Message for Shred {
    type Result = ();
}

pub(super) struct Forget {
    pub(super) id: KeyId,
}

impl Message for Forget {
    type Result = ();
}

pub(super) struct Close;

impl Message for Close {
    type Result = ();
}
