//! Records may name keys that do not exist: by mistake, or because somebody forges them to have the store asked.

use std::num::NonZeroUsize;

use crate::cache::{Cache, Cached, EvictionPolicy};
use crate::ids::{KeyId, KeyMeta};

/// How long a key that was not found is taken not to exist, in milliseconds. Only a forged record names a key before that is
/// stored, so this delays what a lagging replica could not find, and what another process makes right after a forgery.
const ABSENT: i64 = 2_000;

/// How many look-ups of keys that are not loaded a partition has at once, and how many more per second; those that find
/// their key are given back.
const BURST: i64 = 256;
const PER_SECOND: i64 = 8;

/// How many keys, and how many partitions, are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// What is known of keys that do not exist.
pub(super) struct Strangers {
    absent: Cache<KeyMeta, Until>,
    allowances: Cache<KeyId, Allowance>,
}

struct Until(i64);

impl Cached for Until {}

/// A bucket of look-ups that fills by and by.
struct Allowance {
    /// In thousandths.
    left: i64,
    /// When it was filled last, in Unix milliseconds.
    filled: i64,
}

impl Cached for Allowance {}

/// What is to be done about a key that is not loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Ask the store.
    Load,
    /// It was not there a moment ago.
    Absent,
    /// Ask later: too many were not there.
    Later,
}

impl Strangers {
    pub(super) fn new() -> Self {
        Self {
            absent: Cache::new(EvictionPolicy::Lru, REMEMBERED, |_, _, _| ()),
            allowances: Cache::new(EvictionPolicy::Lru, REMEMBERED, |_, _, _| ()),
        }
    }

    /// Decides about a look-up, and takes it from the allowance of its partition, at `now` in Unix milliseconds.
    pub(super) fn ask(&mut self, key: &KeyMeta, now: i64) -> Answer {
        if self.absent.get(key, now).is_some_and(|until| (until.0 - ABSENT..=until.0).contains(&now)) {
            return Answer::Absent;
        }
        let left = self.allowance(&key.id, now);
        if left < 1000 {
            return Answer::Later;
        }
        self.set(&key.id, left - 1000, now);
        Answer::Load
    }

    /// Gives a look-up back that found its key, or failed for another reason.
    pub(super) fn give_back(&mut self, key: &KeyMeta, now: i64) {
        let left = self.allowance(&key.id, now);
        self.set(&key.id, left + 1000, now);
    }

    /// Takes note that there is no such key.
    pub(super) fn note_absent(&mut self, key: KeyMeta, now: i64) {
        self.absent.insert(key, Until(now.saturating_add(ABSENT)), now);
    }

    /// Takes note that there is such a key: a forged record may have named it before it was made.
    pub(super) fn note_present(&mut self, key: &KeyMeta) {
        self.absent.remove(key);
    }

    fn allowance(&mut self, id: &KeyId, now: i64) -> i64 {
        let known = self.allowances.get(id, now);
        known.map_or(BURST * 1000, |known| {
            let gained = now.saturating_sub(known.filled).max(0).saturating_mul(PER_SECOND);
            known.left.saturating_add(gained).min(BURST * 1000)
        })
    }

    fn set(&mut self, id: &KeyId, left: i64, now: i64) {
        if left >= BURST * 1000 {
            self.allowances.remove(id);
        } else {
            self.allowances.insert(id.clone(), Allowance { left, filled: now }, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(created: i64) -> KeyMeta {
        KeyMeta { id: KeyId::new("_IK_p_s_q"), created }
    }

    #[test]
    fn a_key_that_was_not_there_is_not_asked_for_again_at_once() {
        let mut strangers = Strangers::new();
        assert_eq!(strangers.ask(&key(1), 0), Answer::Load);
        strangers.note_absent(key(1), 0);
        assert_eq!(strangers.ask(&key(1), ABSENT), Answer::Absent);
        assert_eq!(strangers.ask(&key(2), ABSENT), Answer::Load);
        assert_eq!(strangers.ask(&key(1), ABSENT + 1), Answer::Load);
        strangers.note_absent(key(2), ABSENT);
        strangers.note_present(&key(2));
        assert_eq!(strangers.ask(&key(2), ABSENT), Answer::Load, "it was made since");
        strangers.note_absent(key(3), 1_000_000);
        assert_eq!(strangers.ask(&key(3), 0), Answer::Load, "a clock that went back does not prolong it");
    }

    #[test]
    fn a_partition_asks_for_so_many_unknown_keys_and_for_more_by_and_by() {
        let mut strangers = Strangers::new();
        for created in 0..BURST {
            assert_eq!(strangers.ask(&key(created), 0), Answer::Load);
        }
        assert_eq!(strangers.ask(&key(BURST), 0), Answer::Later);
        let other = KeyMeta { id: KeyId::new("_IK_q_s_q"), created: 0 };
        assert_eq!(strangers.ask(&other, 0), Answer::Load, "others are not affected");
        strangers.give_back(&key(0), 0);
        assert_eq!(strangers.ask(&key(BURST), 0), Answer::Load, "what was found is given back");
        assert_eq!(strangers.ask(&key(BURST + 1), 1000), Answer::Load);
    }
}
