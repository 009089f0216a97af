//! Audit events: what happened to keys, and who was refused, told to whoever is to watch.
//!
//! Every event is a `tracing` event on the target [`AUDIT_TARGET`], and, where the factory was given an [`AuditSink`], is
//! handed to that from a thread of its own, through a queue with a bound.

mod event;
mod queue;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::Counter;

use crate::clock::Clock;
use crate::crypto::KeyedHash;
use crate::error::BuildError;
use crate::ids::{KeyId, KeyKind, KeyMeta};
use crate::memory::RandomFill;
use crate::policy::RotationCause;

pub use event::{AUDIT_TARGET, AuditEvent, AuditRecord, AuditSink, AuditedKey, TenantHash};
pub(crate) use queue::Queue;

/// How audit events of a session factory are told.
///
/// # Defaults
/// * no sink: events are `tracing` events alone.
/// * `tenant_key`: random, so that hashes mean nothing outside the process.
/// * `capacity` 1,024: a sink that stops for a moment loses nothing, one that stops for good costs little memory.
pub struct AuditSettings {
    /// Who is told of events beside `tracing`.
    pub sink: Option<Box<dyn AuditSink>>,
    /// The key under which tenants are hashed; the same in all processes whose events are to be read together.
    pub tenant_key: Option<[u8; 32]>,
    /// Events that wait for the sink at most, 1 to 1,048,576; more are dropped and counted.
    pub capacity: usize,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self { sink: None, tenant_key: None, capacity: 1024 }
    }
}

impl fmt::Debug for AuditSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditSettings").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// Tells of events.
pub(crate) struct Audit {
    tenant_key: KeyedHash,
    clock: Arc<dyn Clock>,
    has_sink: bool,
    queue: Mutex<Option<Queue>>,
}

impl Audit {
    /// Starts the thread of the sink, if there is one; `dropped` counts events that found its queue full.
    pub(crate) fn start(
        settings: AuditSettings,
        clock: Arc<dyn Clock>,
        random: &RandomFill,
        dropped: Counter,
    ) -> Result<Self, BuildError> {
        let key = match settings.tenant_key {
            Some(key) => key,
            None => {
                let mut key = [0; 32];
                random(&mut key)?;
                key
            }
        };
        let queue = settings.sink.map(|sink| Queue::start(sink, settings.capacity, dropped)).transpose();
        let queue = queue.map_err(BuildError::Threads)?;
        Ok(Self { tenant_key: KeyedHash::new(&key), clock, has_sink: queue.is_some(), queue: Mutex::new(queue) })
    }

    /// Returns what stands for the tenant that an intermediate key belongs to.
    pub(crate) fn tenant(&self, intermediate_key: &KeyId) -> TenantHash {
        let tag = self.tenant_key.hash(intermediate_key.as_str().as_bytes());
        TenantHash(*tag.first_chunk().expect("a hash has 32 bytes"))
    }

    pub(crate) fn key_made(&self, key: &KeyMeta, cause: RotationCause) {
        self.tell(|| match cause {
            RotationCause::First => AuditEvent::KeyCreated { key: self.audited(key) },
            cause => AuditEvent::KeyRotated { key: self.audited(key), cause },
        });
    }

    pub(crate) fn key_revoked(&self, key: &KeyMeta) {
        self.tell(|| AuditEvent::KeyRevoked { key: self.audited(key) });
    }

    pub(crate) fn key_refused(&self, key: &KeyMeta, reason: &'static str) {
        self.tell(|| AuditEvent::KeyRefused { key: self.audited(key), reason });
    }

    pub(crate) fn key_shredded(&self, id: &KeyId, versions: usize) {
        self.tell(|| AuditEvent::KeyShredded { tenant: self.tenant(id), versions });
    }

    pub(crate) fn decrypt_refused(&self, own_key: &KeyId, reason: &'static str) {
        self.tell(|| AuditEvent::DecryptRefused { tenant: self.tenant(own_key), reason });
    }

    /// Hands over what waits for the sink, for at most `time`; later events go to `tracing` alone.
    pub(crate) fn finish(&self, time: Duration) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        queue.is_none_or(|queue| queue.finish(time))
    }

    fn audited(&self, key: &KeyMeta) -> AuditedKey {
        let tenant = (key.id.kind() == Some(KeyKind::Intermediate)).then(|| self.tenant(&key.id));
        AuditedKey { kind: key.id.kind(), created: key.created, tenant }
    }

    /// Tells of an event, which is made only if somebody hears it.
    fn tell(&self, event: impl FnOnce() -> AuditEvent) {
        if !self.has_sink && !tracing::enabled!(target: AUDIT_TARGET, tracing::Level::INFO) {
            return;
        }
        let event = event();
        event.trace();
        if let Some(queue) = &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            queue.push(AuditRecord { at: self.clock.now(), event });
        }
    }
}
