//! What is measured, through the facade of the crate [`metrics`]: whoever wants the numbers installs a recorder before the
//! session factory is built.
//!
//! * `names.rs` is the table of all of them, of which `docs/metrics.md` is the copy for readers.
//! * `meters.rs` holds the handles of one factory, registered once; `sampling.rs` times operations without a shared write.

mod meters;
mod names;
mod sampling;

pub(crate) use meters::{CacheMeters, CallMeters, KeyMeters, Meters, PlaceMeters, StoreMeters};
pub(crate) use names::{describe, mailbox_pending, secret};
pub(crate) use sampling::{Stopwatch, Timed};
