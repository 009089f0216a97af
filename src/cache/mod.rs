//! Eviction policies: pure data structures, no time, no threads.

mod lru;

pub(crate) use lru::Lru;
