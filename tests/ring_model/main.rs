//! The ring of key versions under every interleaving of readers and writers that loom can think of.
//!
//! The files under test are those that are shipped, with loom's atomics in the place of the real ones. A pointer that is
//! swapped (`arc_swap`) is one here that every access reads or changes in one step; what a reader got stays his, as there.
//! Ids are the crate's own; the policy is as simple as verdicts need, and "keys" count how often they were released.

#![expect(unreachable_pub, dead_code, reason = "the files under test are made for another crate")]

#[path = "../../src/actors/key_cache/cached_key.rs"]
mod cached_key;
#[path = "../../src/actors/key_cache/checks.rs"]
mod checks;
#[path = "../../src/actors/key_cache/ring.rs"]
mod ring;
#[path = "../../src/actors/key_cache/status.rs"]
mod status;
mod sync;

use std::sync::Arc;

use loom::thread;

use cached_key::CachedKey;
use checks::Checks;
use ids::{KeyId, KeyMeta};
use memory::{LockedKey, Released};
use policy::CryptoPolicy;
use ring::KeyRing;
use status::KeyStatus;
use sync::{ArcSwap, AtomicBool, Ordering};

mod ids {
    pub use keyward::{KeyId, KeyMeta};
}

mod memory {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// How often a key was released.
    pub type Released = Arc<AtomicUsize>;

    /// A key that notes its end.
    #[derive(Debug, Default)]
    pub struct LockedKey {
        pub released: Released,
    }

    impl Drop for LockedKey {
        fn drop(&mut self) {
            self.released.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Keys that never expire, are due or spent, and are fresh for ever once they were seen.
mod policy {
    #[derive(Default)]
    pub struct CryptoPolicy {
        pub max_wraps: u64,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Freshness {
        Fresh,
        Aging,
        Stale,
    }

    impl CryptoPolicy {
        pub fn expires_at(&self, _: i64) -> i64 {
            i64::MAX
        }

        pub fn due_at(&self, _: i64, _: u8) -> i64 {
            i64::MAX
        }

        pub fn is_spent(&self, _: u64) -> bool {
            false
        }

        pub fn is_nearly_spent(&self, _: u64) -> bool {
            false
        }

        pub fn may_serve_stale(&self, _: i64, _: i64) -> bool {
            true
        }

        pub fn freshness(&self, checked: i64, _: u8, now: i64) -> Freshness {
            if checked <= now { Freshness::Fresh } else { Freshness::Stale }
        }

        pub fn is_forgotten(_: i64, _: i64) -> bool {
            false
        }

        pub fn retry_delay(_: u32, _: u8) -> i64 {
            1
        }
    }

    #[derive(Debug)]
    pub struct Wraps;

    impl Wraps {
        pub fn new(_: u64) -> Self {
            Self
        }

        pub fn get(&self) -> u64 {
            0
        }
    }
}

/// Goes through all interleavings with at most so many forced switches of threads as end within seconds.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn ring() -> Arc<KeyRing> {
    Arc::new(KeyRing::new(KeyId::new("_IK_alice_svc_prod")))
}

fn status(created: i64) -> Arc<KeyStatus> {
    let meta = KeyMeta { id: KeyId::new("_IK_alice_svc_prod"), created };
    Arc::new(KeyStatus::new(meta, false, 0, 0, &CryptoPolicy::default()))
}

/// A version, and what counts how often its key is released.
fn version(created: i64) -> (Arc<CachedKey>, Released) {
    let key = LockedKey::default();
    let released = Arc::clone(&key.released);
    (Arc::new(CachedKey::new(&CryptoPolicy::default(), Arc::new(key), status(created), None)), released)
}

fn count(released: &Released) -> usize {
    released.load(std::sync::atomic::Ordering::SeqCst)
}

fn versions_of(ring: &KeyRing) -> Vec<i64> {
    let mut created: Vec<i64> = ring.versions().iter().map(|key| key.meta().created).collect();
    created.sort_unstable();
    created
}

/// When the newest version that a reader may encrypt with was created.
fn usable(ring: &KeyRing) -> Option<i64> {
    ring.with_latest(&CryptoPolicy::default(), 0, |key, _| key.meta().created)
}

#[test]
fn a_reader_uses_to_its_end_what_is_withdrawn_meanwhile_and_the_last_holder_releases_it() {
    check(|| {
        let (ring, (key, released)) = (ring(), version(1));
        ring.publish(&key, true);
        drop(key);
        let (reading, watched) = (Arc::clone(&ring), Arc::clone(&released));
        let encrypting = thread::spawn(move || {
            let used = reading.with_latest(&CryptoPolicy::default(), 0, |key, _| {
                thread::yield_now();
                (count(&watched), Arc::clone(key.key()))
            });
            used.map(|(released_in_use, key)| {
                thread::yield_now();
                assert_eq!((released_in_use, count(&watched)), (0, 0), "released while it was in use");
                drop(key);
            })
        });
        let (reading, watched) = (Arc::clone(&ring), Arc::clone(&released));
        let decrypting = thread::spawn(move || {
            reading.with_version(1, |key| {
                thread::yield_now();
                assert_eq!((key.meta().created, count(&watched)), (1, 0), "released while it was in use");
            })
        });
        ring.withdraw(1);
        assert!(usable(&ring).is_none() && versions_of(&ring).is_empty());
        encrypting.join().expect("a reader does not panic");
        decrypting.join().expect("a reader does not panic");
        assert_eq!(count(&released), 1, "nobody holds it any more");
    });
}

#[test]
fn whoever_begins_after_a_revocation_gets_no_usable_verdict() {
    for of_parent in [false, true] {
        check(move || {
            let (ring, parent, own) = (ring(), status(0), status(1));
            let key = Arc::new(LockedKey::default());
            let policy = CryptoPolicy::default();
            let cached = CachedKey::new(&policy, key, Arc::clone(&own), Some(Arc::clone(&parent)));
            ring.publish(&Arc::new(cached), true);
            let told = Arc::new(AtomicBool::new(false));
            let (reading, heard) = (Arc::clone(&ring), Arc::clone(&told));
            let reader = thread::spawn(move || {
                let has_heard = heard.load(Ordering::Acquire);
                let used = usable(&reading);
                assert!(!has_heard || used.is_none(), "used after its revocation");
            });
            // What was just looked at is published again, as the same key with the same status.
            let refreshing = Arc::clone(&ring);
            let refresher = thread::spawn(move || {
                let known = refreshing.latest().expect("it was published");
                known.status().observe(false, 0);
                refreshing.publish(&Arc::new(known.under(&CryptoPolicy::default(), known.parent().cloned())), true);
            });
            if of_parent {
                parent.revoke();
            } else {
                own.revoke();
            }
            told.store(true, Ordering::Release);
            reader.join().expect("a reader does not panic");
            refresher.join().expect("nor does a writer");
            assert_eq!(usable(&ring), None, "looking at the row again undid its revocation");
        });
    }
}

#[test]
fn what_is_the_newest_was_published_and_readers_never_see_it_go_back() {
    check(|| {
        let ring = ring();
        ring.publish(&version(1).0, true);
        let is_out = Arc::new(AtomicBool::new(false));
        let (reading, published) = (Arc::clone(&ring), Arc::clone(&is_out));
        let reader = thread::spawn(move || {
            let (first, second) = (usable(&reading), usable(&reading));
            for seen in [first, second] {
                assert!(matches!(seen, Some(1 | 2)), "{seen:?} was never published");
                assert!(seen == Some(1) || published.load(Ordering::Acquire), "seen before it was published");
            }
            assert!(first <= second, "{first:?}, then {second:?}");
        });
        is_out.store(true, Ordering::Release);
        ring.publish(&version(2).0, true);
        ring.withdraw(1);
        reader.join().expect("a reader does not panic");
        assert_eq!((usable(&ring), versions_of(&ring)), (Some(2), vec![2]));
    });
}

#[test]
fn writers_of_different_versions_undo_nothing_of_each_other() {
    check(|| {
        let ring = ring();
        ring.publish(&version(1).0, true);
        let (old, new) = (Arc::clone(&ring), Arc::clone(&ring));
        let writers = [
            thread::spawn(move || old.publish(&version(2).0, false)),
            thread::spawn(move || new.publish(&version(3).0, true)),
        ];
        ring.withdraw(1);
        writers.into_iter().for_each(|writer| writer.join().expect("a writer does not panic"));
        assert_eq!((usable(&ring), versions_of(&ring)), (Some(3), vec![2, 3]));
    });
}

#[test]
fn the_newest_version_is_the_one_of_its_time_that_is_listed() {
    check(|| {
        let (ring, known) = (ring(), version(1).0);
        ring.publish(&known, true);
        let refreshing = Arc::clone(&ring);
        let refresher = thread::spawn(move || {
            let known = refreshing.latest().expect("it was published");
            refreshing.publish(&Arc::new(known.under(&CryptoPolicy::default(), Some(status(0)))), true);
        });
        ring.publish(&known, false);
        refresher.join().expect("a writer does not panic");
        let (latest, listed) = (ring.latest(), ring.with_version(1, Arc::clone));
        assert!(
            Arc::ptr_eq(&latest.expect("it is there"), &listed.expect("it is there")),
            "a revocation finds one alone"
        );
    });
}

#[test]
fn a_rotation_beside_a_newer_version_leaves_that_one_in_place() {
    check(|| {
        let ring = ring();
        ring.publish(&version(1).0, true);
        let publishing = Arc::clone(&ring);
        let writer = thread::spawn(move || publishing.publish(&version(3).0, true));
        ring.outdate(2);
        writer.join().expect("a writer does not panic");
        assert_eq!((usable(&ring), versions_of(&ring)), (Some(3), vec![1, 3]));
    });
}

#[test]
fn one_caller_is_let_through_until_somebody_may_look_again() {
    check(|| {
        let (checks, looking) = (Arc::new(Checks::new(0, 0)), Arc::new(AtomicBool::new(false)));
        let callers = [0, 1].map(|_| {
            let (checks, looking) = (Arc::clone(&checks), Arc::clone(&looking));
            thread::spawn(move || claim_and_look(&looking, || checks.claim(0), || checks.observe(0)))
        });
        let first = claim_and_look(&looking, || checks.claim(0), || checks.note_failure(0));
        let others = callers.map(|caller| caller.join().expect("a caller does not panic"));
        assert!(first || others.contains(&true), "nobody was let through");
    });
}

/// Looks, if it may, and tells whether it did.
fn claim_and_look(looking: &AtomicBool, claim: impl Fn() -> bool, end: impl Fn()) -> bool {
    let claimed = claim();
    if claimed {
        assert!(!looking.swap(true, Ordering::SeqCst), "two look at once");
        looking.store(false, Ordering::SeqCst);
        end();
    }
    claimed
}

/// The model is void unless it finds what goes wrong without the protocol.
#[test]
#[should_panic(expected = "two look at once")]
fn control_two_callers_who_look_before_they_claim_are_both_let_through() {
    check(|| {
        let (claimed, looking) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let claim = |claimed: &AtomicBool| {
            let is_free = !claimed.load(Ordering::SeqCst);
            claimed.store(true, Ordering::SeqCst);
            is_free
        };
        let (theirs, beside) = (Arc::clone(&claimed), Arc::clone(&looking));
        let caller = thread::spawn(move || claim_and_look(&beside, || claim(&theirs), || ()));
        claim_and_look(&looking, || claim(&claimed), || claimed.store(false, Ordering::SeqCst));
        caller.join().expect("a caller does not panic");
    });
}

/// As above, for versions that are read, changed and stored.
#[test]
#[should_panic(expected = "a version is lost")]
fn control_writers_who_store_what_they_read_lose_a_version() {
    check(|| {
        let versions = Arc::new(ArcSwap::<Vec<i64>>::default());
        let add = |versions: &ArcSwap<Vec<i64>>, created| {
            let with = [versions.load_full().as_slice(), &[created]].concat();
            versions.store(Arc::new(with));
        };
        let theirs = Arc::clone(&versions);
        let writer = thread::spawn(move || add(&theirs, 1));
        add(&versions, 2);
        writer.join().expect("a writer does not panic");
        assert_eq!(versions.load().len(), 2, "a version is lost");
    });
}
