//! When a token is due.

use std::time::Duration;

use tokio::time::Instant;

/// How long a token is valid, as of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    /// When it was granted or looked at, and for how long from then; `None` for a token that does not end, or nobody
    /// knows when.
    term: Option<(Instant, Duration)>,
    /// When something is to be done about it before it ends.
    due: Option<Instant>,
    is_renewable: bool,
}

/// What is to be done about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing: it is valid as far as is known.
    Nothing,
    /// It ends before long and may be renewed.
    Renewal,
    /// It ends before long and may not be renewed.
    Replacement,
    /// It has ended.
    Over,
}

/// A century, in seconds: what is longer cannot be told from it, and clocks cannot tell all of what is.
const LONGEST: u64 = 100 * 365 * 86_400;

/// How long a token is granted, in seconds, and whether it may be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) ttl: u64,
    pub(super) renewable: bool,
}

impl Lease {
    /// Of a token that does not end, or nobody knows when.
    pub(super) const ENDLESS: Self = Self { term: None, due: None, is_renewable: false };

    /// Of a token that was granted now, to be looked after once two thirds of its time are over.
    pub(super) fn begin(Terms { ttl, renewable }: Terms, now: Instant) -> Self {
        let ttl = Duration::from_secs(ttl.min(LONGEST));
        Self { term: Some((now, ttl)), due: Some(now + ttl * 2 / 3), is_renewable: renewable }
    }

    pub(super) fn due(&self, now: Instant) -> Due {
        match self.term {
            Some((since, ttl)) if now >= since + ttl => Due::Over,
            Some(_) if self.due.is_some_and(|due| now >= due) => {
                if self.is_renewable {
                    Due::Renewal
                } else {
                    Due::Replacement
                }
            }
            _ => Due::Nothing,
        }
    }

    /// Returns after what time something is to be done about it.
    pub(super) fn left(&self, now: Instant) -> Duration {
        let next = self.due.or(self.term.map(|(since, ttl)| since + ttl));
        next.map_or(Duration::MAX, |next| next.saturating_duration_since(now))
    }

    /// Of the same token, which could not be looked after: asked for again after a sixth of what is left.
    pub(super) fn put_off(self, now: Instant) -> Self {
        let left = self.term.map(|(since, ttl)| (since + ttl).saturating_duration_since(now));
        Self { due: left.map(|left| now + left / 6), ..self }
    }

    /// Of the same token, which nothing can be done about until it ends.
    pub(super) fn left_alone(self) -> Self {
        Self { due: None, ..self }
    }

    /// Whether a renewal came out shorter: the token comes to the end of its longest time.
    pub(super) fn is_shorter_than(&self, before: &Self) -> bool {
        matches!((self.term, before.term), (Some((_, now)), Some((_, before))) if now < before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_lease_is_due_after_two_thirds_and_ends() {
        let began = Instant::now();
        for (renewable, due) in [(true, Due::Renewal), (false, Due::Replacement)] {
            let lease = Lease::begin(Terms { ttl: 3600, renewable }, began);
            assert_eq!(lease.left(began + HOUR / 3), HOUR / 3);
            assert_eq!(lease.left_alone().left(began + HOUR / 3), HOUR * 2 / 3);
            assert_eq!(lease.left(began + HOUR), Duration::ZERO);
            let cases = [(0, Due::Nothing), (2399, Due::Nothing), (2400, due), (3599, due), (3600, Due::Over)];
            for (after, expected) in cases {
                assert_eq!(lease.due(began + Duration::from_secs(after)), expected, "{after}");
            }
        }
        let century = Lease::begin(Terms { ttl: u64::MAX, renewable: true }, began);
        for lease in [century, Lease::ENDLESS] {
            assert_eq!(lease.due(began + 10_000 * HOUR), Due::Nothing);
        }
    }

    #[test]
    fn what_could_not_be_renewed_is_tried_again_before_the_end() {
        let began = Instant::now();
        let lease = Lease::begin(Terms { ttl: 3600, renewable: true }, began).put_off(began + HOUR * 2 / 3);
        for (after, expected) in [(2401, Due::Nothing), (2600, Due::Renewal), (3600, Due::Over)] {
            assert_eq!(lease.due(began + Duration::from_secs(after)), expected, "{after}");
        }
        let lease = lease.left_alone();
        assert_eq!(lease.due(began + Duration::from_secs(3599)), Due::Nothing);
        assert_eq!(lease.due(began + HOUR), Due::Over);
    }

    #[test]
    fn a_renewal_that_is_cut_short_shows() {
        let now = Instant::now();
        let lease = |ttl| Lease::begin(Terms { ttl, renewable: true }, now);
        assert!(lease(10).is_shorter_than(&lease(20)));
        assert!(!lease(20).is_shorter_than(&lease(20)) && !Lease::ENDLESS.is_shorter_than(&lease(20)));
    }
}
