//! The crypto policy and its verdicts on a key at an instant: pure functions, no clock of their own.

use std::time::Duration;

use crate::clock::millis;
use crate::error::PolicyError;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest duration that is added to a key time (about 3,000 years); keeps every sum within 64 bits.
const LONGEST: Duration = Duration::from_secs(100_000_000_000);

/// Seconds from 0001-01-01T00:00:00Z to 1970-01-01T00:00:00Z: creation times are truncated relative to the former.
const YEAR_ONE: i64 = 62_135_596_800;

/// The share of the revoke check interval, in percent, after which a key in use may be checked ahead of time.
const AGING_FROM: i64 = 85;

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

/// Which entry leaves a full cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EvictionPolicy {
    /// The least recently used one.
    #[default]
    Lru,
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

/// How long ago a key's row was last seen, against the revoke check interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Use it.
    Fresh,
    /// Use it, and have it checked ahead of time.
    Aging,
    /// Check it before use.
    Stale,
}

impl CryptoPolicy {
    /// Checks that the options make sense together.
    ///
    /// # Errors
    /// [`PolicyError`] for a lifetime under a second, a cache of size 0, or durations beyond what key times can hold.
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
        }
        for (option, given) in [
            ("expire_after", self.expire_after),
            ("revoke_check_interval", self.revoke_check_interval),
            ("created_precision", self.created_precision),
            ("session_cache_ttl", self.session_cache_ttl),
        ] {
            if given > LONGEST {
                return Err(PolicyError::TooLong { option, given, limit: LONGEST });
            }
        }
        Ok(())
    }

    /// Returns the last millisecond at which a key created at `created` (Unix seconds) may encrypt.
    pub(crate) fn expires_at(&self, created: i64) -> i64 {
        created.saturating_mul(1000).saturating_add(millis(self.expire_after))
    }

    /// Tells whether a key created at `created` (Unix seconds) is too old to encrypt at `now` (Unix milliseconds).
    pub(crate) fn is_expired(&self, created: i64, now: i64) -> bool {
        now > self.expires_at(created)
    }

    /// Judges a row last seen at `checked`, both in Unix milliseconds.
    ///
    /// `jitter` in 0..=255 moves the start of `Aging` within the last 15 % of the interval, so that keys loaded
    /// together are not refreshed together. A clock that went backward makes everything stale.
    pub(crate) fn freshness(&self, checked: i64, jitter: u8, now: i64) -> Freshness {
        let interval = millis(self.revoke_check_interval);
        let age = now.saturating_sub(checked);
        let spread = interval / 100 * (100 - AGING_FROM);
        if age < 0 || age > interval || interval == 0 {
            Freshness::Stale
        } else if age >= interval / 100 * AGING_FROM + spread / 255 * i64::from(jitter) && age > 0 {
            Freshness::Aging
        } else {
            Freshness::Fresh
        }
    }

    /// Returns the creation time of a new key made at `now` (Unix milliseconds), after the invalid latest one if there
    /// is one; `None` when that one stands at the end of time.
    ///
    /// Truncation makes concurrent creators collide on one row. A key that replaces an invalid one of the same or a
    /// later truncated time comes a second after it, so that it is the latest.
    pub(crate) fn next_created(&self, now: i64, invalid_latest: Option<i64>) -> Option<i64> {
        let seconds = now.div_euclid(1000);
        let precision = self.created_precision.min(self.expire_after).as_secs();
        let precision = i64::try_from(precision.max(1)).unwrap_or(i64::MAX);
        let truncated = seconds - (seconds.saturating_add(YEAR_ONE)).rem_euclid(precision);
        match invalid_latest {
            Some(latest) => Some(truncated.max(latest.checked_add(1)?)),
            None => Some(truncated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unusable_policies_are_refused() {
        let base = CryptoPolicy::default;
        assert_eq!(base().validate(), Ok(()));
        let short = CryptoPolicy { expire_after: Duration::from_millis(999), ..base() };
        assert!(matches!(short.validate(), Err(PolicyError::Lifetime(_))));
        let empty = CryptoPolicy { intermediate_key_cache_size: 0, ..base() };
        assert_eq!(empty.validate(), Err(PolicyError::Capacity { option: "intermediate_key_cache_size" }));
        let endless = CryptoPolicy { revoke_check_interval: Duration::MAX, ..base() };
        assert!(matches!(endless.validate(), Err(PolicyError::TooLong { .. })));
    }

    #[test]
    fn expiry_is_strictly_after_the_lifetime() {
        let policy = CryptoPolicy { expire_after: Duration::from_secs(10), ..CryptoPolicy::default() };
        assert!(!policy.is_expired(100, 110_000));
        assert!(policy.is_expired(100, 110_001));
    }

    #[test]
    fn creation_times_are_truncated_relative_to_year_one() {
        let with = |precision| CryptoPolicy { created_precision: precision, ..CryptoPolicy::default() };
        assert_eq!(with(MINUTE).next_created(1_700_000_012_345, None), Some(1_699_999_980));
        assert_eq!(with(Duration::ZERO).next_created(1_700_000_012_999, None), Some(1_700_000_012));
        // Weeks start on Monday: 0001-01-01 was one. 2023-11-14 was a Tuesday, 2023-11-13 the Monday before it.
        assert_eq!(with(7 * DAY).next_created(1_700_000_012_000, None), Some(1_699_833_600));
        assert_eq!(with(MINUTE).next_created(-30_000, None), Some(-60));
    }

    #[test]
    fn a_key_made_in_the_minute_of_its_revoked_predecessor_comes_after_it() {
        let policy = CryptoPolicy::default();
        assert_eq!(policy.next_created(1_700_000_012_000, Some(1_699_999_980)), Some(1_699_999_981));
        assert_eq!(policy.next_created(1_700_000_012_000, Some(1_700_086_400)), Some(1_700_086_401));
        assert_eq!(policy.next_created(1_700_000_012_000, Some(i64::MAX)), None);
    }

    #[test]
    fn freshness_ends_with_the_interval_and_never_serves_a_clock_that_went_back() {
        let policy = CryptoPolicy { revoke_check_interval: Duration::from_secs(100), ..CryptoPolicy::default() };
        assert_eq!(policy.freshness(0, 0, 84_999), Freshness::Fresh);
        assert_eq!(policy.freshness(0, 0, 85_000), Freshness::Aging);
        assert_eq!(policy.freshness(0, 255, 85_000), Freshness::Fresh);
        assert_eq!(policy.freshness(0, 255, 100_000), Freshness::Aging);
        assert_eq!(policy.freshness(0, 0, 100_001), Freshness::Stale);
        assert_eq!(policy.freshness(1, 0, 0), Freshness::Stale);
        let never = CryptoPolicy { revoke_check_interval: Duration::ZERO, ..CryptoPolicy::default() };
        assert_eq!(never.freshness(5, 0, 5), Freshness::Stale);
    }

    proptest! {
        #[test]
        fn a_new_key_is_valid_when_made_and_later_than_what_it_replaces(
            now in 0_i64..4_000_000_000_000,
            lifetime in 1_u64..10_000_000,
            precision in 0_u64..1_000_000,
            behind in proptest::option::of(0_i64..1_000_000),
        ) {
            let policy = CryptoPolicy {
                expire_after: Duration::from_secs(lifetime),
                created_precision: Duration::from_secs(precision),
                ..CryptoPolicy::default()
            };
            let latest = behind.map(|seconds| now / 1000 - seconds);
            let created = policy.next_created(now, latest).expect("far from the end of time");
            prop_assert!(!policy.is_expired(created, now));
            prop_assert!(latest.is_none_or(|latest| created > latest));
        }
    }
}
