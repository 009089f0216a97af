//! What is told, and who may want to hear it.

use std::fmt;
use std::time::SystemTime;

use crate::ids::KeyKind;
use crate::policy::RotationCause;

/// The target of the `tracing` events, by which a subscriber tells them from the log.
pub const AUDIT_TARGET: &str = "keyward::audit";

/// Stands for a tenant in audit events: the first 16 bytes of HMAC-SHA-256 of its intermediate key id.
///
/// Source: [RFC 2104](https://www.rfc-editor.org/rfc/rfc2104), FIPS 198-1.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TenantHash(pub(super) [u8; 16]);

impl TenantHash {
    /// Returns the 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for TenantHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TenantHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A version of a key, as audit events name it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditedKey {
    /// What it is for; `None` when its id does not say.
    pub kind: Option<KeyKind>,
    /// When it was created, in Unix seconds.
    pub created: i64,
    /// Whose it is; system keys are nobody's.
    pub tenant: Option<TenantHash>,
}

/// Something that whoever watches over keys will want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditEvent {
    /// The first key of an id was made.
    KeyCreated {
        /// The new key.
        key: AuditedKey,
    },
    /// A key was made in place of another.
    KeyRotated {
        /// The new key.
        key: AuditedKey,
        /// Why.
        cause: RotationCause,
    },
    /// A key was revoked here, or found to have been.
    KeyRevoked {
        /// The key.
        key: AuditedKey,
    },
    /// A key that the metastore holds was not used.
    KeyRefused {
        /// The key.
        key: AuditedKey,
        /// Why.
        reason: &'static str,
    },
    /// All keys of a tenant were destroyed.
    KeyShredded {
        /// Whose.
        tenant: TenantHash,
        /// How many versions there were.
        versions: usize,
    },
    /// A record was not decrypted.
    DecryptRefused {
        /// Who asked.
        tenant: TenantHash,
        /// Why: a class of errors.
        reason: &'static str,
    },
}

impl AuditEvent {
    /// Returns the name of the event in lowercase words joined by underscores.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::KeyCreated { .. } => "key_created",
            Self::KeyRotated { .. } => "key_rotated",
            Self::KeyRevoked { .. } => "key_revoked",
            Self::KeyRefused { .. } => "key_refused",
            Self::KeyShredded { .. } => "key_shredded",
            Self::DecryptRefused { .. } => "decrypt_refused",
        }
    }

    /// Sends the event to `tracing`.
    pub(super) fn trace(&self) {
        let name = self.name();
        match self {
            Self::KeyCreated { key } => trace_key(name, key, None),
            Self::KeyRotated { key, cause } => trace_key(name, key, Some(cause.as_str())),
            Self::KeyRevoked { key } => trace_key(name, key, None),
            Self::KeyRefused { key, reason } => trace_key(name, key, Some(reason)),
            Self::KeyShredded { tenant, versions } => {
                tracing::info!(target: AUDIT_TARGET, event = name, %tenant, versions);
            }
            Self::DecryptRefused { tenant, reason } => {
                tracing::info!(target: AUDIT_TARGET, event = name, %tenant, reason);
            }
        }
    }
}

fn trace_key(event: &'static str, key: &AuditedKey, reason: Option<&'static str>) {
    let AuditedKey { kind, created, tenant } = key;
    let (kind, tenant) = (kind.map(tracing::field::display), tenant.map(tracing::field::display));
    tracing::info!(target: AUDIT_TARGET, event, kind, created, tenant, reason);
}

/// An event and when it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditRecord {
    /// By the clock of the factory.
    pub at: SystemTime,
    /// What happened.
    pub event: AuditEvent,
}

/// Where audit events go beside `tracing`: a file, a queue, a security information system.
pub trait AuditSink: Send + 'static {
    /// Takes one event, on a thread of its own, where it may block; events that come meanwhile wait up to the bound of the
    /// queue. A panic here ends the thread, and with it this road.
    fn record(&mut self, record: &AuditRecord);
}

impl<F: FnMut(&AuditRecord) + Send + 'static> AuditSink for F {
    fn record(&mut self, record: &AuditRecord) {
        self(record);
    }
}
