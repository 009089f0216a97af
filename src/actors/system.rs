//! The system: starts the actors in order on threads of their own, stops them in the reverse order.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Actor, ActorFutureExt, Arbiter, ArbiterHandle, Context, Handler, Message, ResponseActFuture, WrapFuture};
use tokio::runtime::Handle as Runtime;
use tokio::sync::{mpsc, oneshot};

use super::key_cache::{KeyIndex, Loader};
use super::repairs::{Repairing, Repairs};
use super::{Guard, KeyCache, KmsCalls, KmsClient, Mailbox, MetastoreWriter, SessionRegistry, Stores};
use crate::audit::Audit;
use crate::clock::Clock;
use crate::error::{BuildError, CloseError, CloseFailure, Error, MemoryError};
use crate::ids::Realm;
use crate::kms::{KeyManagementService, KmsHealth};
use crate::memory::{ArenaStatus, RandomFill, Vault};
use crate::metrics::Meters;
use crate::policy::CryptoPolicy;
use crate::retry::RetryPolicy;
use crate::stores::Metastore;

/// Everything a system is made of.
pub(crate) struct Parts {
    pub(crate) metastore: Arc<dyn Metastore>,
    pub(crate) replica: Option<Arc<dyn Metastore>>,
    pub(crate) retries: RetryPolicy,
    pub(crate) kms: Arc<dyn KeyManagementService>,
    pub(crate) kms_retries: RetryPolicy,
    pub(crate) repairs: Option<Repairs>,
    pub(crate) realm: Realm,
    pub(crate) policy: Arc<CryptoPolicy>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: RandomFill,
    pub(crate) meters: Arc<Meters>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) timeouts: Timeouts,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// What a caller waits for a key.
    pub(crate) operation: Duration,
    /// One call to the metastore.
    pub(crate) metastore: Duration,
    /// One call to the key management service, repetitions included.
    pub(crate) kms: Duration,
    /// What closing waits for operations under way.
    pub(crate) drain: Duration,
}

/// The handle of the system; when it is dropped everything stops and is wiped.
pub(crate) struct System {
    pub(crate) keys: KeyCache,
    pub(crate) sessions: SessionRegistry,
    guard: Guard,
    store: MetastoreWriter,
    kms: KmsClient,
    runtime: Runtime,
    outside: ArbiterHandle,
    timeout: Duration,
    place: String,
    stop: mpsc::UnboundedSender<Stop>,
    closing: AtomicBool,
    outcome: Arc<OnceLock<Result<(), CloseError>>>,
}

/// Counts and sizes at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// Messages that callers and actors have sent to actors.
    pub messages: u64,
    /// Calls to the metastore.
    pub metastore_calls: u64,
    /// Calls to the key management service.
    pub kms_calls: u64,
    /// How each place that keeps the master key has answered lately.
    pub kms: Vec<KmsHealth>,
    /// Sessions that exist.
    pub open_sessions: usize,
    /// Key ids that the cache knows.
    pub cached_key_ids: usize,
    /// Key versions that the cache holds.
    pub cached_keys: usize,
    /// Keys that are being loaded or made.
    pub loads_in_flight: usize,
    /// Keys in use that are dated further in the future than
    /// [`clock_skew_tolerance`](CryptoPolicy::clock_skew_tolerance): some writer's clock is wrong, and such a key is replaced
    /// late.
    pub keys_dated_ahead: usize,
    /// System and intermediate keys in memory, resident or sealed.
    pub live_keys: usize,
    /// The locked memory, which all factories of the process share.
    pub memory: ArenaStatus,
}

impl Status {
    /// Whether the key management service can be used, as far as is known: for readiness probes.
    ///
    /// Not for liveness probes. A process that has system keys in memory goes on without the service: warm partitions encrypt
    /// and decrypt, and new ones get keys, until the system key expires. One that has none can do nothing before the service
    /// is back, and being started again does not help it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.kms.is_empty() || self.kms.iter().any(|place| place.state.is_usable())
    }
}

impl System {
    /// Starts the actors and returns when they are ready.
    ///
    /// # Cancel safety
    /// When the future is dropped, what was started stops again.
    pub(crate) async fn start(parts: Parts) -> Result<Self, BuildError> {
        let (ready, started) = oneshot::channel();
        std::thread::Builder::new()
            .name("keyward-actors".to_owned())
            .spawn(move || run(parts, ready))
            .map_err(BuildError::Threads)?;
        started.await.map_err(|_| BuildError::Threads(io::Error::other("the actors' thread ended at once")))?
    }

    /// Refuses new operations, lets those under way finish, wipes all keys, and returns when that is done.
    ///
    /// # Errors
    /// [`CloseError`] names everything that did not close cleanly; everything else is closed and wiped all the same.
    pub(crate) async fn close(&self) -> Result<(), CloseError> {
        if self.keys.is_forked() {
            let reason = MemoryError::Forked.to_string();
            return Err(CloseError { failures: vec![CloseFailure { component: "system", reason }] });
        }
        self.closing.store(true, Ordering::SeqCst);
        let (done, finished) = oneshot::channel();
        if self.stop.send(Stop { done: Some(done) }).is_ok()
            && let Ok(outcome) = finished.await
        {
            return outcome;
        }
        // The threads are gone: closed before, or dead.
        self.outcome.get().cloned().unwrap_or_else(|| {
            self.guard.close_now();
            let reason = "the actors' threads ended unexpectedly; keys were wiped without them".to_owned();
            Err(CloseError { failures: vec![CloseFailure { component: "system", reason }] })
        })
    }

    /// Tells whether closing has begun.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Asks for a key that was used while not resident to be made so.
    pub(crate) fn promote(&self, key: &Arc<crate::memory::LockedKey>) {
        self.guard.promote(Arc::clone(key));
    }

    /// Returns the runtime whose blocking pool takes work of more than a millisecond.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Does what an operator asks for, on the thread of the outside world, where its timers run too.
    ///
    /// # Errors
    /// [`Error::Closed`], and those of the work.
    ///
    /// # Cancel safety
    /// What was begun goes on to its end.
    pub(crate) async fn detached<R: Send + 'static>(
        &self,
        work: impl Future<Output = Result<R, Error>> + Send + 'static,
    ) -> Result<R, Error> {
        if self.keys.is_forked() {
            return Err(MemoryError::Forked.into());
        }
        if self.is_closing() {
            return Err(Error::Closed);
        }
        let (done, answer) = oneshot::channel();
        self.outside.spawn(async move {
            // Whoever asked may be gone.
            let _ = done.send(work.await);
        });
        // Not even begun, or cut off by the end of the thread or a panic in the store.
        answer.await.unwrap_or_else(|_| {
            Err(if self.is_closing() { Error::Closed } else { Error::Restarted { component: "metastore" } })
        })
    }

    /// Returns how long one call to the store may take.
    pub(crate) fn store_timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns where the store is, for errors.
    pub(crate) fn store_place(&self) -> &str {
        &self.place
    }

    pub(crate) fn status(&self) -> Status {
        let (cached_key_ids, cached_keys, keys_dated_ahead) = self.keys.size();
        Status {
            messages: self.keys.sent() + self.guard.sent() + self.store.sent() + self.kms.sent() + self.sessions.sent(),
            metastore_calls: self.store.calls(),
            kms_calls: self.kms.calls(),
            kms: self.kms.health(),
            open_sessions: self.sessions.open_sessions(),
            cached_key_ids,
            cached_keys,
            loads_in_flight: self.keys.loads(),
            keys_dated_ahead,
            live_keys: self.guard.vault().live(),
            memory: self.guard.vault().status(),
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // A message rather than a wipe here: operations of other threads may be under way.
        let _ = self.stop.send(Stop { done: None });
    }
}

/// The actors' thread: wires everything, visibly, in the order in which it must start, and waits for the end.
///
/// Two threads. The first runs handlers that end at once: guard, key cache, session registry. The second runs what
/// applications and drivers bring along, store and key management service, so that one of these that blocks its thread
/// does not keep the guard from wiping.
fn run(parts: Parts, ready: oneshot::Sender<Result<System, BuildError>>) {
    let Parts {
        metastore,
        replica,
        retries,
        kms,
        kms_retries,
        repairs,
        realm,
        policy,
        clock,
        random,
        meters,
        audit,
        timeouts,
    } = parts;
    let vault = match Vault::with_random(Arc::clone(&random)) {
        Ok(vault) => vault,
        Err(error) => {
            // Whoever asked may be gone.
            let _ = ready.send(Err(error.into()));
            return;
        }
    };
    let own = actix::System::new();
    let outcome = Arc::new(OnceLock::new());
    let (outside, waiting) = own.block_on(async {
        let inside = Arbiter::current();
        let outside = Arbiter::new();
        let index = Arc::new(KeyIndex::default());
        let guard = Guard::start(&inside, vault);
        let place = metastore.place().to_owned();
        let stores = Stores::new(metastore, replica, &retries, &meters, &random);
        let store = MetastoreWriter::start(&outside.handle(), stores, timeouts.metastore);
        let kms = KmsCalls::new(kms, kms_retries, timeouts.kms, meters.kms.clone(), Arc::clone(&random));
        let kms = Arc::new(kms);
        if let Some(repairs) = repairs {
            let (key, calls, random) = (realm.system_key().clone(), Arc::clone(&kms), Arc::clone(&random));
            let timeout = timeouts.metastore.max(timeouts.kms);
            outside.spawn(Repairing { repairs, key, calls, timeout, random }.run());
        }
        outside.spawn(Arc::clone(&kms).tend());
        let kms = KmsClient::start(&outside.handle(), kms, timeouts.kms);
        let loader = Loader {
            store: store.clone(),
            kms: kms.clone(),
            guard: guard.clone(),
            index: Arc::clone(&index),
            outlawed: Arc::default(),
            in_flight: Arc::default(),
            realm,
            policy: Arc::clone(&policy),
            clock: Arc::clone(&clock),
            random,
            meters: Arc::clone(&meters),
            audit: Arc::clone(&audit),
        };
        let keys = KeyCache::start(&inside, loader, timeouts.operation);
        let sessions = SessionRegistry::start(&inside, policy, clock, index, meters);
        let (stop, mut stops) = mpsc::unbounded_channel();
        let actor = SystemActor {
            keys: keys.clone(),
            sessions: sessions.clone(),
            store: store.clone(),
            kms: kms.clone(),
            guard: guard.clone(),
            timeouts,
            stopped: None,
        };
        let system = Mailbox::start("system", &inside, 4, {
            let actor = actor.clone();
            move || actor.clone()
        });
        drop(actor);
        let handle = System {
            keys,
            sessions,
            guard: guard.clone(),
            store,
            kms,
            runtime: Runtime::current(),
            outside: outside.handle(),
            timeout: timeouts.metastore,
            place,
            stop,
            closing: AtomicBool::new(false),
            outcome: Arc::clone(&outcome),
        };
        // Whoever asked is gone: dropping the handle sends the stop that is waited for below.
        drop(ready.send(Ok(handle)));
        let waiting = stops.recv().await;
        let result = match system.ask(StopAll).await {
            Ok(result) => result,
            Err(error) => {
                guard.close_now();
                Err(CloseError { failures: vec![CloseFailure { component: "system", reason: error.to_string() }] })
            }
        };
        let _ = outcome.set(result);
        stops.close();
        let mut waiting: Vec<_> = waiting.into_iter().collect();
        while let Some(stop) = stops.recv().await {
            waiting.push(stop);
        }
        outside.stop();
        (outside, waiting)
    });
    // Whoever hears that the factory is closed may rely on it that nothing here holds its parts any more, the key management
    // service with its master key among them; unless an application's code blocks the second thread.
    let (ended, has_ended) = std::sync::mpsc::channel();
    let joining = std::thread::Builder::new().name("keyward-join".to_owned()).spawn(move || {
        let _ = outside.join();
        let _ = ended.send(());
    });
    if joining.is_ok() {
        let _ = has_ended.recv_timeout(timeouts.drain);
    }
    drop(own);
    if !audit.finish(timeouts.drain) {
        tracing::warn!("the audit sink did not take all events in time");
    }
    for done in waiting.into_iter().filter_map(|stop| stop.done) {
        let _ = done.send(outcome.get().cloned().unwrap_or(Ok(())));
    }
}

/// Ends the system; `done` hears how it went.
struct Stop {
    done: Option<oneshot::Sender<Result<(), CloseError>>>,
}

struct StopAll;

impl Message for StopAll {
    type Result = Result<(), CloseError>;
}

/// Knows the order of the stop.
#[derive(Clone)]
struct SystemActor {
    keys: KeyCache,
    sessions: SessionRegistry,
    store: MetastoreWriter,
    kms: KmsClient,
    guard: Guard,
    timeouts: Timeouts,
    stopped: Option<Result<(), CloseError>>,
}

impl Actor for SystemActor {
    type Context = Context<Self>;
}

impl Handler<StopAll> for SystemActor {
    /// Interleaves: the parts are asked one after the other and answer on the same thread.
    type Result = ResponseActFuture<Self, Result<(), CloseError>>;

    fn handle(&mut self, _: StopAll, _: &mut Self::Context) -> Self::Result {
        if let Some(outcome) = &self.stopped {
            return Box::pin(actix::fut::ready(outcome.clone()));
        }
        let Self { keys, sessions, store, kms, guard, timeouts, .. } = self.clone();
        let stopping = async move {
            let mut failures = Vec::new();
            let mut note = |component, failed: Option<String>| {
                failures.extend(failed.map(|reason| CloseFailure { component, reason }));
            };
            note("session registry", within(timeouts.drain, sessions.close()).await.err());
            note("key cache", within(timeouts.drain, keys.close()).await.err());
            store.close();
            kms.close();
            // Wiped last, when nothing can ask for keys any more, and wiped whatever happened before.
            match within(timeouts.drain.saturating_mul(2), guard.close(timeouts.drain)).await {
                Ok(report) if report.forced > 0 => {
                    let reason = format!("{} operations were cut off, their output discarded", report.forced);
                    note("guard", Some(reason));
                }
                Ok(report) => tracing::debug!(wiped = report.wiped, "keys wiped"),
                Err(reason) => {
                    guard.close_now();
                    note("guard", Some(reason));
                }
            }
            if failures.is_empty() { Ok(()) } else { Err(CloseError { failures }) }
        };
        Box::pin(stopping.into_actor(self).map(|outcome, actor, _| {
            actor.stopped = Some(outcome.clone());
            outcome
        }))
    }
}

/// Gives a part its time to stop, and the reason when it does not.
async fn within<T>(time: Duration, stop: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match tokio::time::timeout(time.max(Duration::from_millis(100)), stop).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("did not stop within {time:?}")),
    }
}
