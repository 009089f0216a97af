//! The session registry: which sessions are open and which are kept for the next caller.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use actix::{Actor, ArbiterHandle, Context, Handler, Message};
use dashmap::DashMap;

use super::Mailbox;
use super::key_cache::{KeyIndex, KeyRing};
use crate::cache::Lru;
use crate::clock::{Clock, millis, unix_millis};
use crate::error::Error;
use crate::ids::Partition;
use crate::policy::{CacheScope, CryptoPolicy};

/// Room for callers who open sessions at once; more wait their turn.
const CAPACITY: usize = 1024;

/// What the clones of a session, or all cached sessions of a partition, share. It closes with the last of them.
#[derive(Debug)]
pub(crate) struct SessionCore {
    partition: Partition,
    /// Present until drop.
    ring: Option<Arc<KeyRing>>,
    index: Arc<KeyIndex>,
    open: Arc<AtomicUsize>,
    used: AtomicBool,
    /// When it was opened or found last, in Unix milliseconds.
    last_used: AtomicI64,
}

impl SessionCore {
    fn new(partition: Partition, scope: CacheScope, index: Arc<KeyIndex>, open: Arc<AtomicUsize>, now: i64) -> Self {
        let id = partition.intermediate_key();
        let ring = match scope {
            CacheScope::Factory => index.ring(id),
            CacheScope::Session => Arc::new(KeyRing::new(id.clone())),
        };
        open.fetch_add(1, Ordering::Relaxed);
        Self { partition, ring: Some(ring), index, open, used: AtomicBool::new(true), last_used: now.into() }
    }

    pub(crate) fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Returns the ring of the partition's own intermediate keys.
    pub(crate) fn ring(&self) -> &Arc<KeyRing> {
        self.ring.as_ref().expect("present until drop")
    }

    fn touch(&self, now: i64) {
        self.used.store(true, Ordering::Relaxed);
        self.last_used.store(now, Ordering::Relaxed);
    }
}

impl Drop for SessionCore {
    fn drop(&mut self) {
        if let Some(ring) = self.ring.take() {
            self.index.release(ring);
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The handle of the session registry.
#[derive(Clone)]
pub(crate) struct SessionRegistry {
    mailbox: Mailbox<SessionRegistryActor>,
    shared: Arc<Shared>,
}

/// What the registry publishes.
struct Shared {
    policy: Arc<CryptoPolicy>,
    clock: Arc<dyn Clock>,
    index: Arc<KeyIndex>,
    open: Arc<AtomicUsize>,
    cached: DashMap<Arc<str>, Arc<SessionCore>>,
}

impl SessionRegistry {
    /// Starts the registry. What it publishes outlives it.
    pub(super) fn start(
        arbiter: &ArbiterHandle,
        policy: Arc<CryptoPolicy>,
        clock: Arc<dyn Clock>,
        index: Arc<KeyIndex>,
    ) -> Self {
        let shared = Shared { policy, clock, index, open: Arc::default(), cached: DashMap::new() };
        let shared = Arc::new(shared);
        let owned = Arc::clone(&shared);
        let mailbox = Mailbox::start("session registry", arbiter, CAPACITY, move || {
            SessionRegistryActor::new(Arc::clone(&owned))
        });
        Self { mailbox, shared }
    }

    /// Opens a session of `partition`, or returns the one that is kept. A kept session costs no message.
    pub(crate) async fn open(&self, partition: Partition) -> Result<Arc<SessionCore>, Error> {
        if self.shared.policy.cache_sessions
            && let Some(core) = self.shared.find(partition.id())
        {
            return Ok(core);
        }
        self.mailbox.ask(Open { partition }).await?
    }

    /// Lets go of all kept sessions and refuses to open more; sessions in use close with their last holder.
    pub(super) async fn close(&self) -> Result<(), Error> {
        let closed = self.mailbox.ask(Close).await;
        self.mailbox.close();
        self.shared.cached.clear();
        closed
    }

    /// Returns how many sessions exist, kept ones included.
    pub(super) fn open_sessions(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    pub(super) fn sent(&self) -> u64 {
        self.mailbox.sent()
    }
}

impl Shared {
    fn now(&self) -> i64 {
        unix_millis(self.clock.now())
    }

    /// Returns the kept session of a partition unless it was not used for too long.
    fn find(&self, partition: &str) -> Option<Arc<SessionCore>> {
        let core = Arc::clone(self.cached.get(partition)?.value());
        let now = self.now();
        if self.is_outdated(&core, now) {
            return None;
        }
        core.touch(now);
        Some(core)
    }

    fn is_outdated(&self, core: &SessionCore, now: i64) -> bool {
        let ttl = millis(self.policy.session_cache_ttl);
        ttl > 0 && now.saturating_sub(core.last_used.load(Ordering::Relaxed)) > ttl
    }
}

struct Open {
    partition: Partition,
}

impl Message for Open {
    type Result = Result<Arc<SessionCore>, Error>;
}

struct Close;

impl Message for Close {
    type Result = ();
}

/// Serialises which sessions are kept.
struct SessionRegistryActor {
    shared: Arc<Shared>,
    order: Lru<Arc<str>, Arc<SessionCore>>,
    closed: bool,
}

impl SessionRegistryActor {
    fn new(shared: Arc<Shared>) -> Self {
        let size = NonZeroUsize::new(shared.policy.session_cache_size).unwrap_or(NonZeroUsize::MIN);
        let mut order = Lru::new(size);
        for kept in &shared.cached {
            order.insert(Arc::clone(kept.key()), Arc::clone(kept.value()), |_, _| false);
        }
        Self { shared, order, closed: false }
    }

    /// Keeps a session for the next caller, at the expense of one that was not used lately.
    fn keep(&mut self, core: &Arc<SessionCore>) {
        let now = self.shared.now();
        while let Some((gone, _)) = self.order.pop_oldest_if(|core| self.shared.is_outdated(core, now)) {
            self.shared.cached.remove(&gone);
        }
        let id: Arc<str> = core.partition.id().into();
        let departed =
            self.order.insert(Arc::clone(&id), Arc::clone(core), |_, core| core.used.swap(false, Ordering::Relaxed));
        if let Some((gone, _)) = departed {
            self.shared.cached.remove(&gone);
        }
        self.shared.cached.insert(id, Arc::clone(core));
    }
}

impl Actor for SessionRegistryActor {
    type Context = Context<Self>;
}

impl Handler<Open> for SessionRegistryActor {
    type Result = Result<Arc<SessionCore>, Error>;

    fn handle(&mut self, Open { partition }: Open, _: &mut Self::Context) -> Self::Result {
        if self.closed {
            return Err(Error::Closed);
        }
        let Shared { policy, index, open, .. } = &*self.shared;
        if policy.cache_sessions
            && let Some(core) = self.shared.find(partition.id())
        {
            return Ok(core);
        }
        let scope = policy.intermediate_key_cache_scope;
        let core = SessionCore::new(partition, scope, Arc::clone(index), Arc::clone(open), self.shared.now());
        let core = Arc::new(core);
        if policy.cache_sessions {
            self.keep(&core);
        }
        Ok(core)
    }
}

impl Handler<Close> for SessionRegistryActor {
    type Result = ();

    fn handle(&mut self, _: Close, _: &mut Self::Context) {
        self.closed = true;
        while self.order.pop_oldest_if(|_| true).is_some() {}
    }
}
