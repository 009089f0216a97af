//! The key cache: which key versions are known, and one load for however many callers wait.

mod load;
mod ring;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture,
};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::Mailbox;
use crate::cache::Lru;
use crate::error::Error;
use crate::ids::KeyKind;

pub(crate) use load::Loader;
pub(crate) use ring::{CachedKey, KeyIndex, KeyRing, Verdict, Wanted};

/// Room for callers who miss at once; more wait their turn, and none waits longer than its deadline.
const CAPACITY: usize = 1024;

/// The handle of the key cache.
#[derive(Clone)]
pub(crate) struct KeyCache {
    mailbox: Mailbox<KeyCacheActor>,
    index: Arc<KeyIndex>,
    deadline: Duration,
}

impl KeyCache {
    /// Starts the cache. What it publishes outlives it: a cache that dies is replaced by one that knows the same keys.
    pub(super) fn start(arbiter: &ArbiterHandle, loader: Loader, deadline: Duration) -> Self {
        let index = Arc::clone(&loader.index);
        let mailbox = Mailbox::start("key cache", arbiter, CAPACITY, move || KeyCacheActor::new(loader.clone()));
        Self { mailbox, index, deadline }
    }

    /// Returns what is wanted of `ring`, loading or making it if need be.
    ///
    /// # Errors
    /// [`Error::Timeout`] after the deadline, or why the load failed.
    ///
    /// # Cancel safety
    /// A caller who goes away cancels nobody's load.
    pub(crate) async fn get(&self, ring: Arc<KeyRing>, wanted: Wanted) -> Result<Arc<CachedKey>, Error> {
        self.mailbox.ask(Get { ring, wanted, deadline: Some(self.deadline) }).await?
    }

    /// Has the newest version of `ring` looked at, without waiting.
    pub(crate) fn refresh(&self, ring: Arc<KeyRing>, key: &CachedKey) {
        if !self.mailbox.post(Refresh { ring }) {
            key.reset_refresh();
        }
    }

    /// Forgets all keys and fails all who wait.
    pub(super) async fn close(&self) -> Result<(), Error> {
        let closed = self.mailbox.ask(Close).await;
        self.mailbox.close();
        for ring in self.index.all() {
            ring.clear();
        }
        closed
    }

    /// Tells whether this is a fork of the process that the actors run in.
    pub(super) fn is_forked(&self) -> bool {
        self.mailbox.is_forked()
    }

    pub(crate) fn index(&self) -> &Arc<KeyIndex> {
        &self.index
    }

    /// Returns how many ids and how many versions are cached.
    pub(super) fn size(&self) -> (usize, usize) {
        self.index.size()
    }

    pub(super) fn sent(&self) -> u64 {
        self.mailbox.sent()
    }
}

/// Asks for a key; who asks waits at most until the deadline, the load goes on.
pub(super) struct Get {
    ring: Arc<KeyRing>,
    wanted: Wanted,
    deadline: Option<Duration>,
}

impl Message for Get {
    type Result = Result<Arc<CachedKey>, Error>;
}

struct Refresh {
    ring: Arc<KeyRing>,
}

impl Message for Refresh {
    type Result = ();
}

struct Close;

impl Message for Close {
    type Result = ();
}

/// One load: by ring, so that rings of the same id do not share what they must not.
type LoadId = (u64, Wanted);

struct Load {
    waiting: Vec<oneshot::Sender<Result<Arc<CachedKey>, Error>>>,
    task: AbortHandle,
}

/// Serialises what is known of keys; the loads themselves run beside it.
pub(super) struct KeyCacheActor {
    loader: Loader,
    loads: HashMap<LoadId, Load>,
    system_keys: Versions,
    intermediate_keys: Versions,
    closed: bool,
}

/// Which versions are cached, in the order of their use.
type Versions = Lru<(u64, i64), Weak<KeyRing>>;

impl KeyCacheActor {
    fn new(loader: Loader) -> Self {
        let lru = |size| Lru::new(NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN));
        let mut actor = Self {
            loads: HashMap::new(),
            system_keys: lru(loader.policy.system_key_cache_size),
            intermediate_keys: lru(loader.policy.intermediate_key_cache_size),
            closed: false,
            loader,
        };
        // After a restart: what an earlier life published is still there.
        for ring in actor.loader.index.all() {
            for key in ring.versions().iter() {
                actor.remember(&ring, key);
            }
        }
        actor
    }

    fn start_load(&mut self, ring: Arc<KeyRing>, wanted: Wanted, context: &mut Context<Self>) {
        let id = (ring.serial(), wanted);
        let load = self.loader.clone().load(context.address(), Arc::clone(&ring), wanted);
        // A task of its own: a panic in an application's store or service ends this load and nothing else.
        let task = actix::spawn(load);
        self.loads.insert(id, Load { waiting: Vec::new(), task: task.abort_handle() });
        context.spawn(task.into_actor(self).map(move |result, actor, _| {
            let result = result.unwrap_or(Err(Error::Restarted { component: "key load" }));
            actor.finish_load(&ring, wanted, &result);
            // Whoever asked may be gone, and with nothing loaded nobody else would give the ring back.
            actor.loader.index.release(ring);
        }));
    }

    fn finish_load(&mut self, ring: &Arc<KeyRing>, wanted: Wanted, result: &Result<Arc<CachedKey>, Error>) {
        let Some(load) = self.loads.remove(&(ring.serial(), wanted)) else { return };
        match result {
            Ok(key) => self.publish(ring, key, wanted == Wanted::Latest),
            // A failed refresh is not repeated at once: when the key is stale its users wait for one load.
            Err(error) => {
                tracing::debug!(error = error as &dyn std::error::Error, "a key could not be loaded");
            }
        }
        for waiting in load.waiting {
            // Whoever is gone does not want it any more.
            let _ = waiting.send(result.clone());
        }
    }

    fn publish(&mut self, ring: &Arc<KeyRing>, key: &Arc<CachedKey>, latest: bool) {
        let policy = &self.loader.policy;
        let cached = match ring.id().kind() {
            Some(KeyKind::System) => policy.cache_system_keys,
            _ => policy.cache_intermediate_keys,
        };
        if cached && !self.closed {
            ring.publish(key, latest);
            self.remember(ring, key);
        }
    }

    /// Notes that a version is cached, at the expense of the one that was used least recently if there are too many.
    fn remember(&mut self, ring: &Arc<KeyRing>, key: &CachedKey) {
        let versions = match ring.id().kind() {
            Some(KeyKind::System) => &mut self.system_keys,
            _ => &mut self.intermediate_keys,
        };
        let place = (ring.serial(), key.meta().created);
        let departed = versions.insert(place, Arc::downgrade(ring), |(_, created), ring| {
            ring.upgrade().is_some_and(|ring| ring.with_version(*created, |key| key.take_touched()).unwrap_or(false))
        });
        if let Some((gone, ring)) = departed
            && gone != place
            && let Some(ring) = ring.upgrade()
        {
            ring.withdraw(gone.1);
            self.loader.index.release(ring);
        }
    }
}

impl Actor for KeyCacheActor {
    type Context = Context<Self>;
}

impl Handler<Get> for KeyCacheActor {
    /// Interleaves: a key that loads slowly never delays another.
    type Result = ResponseFuture<Result<Arc<CachedKey>, Error>>;

    fn handle(&mut self, Get { ring, wanted, deadline }: Get, context: &mut Self::Context) -> Self::Result {
        if self.closed {
            return Box::pin(std::future::ready(Err(Error::Closed)));
        }
        if let Some(key) = ring.find(wanted, &self.loader.policy, self.loader.now()) {
            return Box::pin(std::future::ready(Ok(key)));
        }
        // Both look at the same row.
        let wanted = if let Wanted::Checked(created) = wanted { Wanted::Exact(created) } else { wanted };
        let id = (ring.serial(), wanted);
        if !self.loads.contains_key(&id) {
            self.start_load(ring, wanted, context);
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(load) = self.loads.get_mut(&id) {
            load.waiting.push(sender);
        }
        Box::pin(async move {
            let answer = async { receiver.await.unwrap_or(Err(Error::Restarted { component: "key cache" })) };
            match deadline {
                None => answer.await,
                Some(after) => tokio::time::timeout(after, answer)
                    .await
                    .unwrap_or(Err(Error::Timeout { operation: "loading a key", after })),
            }
        })
    }
}

impl Handler<Refresh> for KeyCacheActor {
    type Result = ();

    fn handle(&mut self, Refresh { ring }: Refresh, context: &mut Self::Context) {
        if !self.closed && !self.loads.contains_key(&(ring.serial(), Wanted::Latest)) {
            self.start_load(ring, Wanted::Latest, context);
        }
    }
}

impl Handler<Close> for KeyCacheActor {
    type Result = ();

    fn handle(&mut self, _: Close, _: &mut Self::Context) {
        self.closed = true;
        for (_, load) in self.loads.drain() {
            load.task.abort();
            for waiting in load.waiting {
                let _ = waiting.send(Err(Error::Closed));
            }
        }
        // Rings that sessions have to themselves are known here and nowhere else.
        for versions in [&mut self.system_keys, &mut self.intermediate_keys] {
            while let Some((_, ring)) = versions.pop_oldest_if(|_| true) {
                if let Some(ring) = ring.upgrade() {
                    ring.clear();
                }
            }
        }
    }
}
