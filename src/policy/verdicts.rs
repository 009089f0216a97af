//! What follows from the policy for one key at one instant.

use super::CryptoPolicy;
use crate::clock::millis;

/// Seconds from 0001-01-01T00:00:00Z to 1970-01-01T00:00:00Z: creation times are truncated relative to the former.
const YEAR_ONE: i64 = 62_135_596_800;

/// The share of the revoke check interval, in percent, after which a key in use may be checked ahead of time.
const AGING_FROM: i64 = 85;

/// The next key is made ahead of time by this part of a key's life at most.
const LONGEST_LEAD: i64 = 8;

/// The next key is made when this part of the budget of wraps is left.
const LAST_WRAPS: u64 = 16;

/// How soon a check that failed is tried again, in milliseconds, and how soon at the latest after many failures.
const FIRST_RETRY: i64 = 1_000;
const LAST_RETRY: i64 = 60_000;

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

    /// Tells whether a row last seen at `checked` may still encrypt at `now`, both in Unix milliseconds, when it could not
    /// be looked at again since.
    pub(crate) fn may_serve_stale(&self, checked: i64, now: i64) -> bool {
        let age = now.saturating_sub(checked);
        age >= 0 && age <= millis(self.revoke_check_interval).saturating_add(millis(self.max_stale))
    }

    /// Returns from when on, in Unix milliseconds, the successor of a key that encrypts until `expires` is to be made.
    ///
    /// `jitter` in 0..=255 spreads that over the first half of the lead, so that keys made together are not all replaced
    /// together.
    pub(crate) fn due_at(&self, expires: i64, jitter: u8) -> i64 {
        let Some(lead) = self.lead() else { return i64::MAX };
        expires.saturating_sub(lead - lead / 2 / 255 * i64::from(jitter))
    }

    /// Returns how long to wait, in milliseconds, before a successor that was due and could not be made is thought of again.
    pub(crate) fn due_again(&self) -> i64 {
        (self.lead().unwrap_or(0) / 60).clamp(FIRST_RETRY, LAST_RETRY)
    }

    /// Returns how long before the end of a key its successor is to be made, in milliseconds.
    fn lead(&self) -> Option<i64> {
        Some(millis(self.rotate_ahead?).min(millis(self.expire_after) / LONGEST_LEAD))
    }

    /// Tells whether a key that encrypted `wraps` others must not encrypt any more.
    pub(crate) fn is_spent(&self, wraps: u64) -> bool {
        wraps >= self.max_wraps
    }

    /// Tells whether a key that encrypted `wraps` others is to be replaced soon.
    pub(crate) fn is_nearly_spent(&self, wraps: u64) -> bool {
        self.rotate_ahead.is_some() && wraps >= self.max_wraps - self.max_wraps / LAST_WRAPS
    }

    /// Returns how long to wait, in milliseconds, before what failed `failures` times in a row is tried again.
    ///
    /// `jitter` in 0..=255 takes up to half of it off.
    pub(crate) fn retry_delay(failures: u32, jitter: u8) -> i64 {
        let longest = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LAST_RETRY);
        longest - longest / 2 * i64::from(jitter) / 255
    }

    /// Tells whether it is too long ago that a look was due, at `due`, and nobody looked, to say that looking still fails.
    pub(crate) fn is_forgotten(due: i64, now: i64) -> bool {
        now.saturating_sub(due) > LAST_RETRY
    }

    /// Tells whether a key created at `created` (Unix seconds) is dated further in the future than clocks may differ.
    pub(crate) fn is_skewed(&self, created: i64, now: i64) -> bool {
        created.saturating_mul(1000).saturating_sub(now) > millis(self.clock_skew_tolerance)
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
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

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
    fn a_stale_key_serves_for_so_long_and_no_longer() {
        let policy = CryptoPolicy {
            revoke_check_interval: Duration::from_secs(100),
            max_stale: Duration::from_secs(10),
            ..CryptoPolicy::default()
        };
        assert!(policy.may_serve_stale(0, 110_000));
        assert!(!policy.may_serve_stale(0, 110_001));
        assert!(!policy.may_serve_stale(1, 0), "a clock that went back serves nothing");
    }

    #[test]
    fn successors_are_due_within_the_first_half_of_the_lead() {
        let policy = CryptoPolicy { rotate_ahead: Some(MINUTE), ..CryptoPolicy::default() };
        assert_eq!(policy.due_at(100_000_000, 0), 99_940_000);
        let latest = policy.due_at(100_000_000, 255);
        assert!((99_969_000..=99_970_000).contains(&latest), "{latest}");
        let short = CryptoPolicy { expire_after: Duration::from_secs(8), ..CryptoPolicy::default() };
        assert_eq!(short.due_at(8_000, 0), 7_000, "an eighth of a short life");
        let off = CryptoPolicy { rotate_ahead: None, ..CryptoPolicy::default() };
        assert_eq!(off.due_at(0, 0), i64::MAX);
    }

    #[test]
    fn a_budget_is_nearly_spent_before_it_is_spent() {
        let policy = CryptoPolicy { max_wraps: 1600, ..CryptoPolicy::default() };
        assert!(!policy.is_nearly_spent(1499) && policy.is_nearly_spent(1500));
        assert!(!policy.is_spent(1599) && policy.is_spent(1600));
        let off = CryptoPolicy { rotate_ahead: None, ..policy };
        assert!(!off.is_nearly_spent(1599) && off.is_spent(1600));
    }

    #[test]
    fn retries_come_further_and_further_apart_up_to_a_minute() {
        let delays: Vec<i64> = (1..9).map(|failures| CryptoPolicy::retry_delay(failures, 0)).collect();
        assert_eq!(delays, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(CryptoPolicy::retry_delay(u32::MAX, 255), 30_000);
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
