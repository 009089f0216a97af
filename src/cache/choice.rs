//! The eviction policies by name.

use std::num::NonZeroUsize;

use super::lfu::Lfu;
use super::lru::Lru;
use super::order::Order;
use super::s3fifo::S3Fifo;
use super::slru::Slru;
use super::tinylfu::TinyLfu;

/// Which entry leaves a full cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EvictionPolicy {
    /// The one that was used least recently.
    #[default]
    Lru,
    /// The one that was used least often; of several, the one that has been so for longest.
    Lfu,
    /// Segmented LRU: what was used once leaves before what was used again, which has 80 % of the cache for itself.
    Slru,
    /// W-TinyLFU: a new entry stays only if its key was seen more often lately than that of the segmented LRU's next to
    /// leave. Below 100 entries it is [`Slru`](Self::Slru).
    ///
    /// Source: Einziger, Friedman, Manes, [TinyLFU: A Highly Efficient Cache Admission Policy](https://arxiv.org/abs/1512.00727).
    TinyLfu,
    /// Three queues, first in first out: what is not used again soon leaves soon, a tenth of the cache being for it.
    ///
    /// Source: Yang et al., [FIFO queues are all you need for cache eviction](https://doi.org/10.1145/3600006.3613147).
    S3Fifo,
}

impl EvictionPolicy {
    pub(super) fn order(self, capacity: NonZeroUsize) -> Box<dyn Order> {
        match self {
            Self::Lru => Box::new(Lru::default()),
            Self::Lfu => Box::new(Lfu::default()),
            Self::TinyLfu if TinyLfu::window_of(capacity) > 0 => Box::new(TinyLfu::new(capacity)),
            Self::Slru | Self::TinyLfu => Box::new(Slru::new(capacity.get())),
            Self::S3Fifo => Box::new(S3Fifo::new(capacity)),
        }
    }
}
