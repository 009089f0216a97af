#![doc = include_str!("../README.md")]

mod actors;
mod cache;
mod clock;
pub mod crypto;
mod envelope;
mod error;
mod factory;
mod ids;
pub mod kms;
pub mod memory;
mod metrics;
mod policy;
mod record;
mod session;
pub mod stores;

pub use actors::Status;
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{
    BoxError, BuildError, CloseError, CloseFailure, Error, IdError, MemoryError, PolicyError, RandomError, RecordError,
};
pub use factory::{SessionFactory, SessionFactoryBuilder};
pub use ids::{KeyId, KeyKind, KeyMeta};
pub use policy::{CacheScope, CryptoPolicy, EvictionPolicy};
pub use record::{DataRowRecord, EnvelopeKeyRecord, TOMBSTONE_CREATED};
pub use session::{Loader, Session, Storer};
