//! What users configure of keys and caches.

use std::time::Duration;

use crate::cache::EvictionPolicy;
use crate::error::PolicyError;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest duration that is added to a key time (about 3,000 years); keeps every sum within 64 bits.
const LONGEST: Duration = Duration::from_secs(100_000_000_000);

/// The largest cache; TinyLFU sets about 2 bytes for each entry aside from the beginning.
const LARGEST_CACHE: usize = 1 << 24;

/// The most wraps that nonces of 96 random bits are safe for.
const SAFE_WRAPS: u64 = 1 << 32;

/// How long keys live, how soon a revocation is noticed, and what is cached.
///
/// ```
/// use keyward::CryptoPolicy;
/// use std::time::Duration;
///
/// let policy = CryptoPolicy { expire_after: Duration::from_secs(30 * 24 * 3600), ..CryptoPolicy::default() };
/// # assert!(policy.validate().is_ok());
/// ```
///
/// # Defaults
/// * `expire_after` 90 days, `revoke_check_interval` 60 minutes, `created_precision` 1 minute: what the other
///   implementations of the format use, so that a mixed fleet rotates together.
/// * `max_stale` 10 minutes: an outage of the metastore of that length stops nobody; while it answers, a revocation is
///   noticed within the interval.
/// * `rotate_ahead` 1 hour: under load the next key is there before the last one expires.
/// * `max_wraps` 2^31, half of what is safe.
/// * `clock_skew_tolerance` 5 minutes.
/// * system and intermediate keys are cached, 1,000 each, shared by all sessions of the factory: the locked memory
///   stays bounded, and many sessions of one partition load its key once.
/// * sessions are not cached; when they are, 1,000 of them, for 2 hours after their last use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CryptoPolicy {
    /// A key older than this encrypts no more; it decrypts for ever.
    pub expire_after: Duration,
    /// A cached key encrypts at most this long before the metastore is asked again whether it was revoked; zero asks
    /// every time.
    pub revoke_check_interval: Duration,
    /// A cached key whose check fails encrypts for this much longer, while the check is tried again; then encrypting fails.
    /// Zero serves nothing that was not checked in time. Decrypting does not depend on checks.
    pub max_stale: Duration,
    /// The next key is made this long before the last one expires, in the background and only for keys in use; `None` leaves
    /// it to whoever needs the key once it has expired. Never more than an eighth of `expire_after` in effect.
    pub rotate_ahead: Option<Duration>,
    /// An intermediate key that encrypted this many data row keys is replaced early. Each process counts what it does
    /// itself, while it has the key cached: where many share partitions, divide 2^32 by their number.
    pub max_wraps: u64,
    /// A latest key that is dated further in the future than this is reported, see [`Status`](crate::Status).
    pub clock_skew_tolerance: Duration,
    /// Creation times are truncated to a multiple of this, so that concurrent creators collide; zero means a second.
    /// Never more than `expire_after` in effect.
    pub created_precision: Duration,
    /// Whether system keys are kept after use.
    pub cache_system_keys: bool,
    /// How many versions of system keys are kept.
    pub system_key_cache_size: usize,
    /// Which system key leaves a full cache.
    pub system_key_cache_eviction: EvictionPolicy,
    /// Whether intermediate keys are kept after use.
    pub cache_intermediate_keys: bool,
    /// How many versions of intermediate keys are kept.
    pub intermediate_key_cache_size: usize,
    /// Which intermediate key leaves a full cache.
    pub intermediate_key_cache_eviction: EvictionPolicy,
    /// Who shares cached intermediate keys.
    pub intermediate_key_cache_scope: CacheScope,
    /// Whether the factory keeps sessions for the next caller of the same partition.
    pub cache_sessions: bool,
    /// How many sessions are kept.
    pub session_cache_size: usize,
    /// How long an unused session is kept; zero means for ever.
    pub session_cache_ttl: Duration,
    /// Which session leaves a full cache.
    pub session_cache_eviction: EvictionPolicy,
}

/// Who shares cached intermediate keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheScope {
    /// All sessions of the factory.
    #[default]
    Factory,
    /// The clones of one session; its keys are forgotten when it closes.
    Session,
}

impl Default for CryptoPolicy {
    fn default() -> Self {
        Self {
            expire_after: 90 * DAY,
            revoke_check_interval: HOUR,
            max_stale: 10 * MINUTE,
            rotate_ahead: Some(HOUR),
            max_wraps: 1 << 31,
            clock_skew_tolerance: 5 * MINUTE,
            created_precision: MINUTE,
            cache_system_keys: true,
            system_key_cache_size: 1000,
            system_key_cache_eviction: EvictionPolicy::Lru,
            cache_intermediate_keys: true,
            intermediate_key_cache_size: 1000,
            intermediate_key_cache_eviction: EvictionPolicy::Lru,
            intermediate_key_cache_scope: CacheScope::Factory,
            cache_sessions: false,
            session_cache_size: 1000,
            session_cache_ttl: 2 * HOUR,
            session_cache_eviction: EvictionPolicy::Lru,
        }
    }
}

impl CryptoPolicy {
    /// Checks that the options make sense together.
    ///
    /// # Errors
    /// [`PolicyError`] for a lifetime under a second, a cache of size 0 or beyond 16,777,216, durations beyond what key times can hold, or
    /// a number of wraps that is 0 or not safe.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if self.expire_after < Duration::from_secs(1) {
            return Err(PolicyError::Lifetime(self.expire_after));
        }
        for (option, size) in [
            ("system_key_cache_size", self.system_key_cache_size),
            ("intermediate_key_cache_size", self.intermediate_key_cache_size),
            ("session_cache_size", self.session_cache_size),
        ] {
            if size == 0 {
                return Err(PolicyError::Capacity { option });
            }
            if size > LARGEST_CACHE {
                return Err(PolicyError::TooMany { option, given: size, limit: LARGEST_CACHE });
            }
        }
        for (option, given) in [
            ("expire_after", self.expire_after),
            ("revoke_check_interval", self.revoke_check_interval),
            ("created_precision", self.created_precision),
            ("session_cache_ttl", self.session_cache_ttl),
            ("max_stale", self.max_stale),
            ("rotate_ahead", self.rotate_ahead.unwrap_or_default()),
            ("clock_skew_tolerance", self.clock_skew_tolerance),
        ] {
            if given > LONGEST {
                return Err(PolicyError::TooLong { option, given, limit: LONGEST });
            }
        }
        if !(1..=SAFE_WRAPS).contains(&self.max_wraps) {
            return Err(PolicyError::Wraps { given: self.max_wraps, limit: SAFE_WRAPS });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_policies_are_refused() {
        let base = CryptoPolicy::default;
        assert_eq!(base().validate(), Ok(()));
        let short = CryptoPolicy { expire_after: Duration::from_millis(999), ..base() };
        assert!(matches!(short.validate(), Err(PolicyError::Lifetime(_))));
        let empty = CryptoPolicy { intermediate_key_cache_size: 0, ..base() };
        assert_eq!(empty.validate(), Err(PolicyError::Capacity { option: "intermediate_key_cache_size" }));
        let endless_cache = CryptoPolicy { session_cache_size: usize::MAX, ..base() };
        assert!(matches!(endless_cache.validate(), Err(PolicyError::TooMany { option: "session_cache_size", .. })));
        let endless = CryptoPolicy { revoke_check_interval: Duration::MAX, ..base() };
        assert!(matches!(endless.validate(), Err(PolicyError::TooLong { .. })));
        let unsafe_budget = CryptoPolicy { max_wraps: (1 << 32) + 1, ..base() };
        assert!(matches!(unsafe_budget.validate(), Err(PolicyError::Wraps { .. })));
    }
}
