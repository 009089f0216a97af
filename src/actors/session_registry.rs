//! The session registry: which sessions are open and which are kept for the next caller.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use actix::{Actor, ArbiterHandle, AsyncContext, Context, Handler, Message};
use dashmap::DashSet;

use super::Mailbox;
use super::key_cache::{KeyIndex, KeyRing};
use crate::cache::{Cache, Cached, Departure};
use crate::clock::{Clock, millis, unix_millis};
use crate::error::Error;
use crate::ids::{Partition, PartitionId};
use crate::metrics::Meters;
use crate::policy::{CacheScope, CryptoPolicy};

/// Room for callers who open sessions at once; more wait their turn.
const CAPACITY: usize = 1024;

/// How often the registry looks for sessions that were not used for too long.
const SWEPT_EVERY: Duration = Duration::from_secs(10);

/// What the clones of a session, or all kept sessions of a partition, share. It closes with the last of them.
pub(crate) struct SessionCore {
    partition: Partition,
    /// Present until drop.
    ring: Option<Arc<KeyRing>>,
    shared: Arc<Shared>,
    used: AtomicBool,
    /// When it was opened or found last, in Unix milliseconds.
    last_used: AtomicI64,
}

impl SessionCore {
    fn new(partition: Partition, shared: Arc<Shared>) -> Self {
        let id = partition.intermediate_key();
        let ring = match shared.policy.intermediate_key_cache_scope {
            CacheScope::Factory => shared.index.ring(id),
            CacheScope::Session => shared.index.own_ring(id),
        };
        shared.open.fetch_add(1, Ordering::Relaxed);
        shared.meters.sessions_open.increment(1);
        let now = shared.now();
        Self { partition, ring: Some(ring), shared, used: AtomicBool::new(true), last_used: now.into() }
    }

    pub(crate) fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Returns the ring of the partition's own intermediate keys.
    pub(crate) fn ring(&self) -> &Arc<KeyRing> {
        self.ring.as_ref().expect("present until drop")
    }

    /// Takes note of a use; writes only what changes, so that those who use it at the same time do not slow each other.
    fn touch(&self, now: i64) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        if self.last_used.load(Ordering::Relaxed) != now {
            self.last_used.store(now, Ordering::Relaxed);
        }
    }
}

impl Drop for SessionCore {
    fn drop(&mut self) {
        if let Some(ring) = self.ring.take() {
            self.shared.index.release(ring);
        }
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        self.shared.meters.sessions_open.decrement(1);
    }
}

/// A session that is kept, found by its partition id.
///
/// The id is at hand without the session: with many of them, a processor waits for the memory of both at once, and not for
/// one after the other.
#[derive(Clone)]
struct Kept {
    id: PartitionId,
    core: Arc<SessionCore>,
}

impl Kept {
    fn new(core: &Arc<SessionCore>) -> Self {
        Self { id: core.partition.shared_id().clone(), core: Arc::clone(core) }
    }
}

impl Borrow<str> for Kept {
    fn borrow(&self) -> &str {
        self.id.as_str()
    }
}

impl Hash for Kept {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.as_str().hash(state);
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.id.as_str() == other.id.as_str()
    }
}

impl Eq for Kept {}

impl Cached for Kept {
    fn take_used(&self) -> bool {
        self.core.used.swap(false, Ordering::Relaxed)
    }

    fn last_used(&self) -> i64 {
        self.core.last_used.load(Ordering::Relaxed)
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
    meters: Arc<Meters>,
    open: AtomicUsize,
    kept: DashSet<Kept>,
}

impl SessionRegistry {
    /// Starts the registry. What it publishes outlives it.
    pub(super) fn start(
        arbiter: &ArbiterHandle,
        policy: Arc<CryptoPolicy>,
        clock: Arc<dyn Clock>,
        index: Arc<KeyIndex>,
        meters: Arc<Meters>,
    ) -> Self {
        let shared = Shared { policy, clock, index, meters, open: AtomicUsize::new(0), kept: DashSet::new() };
        let shared = Arc::new(shared);
        let owned = Arc::clone(&shared);
        let mailbox = Mailbox::start("session registry", arbiter, CAPACITY, move || {
            SessionRegistryActor::new(Arc::clone(&owned))
        });
        Self { mailbox, shared }
    }

    /// Returns the session of a partition that is kept, if there is one; no message, whatever comes of it.
    #[inline]
    pub(crate) fn find(&self, partition: &str) -> Option<Arc<SessionCore>> {
        if self.shared.policy.cache_sessions { self.shared.find(partition) } else { None }
    }

    /// Opens a session of `partition`. One that is not to be kept costs no message.
    pub(crate) async fn open(&self, partition: Partition) -> Result<Arc<SessionCore>, Error> {
        if self.shared.policy.cache_sessions {
            self.mailbox.ask(Open { partition }).await?
        } else {
            Ok(Arc::new(SessionCore::new(partition, Arc::clone(&self.shared))))
        }
    }

    /// Lets go of all kept sessions and refuses to keep more; sessions in use close with their last holder.
    pub(super) async fn close(&self) -> Result<(), Error> {
        let closed = self.mailbox.ask(Close).await;
        self.mailbox.close();
        self.shared.kept.clear();
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
        let core = Arc::clone(&self.kept.get(partition)?.core);
        let now = self.now();
        let time_to_live = millis(self.policy.session_cache_ttl);
        if time_to_live > 0 && now.saturating_sub(core.last_used.load(Ordering::Relaxed)) > time_to_live {
            return None;
        }
        core.touch(now);
        self.meters.session_hit(now);
        Some(core)
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
    kept: Cache<Arc<str>, Kept>,
    closed: bool,
}

impl SessionRegistryActor {
    fn new(shared: Arc<Shared>) -> Self {
        let size = NonZeroUsize::new(shared.policy.session_cache_size).unwrap_or(NonZeroUsize::MIN);
        let published = Arc::clone(&shared);
        let mut kept = Cache::new(shared.policy.session_cache_eviction, size, move |_, Kept { id, .. }, why| {
            match why {
                Departure::Evicted => published.meters.sessions.evictions.increment(1),
                // Another one stands in its place, or the registry is started again.
                Departure::Replaced | Departure::Dropped => return,
                Departure::Expired | Departure::Removed => {}
            }
            published.kept.remove(id.as_str());
        });
        let time_to_live = millis(shared.policy.session_cache_ttl);
        if time_to_live > 0 {
            kept = kept.with_time_to_live(time_to_live);
        }
        // After a restart: what an earlier life published is still there.
        for session in shared.kept.iter() {
            kept.insert(session.id.as_str().into(), session.clone(), session.last_used());
        }
        Self { shared, kept, closed: false }
    }

    /// Keeps a session for the next caller, at the expense of another if there are too many.
    fn keep(&mut self, core: &Arc<SessionCore>) {
        let now = self.shared.now();
        self.kept.sweep(now);
        let session = Kept::new(core);
        self.kept.insert(core.partition.id().into(), session.clone(), now);
        // One of the same id that was not used for too long is in the way.
        self.shared.kept.remove(core.partition.id());
        self.shared.kept.insert(session);
        self.publish_size();
    }

    fn publish_size(&self) {
        self.shared.meters.sessions.entries.set(self.kept.len() as f64);
    }
}

impl Actor for SessionRegistryActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(SWEPT_EVERY, |actor, _| {
            actor.kept.sweep(actor.shared.now());
            actor.publish_size();
        });
    }
}

impl Handler<Open> for SessionRegistryActor {
    type Result = Result<Arc<SessionCore>, Error>;

    fn handle(&mut self, Open { partition }: Open, _: &mut Self::Context) -> Self::Result {
        if self.closed {
            return Err(Error::Closed);
        }
        if let Some(core) = self.shared.find(partition.id()) {
            return Ok(core);
        }
        self.shared.meters.sessions.misses.increment(1);
        let core = Arc::new(SessionCore::new(partition, Arc::clone(&self.shared)));
        self.keep(&core);
        Ok(core)
    }
}

impl Handler<Close> for SessionRegistryActor {
    type Result = ();

    fn handle(&mut self, _: Close, _: &mut Self::Context) {
        self.closed = true;
        self.kept.clear();
        self.publish_size();
    }
}
