//! The key cache: which key versions are known, and one load for however many callers wait.
//!
//! * `handle.rs` is what the rest of the crate uses, with the messages; `actor.rs` is who answers them.
//! * `ring.rs` is what callers read: the versions of one key; `index.rs` finds rings.
//! * `cached_key.rs` is one version with the verdict on it, by what `status.rs` knows of its row and `checks.rs` of looking.
//! * `sync.rs` is what all of these are published with: `tests/ring_model` has loom go through the interleavings.
//! * `load.rs` finds, checks and makes keys; `outlawed.rs` never forgets a revocation; `strangers.rs` bounds what forged
//!   records cost; `versions.rs` bounds what is cached.

mod actor;
mod cached_key;
mod checks;
mod handle;
mod index;
mod load;
mod outlawed;
mod ring;
mod status;
mod strangers;
mod sync;
#[cfg(test)]
mod tests;
mod versions;

pub(crate) use cached_key::{CachedKey, Verdict};
pub(crate) use handle::KeyCache;
pub(crate) use index::KeyIndex;
pub(crate) use load::Loader;
pub(crate) use ring::{KeyRing, Wanted};
