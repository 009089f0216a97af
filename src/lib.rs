#![doc = include_str!("../README.md")]

mod actors;
mod audit;
#[cfg(feature = "aws")]
mod aws;
mod cache;
#[cfg(any(feature = "aws", feature = "vault"))]
mod clients;
mod clock;
pub mod crypto;
mod envelope;
mod error;
mod factory;
mod ids;
mod keys;
pub mod kms;
pub mod memory;
mod metrics;
mod policy;
mod record;
mod retry;
mod session;
pub mod stores;

pub use actors::Status;
pub use audit::{AUDIT_TARGET, AuditEvent, AuditRecord, AuditSettings, AuditSink, AuditedKey, TenantHash};
pub use cache::EvictionPolicy;
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{
    BoxError, BuildError, CloseError, CloseFailure, Error, IdError, MemoryError, PolicyError, RandomError, RecordError,
};
pub use factory::{SessionFactory, SessionFactoryBuilder};
pub use ids::{KeyId, KeyKind, KeyMeta};
pub use keys::{Keys, RevokedKeys};
pub use policy::{CacheScope, CryptoPolicy, RotationCause};
pub use record::{DataRowRecord, EnvelopeKeyRecord, TOMBSTONE_CREATED};
pub use retry::{BreakerPolicy, RetryPolicy};
pub use session::{Loader, Session, Storer};
