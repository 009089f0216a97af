//! What an operation costs, by one thread and by two.

use std::hash::RandomState;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use crate::contestant::{Contestant, Locked, Ours, POLICIES, Quick, moka, quick, use_once};
use crate::load::{Random, uniform, zipf};

const ROUNDS: usize = 15;
const ROUND_LENGTH: Duration = Duration::from_millis(20);

/// Keys that the rounds go through, over and over.
const LENGTH: usize = 1 << 20;

/// How many keys there are in a mixed load for each that fits.
const KEYS_PER_PLACE: usize = 10;
const EXPONENT: f64 = 1.01;

/// Room that quick_cache is given for each entry that is to stay: its shards do not fill evenly.
const ROOM: usize = 2;

const HEADING: &str = "\
Nanoseconds per operation, medians of rounds in which all take turns; by two threads, those of the clock over the
operations of both. Ours has one owner in the product; here, two threads share it through a std::sync::Mutex.
get: always a hit. mixed: Zipf(1.01) over 10 keys for each place, inserted after a miss. All hash with SipHash, under a
key that nobody can guess; quick_cache comes with foldhash, and is measured with both.
In brackets: how many times the time of ours a peer takes, of the slowest and of the fastest of our policies.";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Load {
    Hits,
    Mixed,
}

/// Uses keys from a position on, so many of them, and tells how long that took.
type Case<'a> = Box<dyn FnMut(usize, usize) -> Duration + 'a>;

pub(crate) fn run() {
    println!("{HEADING}");
    print!("{:<7}{:>8}{:>9}", "load", "entries", "threads");
    POLICIES.iter().for_each(|policy| print!("{:>9}", format!("{policy:?}")));
    println!("{:>22}{:>22}{:>22}", "moka", "quick_cache, SipHash", "quick_cache");
    for threads in [1, 2] {
        for load in [Load::Hits, Load::Mixed] {
            for entries in [1_000, 100_000] {
                row(load, entries, threads);
            }
        }
    }
}

fn row(load: Load, entries: usize, threads: usize) {
    let random = &mut Random::new(2);
    let keys = match load {
        Load::Hits => uniform(random, entries, LENGTH),
        Load::Mixed => zipf(random, EXPONENT, entries * KEYS_PER_PLACE, LENGTH),
    };
    let quick_capacity = if load == Load::Hits { entries * ROOM } else { entries };
    let (keys, moka) = (&keys[..], moka(entries));
    let (quick, quick_sip): (Quick, Quick<RandomState>) = (quick(quick_capacity), quick(quick_capacity));
    let shared: Vec<Locked> = POLICIES.into_iter().map(|policy| Locked::new(policy, entries)).collect();
    let mut cases: Vec<Case<'_>> = Vec::new();
    for (policy, shared) in POLICIES.into_iter().zip(&shared) {
        cases.push(match threads {
            1 => alone(load, Ours::new(policy, entries), entries, keys),
            _ => together(load, shared, entries, keys),
        });
    }
    cases.push(peer(load, &moka, entries, threads, keys));
    cases.push(peer(load, &quick_sip, entries, threads, keys));
    cases.push(peer(load, &quick, entries, threads, keys));
    let medians = compare(&mut cases);
    let (ours, peers) = medians.split_at(POLICIES.len());
    print!("{:<7}{entries:>8}{threads:>9}", if load == Load::Hits { "get" } else { "mixed" });
    ours.iter().for_each(|nanos| print!("{nanos:>9.1}"));
    let slowest = ours.iter().copied().fold(0.0, f64::max);
    let fastest = ours.iter().copied().fold(f64::INFINITY, f64::min);
    for nanos in peers {
        print!("{:>22}", format!("{nanos:.1} ({:.2}-{:.2})", nanos / slowest, nanos / fastest));
    }
    println!();
}

fn peer<'a, C>(load: Load, cache: &'a C, entries: usize, threads: usize, keys: &'a [u32]) -> Case<'a>
where
    C: Sync,
    &'a C: Contestant + Send,
{
    if threads == 1 { alone(load, cache, entries, keys) } else { together(load, cache, entries, keys) }
}

fn alone<'a>(load: Load, mut contestant: impl Contestant + 'a, entries: usize, keys: &'a [u32]) -> Case<'a> {
    prepare(load, &mut contestant, entries, keys);
    Box::new(move |first, count| {
        let start = Instant::now();
        operate(load, &mut contestant, keys, first, count);
        start.elapsed()
    })
}

/// Two threads share the count; the second begins half the keys further on.
fn together<'a, C>(load: Load, cache: &'a C, entries: usize, keys: &'a [u32]) -> Case<'a>
where
    C: Sync,
    &'a C: Contestant + Send,
{
    let mut contestant = cache;
    prepare(load, &mut contestant, entries, keys);
    Box::new(move |first, count| {
        let start = Instant::now();
        thread::scope(|scope| {
            for thread in 0..2 {
                let mut contestant = cache;
                scope.spawn(move || operate(load, &mut contestant, keys, first + thread * LENGTH / 2, count / 2));
            }
        });
        start.elapsed()
    })
}

/// Fills a cache, and makes sure that what is to be found is there.
fn prepare(load: Load, contestant: &mut impl Contestant, entries: usize, keys: &[u32]) {
    match load {
        Load::Hits => {
            // In the order of use, as far as there is one: where entries lie must not follow from their keys.
            keys.iter().map(|&key| u64::from(key)).chain(0..entries as u64).for_each(|key| {
                use_once(contestant, key);
            });
            contestant.settle();
            let missing = (0..entries as u64).filter(|&key| contestant.get(key).is_none()).count();
            assert_eq!(missing, 0, "every get is to be a hit");
        }
        Load::Mixed => operate(load, contestant, keys, 0, LENGTH),
    }
}

fn operate(load: Load, contestant: &mut impl Contestant, keys: &[u32], first: usize, count: usize) {
    let first = first % keys.len();
    let keys = keys[first..].iter().chain(keys.iter().cycle()).take(count).map(|&key| u64::from(key));
    match load {
        Load::Hits => keys.for_each(|key| {
            black_box(contestant.get(black_box(key)));
        }),
        Load::Mixed => keys.for_each(|key| {
            black_box(use_once(contestant, black_box(key)));
        }),
    }
}

/// Returns the median nanoseconds per operation of each case.
fn compare(cases: &mut [Case<'_>]) -> Vec<f64> {
    let counts: Vec<usize> = cases.iter_mut().map(calibrate).collect();
    let mut rounds = vec![Vec::new(); cases.len()];
    let mut at = vec![0; cases.len()];
    for round in 0..ROUNDS {
        for turn in 0..cases.len() {
            let case = (round + turn) % cases.len();
            let took = cases[case](at[case], counts[case]);
            at[case] += counts[case];
            rounds[case].push(took.as_nanos() as f64 / counts[case] as f64);
        }
    }
    rounds
        .into_iter()
        .map(|mut rounds| {
            rounds.sort_by(f64::total_cmp);
            rounds[rounds.len() / 2]
        })
        .collect()
}

/// Finds how many operations fill a round.
fn calibrate(case: &mut Case<'_>) -> usize {
    const TRIED: usize = 20_000;
    // The shortest of three: a thread that waits for a busy processor must not pass for slow work.
    let took = (0..3).map(|_| case(0, TRIED)).min().expect("three of them");
    let count = ROUND_LENGTH.as_nanos() * TRIED as u128 / took.as_nanos().max(1);
    usize::try_from(count).expect("a round is short").next_multiple_of(2)
}
