//! The atomics that slots are made of; the model test puts loom's in their place.

pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// Nothing: an access that is `SeqCst` is ordered with all others that are. The model, whose accesses are weaker, puts a
/// fence here.
#[inline]
pub(super) fn total_order() {}
