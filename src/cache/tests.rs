//! What holds for every policy, and what each of them lets leave.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::{Cache, Cached, Departure, EvictionPolicy};

const POLICIES: [EvictionPolicy; 5] =
    [EvictionPolicy::Lru, EvictionPolicy::Lfu, EvictionPolicy::Slru, EvictionPolicy::TinyLfu, EvictionPolicy::S3Fifo];

/// A value that can be used without the cache being told.
struct Value {
    number: u64,
    used: AtomicBool,
    last_used: AtomicI64,
}

impl Value {
    fn new(number: u64) -> Arc<Self> {
        Arc::new(Self { number, used: false.into(), last_used: i64::MIN.into() })
    }

    fn use_silently(&self, now: i64) {
        self.used.store(true, Ordering::Relaxed);
        self.last_used.store(now, Ordering::Relaxed);
    }
}

impl Cached for Arc<Value> {
    fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    fn last_used(&self) -> i64 {
        self.last_used.load(Ordering::Relaxed)
    }
}

type Departures = Arc<Mutex<Vec<(String, u64, Departure)>>>;

/// A cache and what left it.
struct Stage {
    cache: Cache<String, Arc<Value>>,
    departures: Departures,
    next: u64,
}

impl Stage {
    fn new(policy: EvictionPolicy, capacity: usize) -> Self {
        let departures = Departures::default();
        let noted = Arc::clone(&departures);
        let cache = Cache::new(policy, NonZeroUsize::new(capacity).unwrap(), move |key, value: Arc<Value>, why| {
            noted.lock().unwrap().push((key, value.number, why));
        });
        Self { cache, departures, next: 0 }
    }

    fn insert(&mut self, key: &str, now: i64) -> Arc<Value> {
        let value = Value::new(self.next);
        self.next += 1;
        self.cache.insert(key.to_owned(), Arc::clone(&value), now);
        value
    }

    /// Inserts keys and returns those that left for want of room.
    fn insert_all(&mut self, keys: &str) -> String {
        self.departures.lock().unwrap().clear();
        for key in keys.chars() {
            self.insert(&key.to_string(), 0);
        }
        self.departures
            .lock()
            .unwrap()
            .iter()
            .map(|(key, _, why)| {
                assert_eq!(*why, Departure::Evicted);
                key.as_str()
            })
            .collect()
    }

    fn use_all(&mut self, keys: &str) {
        for key in keys.chars() {
            assert!(self.cache.get(key.to_string().as_str(), 0).is_some(), "{key}");
        }
    }
}

#[test]
fn lru_lets_the_least_recently_used_leave() {
    let mut stage = Stage::new(EvictionPolicy::Lru, 3);
    assert_eq!(stage.insert_all("abc"), "");
    stage.use_all("a");
    assert_eq!(stage.insert_all("de"), "bc");
    assert_eq!(stage.insert_all("f"), "a");
}

#[test]
fn lfu_lets_the_least_often_used_leave_and_of_several_the_oldest() {
    let mut stage = Stage::new(EvictionPolicy::Lfu, 4);
    stage.insert_all("abcd");
    stage.use_all("aabbc");
    assert_eq!(stage.insert_all("e"), "d");
    stage.use_all("e");
    assert_eq!(stage.insert_all("f"), "c", "used as often as e, and for longer");
    stage.use_all("ffff");
    assert_eq!(stage.insert_all("g"), "e");
}

#[test]
fn slru_protects_what_was_used_again() {
    let mut stage = Stage::new(EvictionPolicy::Slru, 5);
    stage.insert_all("abcde");
    stage.use_all("abcd");
    assert_eq!(stage.insert_all("fgh"), "efg", "four are protected");
    stage.use_all("h");
    assert_eq!(stage.insert_all("ij"), "ai", "h is protected now, a on probation");
}

#[test]
fn tinylfu_keeps_what_is_seen_often_from_a_flood_of_strangers() {
    let mut stage = Stage::new(EvictionPolicy::TinyLfu, 200);
    for round in 0..5 {
        for number in 0..150 {
            let key = format!("regular {number}");
            if round == 0 || stage.cache.get(&key[..], 0).is_none() {
                stage.insert(&key, 0);
            }
        }
    }
    for number in 0..10_000 {
        stage.insert(&format!("stranger {number}"), 0);
    }
    let kept = (0..150).filter(|number| stage.cache.get(&format!("regular {number}")[..], 0).is_some()).count();
    assert!(kept > 140, "{kept} of 150");
}

#[test]
fn tinylfu_does_not_let_newcomers_that_are_no_better_push_out_what_there_is() {
    let hits_of = |policy| {
        let mut stage = Stage::new(policy, 200);
        let mut hits = 0;
        for number in (0..250).cycle().take(250 * 40) {
            let key = format!("of a loop {number}");
            if stage.cache.get(&key[..], 0).is_some() {
                hits += 1;
            } else {
                stage.insert(&key, 0);
            }
        }
        hits
    };
    assert_eq!(hits_of(EvictionPolicy::Slru), 0, "each comes back just after it left");
    let hits = hits_of(EvictionPolicy::TinyLfu);
    assert!(hits > 250 * 40 / 2, "{hits}");
}

#[test]
fn s3_fifo_lets_what_was_not_used_again_leave_and_knows_it_when_it_returns() {
    let mut stage = Stage::new(EvictionPolicy::S3Fifo, 10);
    stage.insert_all("abcdefghij");
    stage.use_all("aabb");
    assert_eq!(stage.insert_all("k"), "c", "a and b pass to the main queue");
    assert_eq!(stage.insert_all("c"), "d", "c comes back to the main queue");
    assert_eq!(stage.insert_all("lmnopq"), "efghij");
    assert_eq!(stage.insert_all("rs"), "kl", "a, b and c stay");
}

#[test]
fn what_was_used_silently_is_passed_over_once() {
    for policy in POLICIES {
        let mut stage = Stage::new(policy, 5);
        let spared = stage.insert("spared", 0);
        for key in ["a", "b", "c", "d"] {
            stage.insert(key, 0);
        }
        spared.use_silently(0);
        stage.insert("e", 0);
        assert!(stage.cache.iter().any(|(key, _)| key == "spared"), "{policy:?}");
        assert_eq!(stage.departures.lock().unwrap().len(), 1, "{policy:?}");
        assert!(!spared.take_used());
    }
}

#[test]
fn when_everything_was_used_silently_something_leaves_all_the_same() {
    for policy in POLICIES {
        let mut stage = Stage::new(policy, 150);
        for number in 0..450 {
            stage.insert(&number.to_string(), 0).use_silently(0);
        }
        assert_eq!(stage.cache.len(), 150, "{policy:?}");
    }
}

#[test]
fn an_entry_lives_for_its_time_after_its_last_use() {
    for policy in POLICIES {
        let mut stage = Stage::new(policy, 10);
        stage.cache = std::mem::replace(&mut stage.cache, Cache::new(policy, NonZeroUsize::MIN, |_, _, _| ()))
            .with_time_to_live(100);
        stage.insert("told", 0);
        let silent = stage.insert("silent", 0);
        stage.insert("idle", 0);
        assert!(stage.cache.get("told", 90).is_some());
        silent.use_silently(95);
        stage.cache.sweep(100);
        assert_eq!(stage.cache.len(), 3, "{policy:?}: a hundred are not more than a hundred");
        stage.cache.sweep(150);
        assert_eq!(stage.cache.len(), 2, "{policy:?}");
        assert!(stage.cache.get("idle", 150).is_none());
        assert!(stage.cache.get("silent", 195).is_some());
        assert!(stage.cache.get("told", 195).is_none(), "{policy:?}: found outdated");
        stage.cache.sweep(1000);
        assert_eq!(stage.cache.len(), 0, "{policy:?}");
        let whys: Vec<Departure> = stage.departures.lock().unwrap().iter().map(|(_, _, why)| *why).collect();
        assert_eq!(whys, [Departure::Expired; 3], "{policy:?}");
    }
}

#[test]
fn a_million_strangers_leave_no_trace() {
    for policy in POLICIES {
        let mut cache = Cache::new(policy, NonZeroUsize::new(100).unwrap(), |_, _, _| ());
        for number in 0..1_000_000_u64 {
            cache.insert(number, Number, 0);
        }
        assert_eq!(cache.len(), 100);
        assert!(cache.largest() <= 100, "{policy:?}: {}", cache.largest());
    }
}

struct Number;
impl Cached for Number {}

#[derive(Debug, Clone)]
enum Step {
    Insert(u8),
    Get(u8),
    UseSilently(u8),
    Remove(u8),
    Advance(u8),
    Sweep,
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<u8>().prop_map(Step::Insert),
        6 => any::<u8>().prop_map(Step::Get),
        2 => any::<u8>().prop_map(Step::UseSilently),
        2 => any::<u8>().prop_map(Step::Remove),
        2 => any::<u8>().prop_map(Step::Advance),
        1 => Just(Step::Sweep),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_insert_is_matched_by_one_departure_and_every_bound_holds(
        capacity in 1_usize..=200,
        time_to_live in proptest::option::of(1_i64..500),
        steps in proptest::collection::vec(step(), 1..600),
    ) {
        for policy in POLICIES {
            let mut stage = Stage::new(policy, capacity);
            if let Some(time) = time_to_live {
                let empty = Cache::new(policy, NonZeroUsize::MIN, |_, _, _| ());
                stage.cache = std::mem::replace(&mut stage.cache, empty).with_time_to_live(time);
            }
            let (mut now, mut values) = (0, HashMap::new());
            for step in steps.clone() {
                match step {
                    Step::Insert(key) => drop(values.insert(key, stage.insert(&key.to_string(), now))),
                    Step::Get(key) => {
                        let found = stage.cache.get(&key.to_string()[..], now).map(|value| value.number);
                        prop_assert!(found.is_none_or(|number| values[&key].number == number));
                    }
                    Step::UseSilently(key) => {
                        if let Some(value) = values.get(&key) {
                            value.use_silently(now);
                        }
                    }
                    Step::Remove(key) => {
                        let was_there = stage.cache.remove(&key.to_string()[..]);
                        prop_assert!(stage.cache.get(&key.to_string()[..], now).is_none());
                        prop_assert!(!was_there || values.contains_key(&key));
                    }
                    Step::Advance(by) => now += i64::from(by),
                    Step::Sweep => stage.cache.sweep(now),
                    Step::Clear => stage.cache.clear(),
                }
                prop_assert!(stage.cache.len() <= capacity && stage.cache.largest() <= capacity, "{:?}", policy);
                let left = stage.departures.lock().unwrap().len();
                prop_assert_eq!(left + stage.cache.len(), usize::try_from(stage.next).unwrap());
            }
            let (inserted, departures) = (stage.next, Arc::clone(&stage.departures));
            drop(stage);
            let mut numbers: Vec<u64> = departures.lock().unwrap().iter().map(|(_, number, _)| *number).collect();
            numbers.sort_unstable();
            prop_assert_eq!(numbers, (0..inserted).collect::<Vec<_>>());
        }
    }

    #[test]
    fn lru_is_exactly_that(
        capacity in 1_usize..=50,
        steps in proptest::collection::vec((0_u32..100, any::<bool>()), 1..400),
    ) {
        let mut cache = Cache::new(EvictionPolicy::Lru, NonZeroUsize::new(capacity).unwrap(), |_, _, _| ());
        let mut model: VecDeque<u32> = VecDeque::new(); // oldest first
        for (key, is_insert) in steps {
            let position = model.iter().position(|&known| known == key);
            if is_insert {
                cache.insert(key, Number, 0);
                match position {
                    Some(position) => drop(model.remove(position)),
                    None if model.len() == capacity => drop(model.pop_front()),
                    None => {}
                }
                model.push_back(key);
            } else {
                prop_assert_eq!(cache.get(&key, 0).is_some(), position.is_some());
                if let Some(position) = position {
                    model.remove(position);
                    model.push_back(key);
                }
            }
            prop_assert_eq!(cache.len(), model.len());
        }
    }
}
