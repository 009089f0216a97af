//! Who answers: serialises what is known of keys; the loads themselves run beside it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, ResponseFuture, WrapFuture};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::handle::{Close, Forget, Get, Look, Revoke, Shred};
use super::strangers::{Answer, Strangers};
use super::versions::Versions;
use super::{CachedKey, KeyRing, Loader, Verdict, Wanted};
use crate::error::Error;
use crate::ids::{KeyId, KeyKind, KeyMeta};

/// How often the ages of keys are published.
const OBSERVED_EVERY: Duration = Duration::from_secs(2);

/// One load: by ring, so that rings of the same id do not share what they must not.
type LoadId = (u64, Wanted);

struct Load {
    waiting: Vec<oneshot::Sender<Result<Arc<CachedKey>, Error>>>,
    task: AbortHandle,
    /// Whether it took a look-up from the allowance of its partition.
    is_stranger: bool,
    /// What was made at an operator's request after it began: an older key is not what encrypts from now on, and has to be
    /// looked for again.
    outdated_by: Option<i64>,
}

/// Serialises what is known of keys; the loads themselves run beside it.
pub(super) struct KeyCacheActor {
    loader: Loader,
    loads: HashMap<LoadId, Load>,
    strangers: Strangers,
    system_keys: Versions,
    intermediate_keys: Versions,
    closed: bool,
}

impl KeyCacheActor {
    pub(super) fn new(loader: Loader) -> Self {
        let (policy, index, meters) = (&loader.policy, &loader.index, &loader.meters);
        let mut actor = Self {
            loads: HashMap::new(),
            strangers: Strangers::new(),
            system_keys: Versions::new(
                policy.system_key_cache_eviction,
                policy.system_key_cache_size,
                Arc::clone(index),
                meters.system_keys.cache.clone(),
            ),
            intermediate_keys: Versions::new(
                policy.intermediate_key_cache_eviction,
                policy.intermediate_key_cache_size,
                Arc::clone(index),
                meters.intermediate_keys.cache.clone(),
            ),
            closed: false,
            loader,
        };
        // After a restart: what an earlier life published is still there.
        for ring in actor.loader.index.all() {
            for key in ring.versions().iter() {
                actor.versions(ring.id()).remember(&ring, key);
            }
        }
        actor
    }

    fn versions(&mut self, id: &KeyId) -> &mut Versions {
        match id.kind() {
            Some(KeyKind::System) => &mut self.system_keys,
            _ => &mut self.intermediate_keys,
        }
    }

    fn start_load(&mut self, ring: Arc<KeyRing>, wanted: Wanted, is_stranger: bool, context: &mut Context<Self>) {
        let id = (ring.serial(), wanted.load());
        let load = self.loader.clone().load(context.address(), Arc::clone(&ring), wanted);
        // A task of its own: a panic in an application's store or service ends this load and nothing else.
        let task = actix::spawn(load);
        self.loads.insert(id, Load { waiting: Vec::new(), task: task.abort_handle(), is_stranger, outdated_by: None });
        self.publish_loads();
        context.spawn(task.into_actor(self).map(move |result, actor, context| {
            let result = result.unwrap_or(Err(Error::Restarted { component: "key load" }));
            actor.finish_load(&ring, wanted, result, context);
            // Whoever asked may be gone, and with nothing loaded nobody else would give the ring back.
            actor.loader.index.release(ring);
        }));
    }

    fn publish_loads(&self) {
        self.loader.in_flight.store(self.loads.len(), Ordering::Relaxed);
        self.loader.meters.loads.set(self.loads.len() as f64);
    }

    fn finish_load(
        &mut self,
        ring: &Arc<KeyRing>,
        wanted: Wanted,
        result: Result<Arc<CachedKey>, Error>,
        context: &mut Context<Self>,
    ) {
        let id = (ring.serial(), wanted.load());
        let Some(load) = self.loads.remove(&id) else { return };
        self.publish_loads();
        if let (Ok(key), Some(created)) = (&result, load.outdated_by)
            && key.meta().created < created
        {
            self.start_load(Arc::clone(ring), wanted, false, context);
            if let Some(again) = self.loads.get_mut(&id) {
                again.waiting = load.waiting;
            }
            return;
        }
        if let (true, Wanted::Exact(created)) = (load.is_stranger, wanted.load()) {
            let (key, now) = (KeyMeta { id: ring.id().clone(), created }, self.loader.now());
            if result.as_ref().is_err_and(|error| is_missing(error, ring, created)) {
                self.strangers.note_absent(key, now);
            } else {
                self.strangers.give_back(&key, now);
            }
        }
        let result = match result.and_then(|key| self.check_outlawed(key)) {
            Ok(key) => {
                self.strangers.note_present(key.meta());
                let key = self.unite(ring, key, wanted);
                self.publish(ring, &key, wanted);
                if wanted == Wanted::Rotated {
                    self.outdate(key.meta());
                }
                Ok(key)
            }
            Err(error) => self.serve_stale(ring, wanted, error),
        };
        if let (Err(error), true) = (&result, load.waiting.is_empty()) {
            warn_of(error);
        }
        for waiting in load.waiting {
            // Whoever is gone does not want it any more.
            let _ = waiting.send(result.clone());
        }
    }

    /// Takes note of what was revoked or destroyed while the key was on its way.
    fn check_outlawed(&self, key: Arc<CachedKey>) -> Result<Arc<CachedKey>, Error> {
        if self.loader.outlawed.is_shredded(&key.meta().id) {
            return Err(Error::Shredded { id: key.meta().id.to_string() });
        }
        self.loader.outlawed.tell(&key);
        Ok(key)
    }

    /// Returns what stands for a version that two loads have found at once: what is known of its row, and of its parent's, is in
    /// one place, where a revocation finds it.
    fn unite(&self, ring: &KeyRing, key: Arc<CachedKey>, wanted: Wanted) -> Arc<CachedKey> {
        let Some(known) = ring.with_version(key.meta().created, Arc::clone) else { return key };
        if key.status().is_revoked() {
            known.status().revoke();
        }
        if !wanted.is_newest() {
            return known;
        }
        if Arc::ptr_eq(known.status(), key.status()) {
            return key;
        }
        Arc::new(known.under(&self.loader.policy, key.parent().cloned()))
    }

    fn publish(&mut self, ring: &Arc<KeyRing>, key: &Arc<CachedKey>, wanted: Wanted) {
        let policy = Arc::clone(&self.loader.policy);
        let is_cached = match ring.id().kind() {
            Some(KeyKind::System) => policy.cache_system_keys,
            _ => policy.cache_intermediate_keys,
        };
        if !is_cached || self.closed {
            return;
        }
        let now = self.loader.now();
        // It was tried just now.
        if wanted == Wanted::Ahead && key.is_due(&policy, now) {
            key.checks().defer(now.saturating_add(policy.due_again()));
        }
        ring.publish(key, wanted.is_newest());
        self.versions(ring.id()).remember(ring, key);
    }

    /// Has what encrypted so far, or is about to be found, give way to a version that was asked for; sessions may have rings
    /// of their own.
    fn outdate(&mut self, KeyMeta { id, created }: &KeyMeta) {
        for ring in self.loader.index.of(id) {
            ring.outdate(*created);
            if let Some(load) = self.loads.get_mut(&(ring.serial(), Wanted::Latest)) {
                load.outdated_by = Some(*created);
            }
            self.loader.index.release(ring);
        }
    }

    /// Returns what is there when the store could not be looked at: what it said a while ago, if that is good enough.
    fn serve_stale(&mut self, ring: &Arc<KeyRing>, wanted: Wanted, error: Error) -> Result<Arc<CachedKey>, Error> {
        if let Error::Shredded { .. } = error {
            self.forget(ring.id());
            return Err(error);
        }
        let now = self.loader.now();
        let known = match wanted.load() {
            Wanted::Exact(created) => ring.with_version(created, Arc::clone),
            _ => ring.latest(),
        };
        let Some(known) = known else { return Err(error) };
        let known = self.check_outlawed(known)?;
        if is_missing(&error, ring, known.meta().created) {
            self.versions(ring.id()).forget(ring, known.meta().created);
            return Err(error);
        }
        self.loader.meters.refresh_failures.increment(1);
        let is_good_enough = if wanted.is_newest() {
            known.checks().note_failure(now);
            if let Some(parent) = known.parent() {
                parent.checks().unclaim();
            }
            wanted != Wanted::Rotated && known.verdict(&self.loader.policy, now) == Verdict::Overdue
        } else {
            // To decrypt it is enough that nobody said that it was destroyed.
            ring.checks().note_failure(now);
            ring.id().kind() != Some(KeyKind::System)
        };
        if !is_good_enough {
            return Err(error);
        }
        warn_of(&error);
        Ok(known)
    }

    /// Withdraws all versions of an id.
    fn forget(&mut self, id: &KeyId) {
        for ring in self.loader.index.of(id) {
            for key in ring.versions().iter() {
                self.versions(id).forget(&ring, key.meta().created);
            }
            ring.clear();
            self.loader.index.release(ring);
        }
    }

    /// Publishes how old keys are, and how long ago they were looked at.
    fn observe(&mut self, _: &mut Context<Self>) {
        let Loader { policy, index, meters, .. } = &self.loader;
        index.sweep();
        let now = self.loader.now();
        let seconds = |since: i64| now.saturating_sub(since).max(0) as f64 / 1000.0;
        let mut skewed = 0;
        for (versions, meters) in
            [(&self.system_keys, &meters.system_keys), (&self.intermediate_keys, &meters.intermediate_keys)]
        {
            let (mut age, mut check_age, mut wraps) = (0.0_f64, 0.0_f64, 0);
            for key in versions.newest() {
                let created = key.meta().created;
                age = age.max(seconds(created.saturating_mul(1000)));
                check_age = check_age.max(seconds(key.checked()));
                wraps = wraps.max(key.wraps().get());
                skewed += u32::from(policy.is_skewed(created, now));
            }
            meters.versions.set(versions.keys().count() as f64);
            meters.age.set(age);
            meters.check_age.set(check_age);
            meters.wraps.set(wraps as f64);
        }
        meters.skewed.set(f64::from(skewed));
    }
}

impl Actor for KeyCacheActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(OBSERVED_EVERY, Self::observe);
    }
}

impl Handler<Get> for KeyCacheActor {
    /// Interleaves: a key that loads slowly never delays another.
    type Result = ResponseFuture<Result<Arc<CachedKey>, Error>>;

    fn handle(&mut self, Get { ring, wanted, caller }: Get, context: &mut Self::Context) -> Self::Result {
        if self.closed {
            return Box::pin(std::future::ready(Err(Error::Closed)));
        }
        let (now, meters) = (self.loader.now(), self.loader.meters(ring.id().kind()));
        if let Some(key) = ring.find(wanted, &self.loader.policy, now) {
            meters.cache.hits.increment(1);
            return Box::pin(std::future::ready(Ok(key)));
        }
        meters.cache.misses.increment(1);
        let id = (ring.serial(), wanted.load());
        if !self.loads.contains_key(&id) {
            let stranger = match wanted.load() {
                // What keys need of each other was named by rows.
                Wanted::Exact(created) if caller.is_some() && ring.with_version(created, |_| ()).is_none() => {
                    Some(KeyMeta { id: ring.id().clone(), created })
                }
                _ => None,
            };
            let refused = stranger.as_ref().and_then(|key| match self.strangers.ask(key, now) {
                Answer::Load => None,
                Answer::Absent => Some(Error::KeyNotFound { id: key.id.to_string(), created: key.created }),
                Answer::Later => Some(Error::Throttled { id: key.id.to_string() }),
            });
            if let Some(error) = refused {
                self.loader.index.release(ring);
                return Box::pin(std::future::ready(Err(error)));
            }
            self.start_load(ring, wanted, stranger.is_some(), context);
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(load) = self.loads.get_mut(&id) {
            load.waiting.push(sender);
        }
        Box::pin(async move {
            let answer = async { receiver.await.unwrap_or(Err(Error::Restarted { component: "key cache" })) };
            match caller {
                None => answer.await,
                Some(after) => tokio::time::timeout(after, answer)
                    .await
                    .unwrap_or(Err(Error::Timeout { operation: "loading a key", after })),
            }
        })
    }
}

impl Handler<Look> for KeyCacheActor {
    type Result = ();

    fn handle(&mut self, Look { ring, wanted }: Look, context: &mut Self::Context) {
        if !self.closed && !self.loads.contains_key(&(ring.serial(), wanted.load())) {
            self.start_load(ring, wanted, false, context);
        }
    }
}

impl Handler<Revoke> for KeyCacheActor {
    type Result = ();

    fn handle(&mut self, Revoke { key }: Revoke, _: &mut Self::Context) {
        if self.loader.outlawed.revoke(&key) {
            self.loader.audit.key_revoked(&key);
        }
        self.loader.index.revoke(&key);
    }
}

impl Handler<Shred> for KeyCacheActor {
    type Result = ();

    fn handle(&mut self, Shred { id }: Shred, _: &mut Self::Context) {
        self.loader.outlawed.shred(&id);
        self.forget(&id);
    }
}

impl Handler<Forget> for KeyCacheActor {
    type Result = ();

    fn handle(&mut self, Forget { id }: Forget, _: &mut Self::Context) {
        self.forget(&id);
        // What is on its way may be of before.
        for ring in self.loader.index.of(&id) {
            for (_, load) in self.loads.iter_mut().filter(|((serial, _), _)| *serial == ring.serial()) {
                load.outdated_by = Some(i64::MAX);
            }
            self.loader.index.release(ring);
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
        self.publish_loads();
        self.system_keys.clear();
        self.intermediate_keys.clear();
    }
}

/// Tells whether this version is what could not be found, and not its system key.
fn is_missing(error: &Error, ring: &KeyRing, version: i64) -> bool {
    matches!(error, Error::KeyNotFound { id, created } if id == ring.id().as_str() && *created == version)
}

/// Tells of an error that nobody is told who waits.
fn warn_of(error: &Error) {
    tracing::warn!(error = error as &dyn std::error::Error, "a key could not be looked at; that is tried again");
}
