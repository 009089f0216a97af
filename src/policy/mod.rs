//! The crypto policy and its verdicts on a key at an instant: pure functions, no clock of their own.
//!
//! * `crypto_policy.rs` is what users configure; `verdicts.rs` what follows from it for a key, and `causes.rs` why one is
//!   replaced.
//! * `wraps.rs` counts how often a key encrypted others.

mod causes;
mod crypto_policy;
mod verdicts;
mod wraps;

pub use causes::RotationCause;
pub use crypto_policy::{CacheScope, CryptoPolicy};
pub(crate) use verdicts::Freshness;
pub(crate) use wraps::Wraps;
