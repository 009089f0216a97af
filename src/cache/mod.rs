//! Bounded caches and their eviction policies: pure data structures that know no clock and no threads.
//!
//! * [`Cache`] maps keys to values, up to a capacity, and tells of every departure exactly once.
//! * [`Order`] is the one trait of eviction policies; it knows places and hashes, not keys or values. One file each:
//!   `lru.rs`, `lfu.rs`, `slru.rs`, `tinylfu.rs`, `s3fifo.rs`.
//! * `sketch.rs` and `doorkeeper.rs` estimate how often hashes were seen; `list.rs` are the lists that all are made of.
//!
//! Every operation is O(1), amortised over the uses that S3-FIFO works off when it evicts.

mod bounded;
mod choice;
mod doorkeeper;
mod lfu;
mod list;
mod lru;
mod order;
mod s3fifo;
mod sketch;
mod slru;
#[cfg(test)]
mod tests;
mod tinylfu;

pub(crate) use bounded::{Cache, Cached, Departure};
pub use choice::EvictionPolicy;
