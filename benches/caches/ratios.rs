//! How many look-ups find something.

use crate::contestant::{Contestant, Ours, POLICIES, Quick, moka, quick, use_once};
use crate::load::{Random, looping, zipf};
use crate::optimum;

const KEYS: usize = 1_000_000;
const EXPONENT: f64 = 1.01;
const LENGTH: usize = 4_000_000;

/// How often a loop is gone round.
const TURNS: usize = 100;

pub(crate) fn run() {
    println!("Hit ratio in percent, the first look-ups of keys, which nobody can know, included.");
    println!("moka works off what it put off after every miss, so that it never holds more than its capacity.");
    print!("{:<26}{:>9}", "keys", "capacity");
    POLICIES.iter().for_each(|policy| print!("{:>9}", format!("{policy:?}")));
    println!("{:>9}{:>13}{:>9}", "moka", "quick_cache", "optimum");
    let keys = zipf(&mut Random::new(1), EXPONENT, KEYS, LENGTH);
    for capacity in [1_000, 10_000, 100_000] {
        row(&format!("Zipf({EXPONENT}) of {KEYS}"), &keys, capacity);
    }
    for capacity in [1_000, 10_000] {
        let size = capacity * 5 / 4;
        row(&format!("loop of {size}"), &looping(size, size * TURNS), capacity);
    }
}

fn row(name: &str, keys: &[u32], capacity: usize) {
    let percent = |hits: u64| format!("{:.2}", hits as f64 * 100.0 / keys.len() as f64);
    print!("{name:<26}{capacity:>9}");
    for policy in POLICIES {
        print!("{:>9}", percent(hits(Ours::new(policy, capacity), keys)));
    }
    print!("{:>9}", percent(hits(&moka(capacity), keys)));
    let quick: Quick = quick(capacity);
    print!("{:>13}", percent(hits(&quick, keys)));
    println!("{:>9}", percent(optimum::hits(keys, capacity)));
}

fn hits(mut contestant: impl Contestant, keys: &[u32]) -> u64 {
    let mut hits = 0;
    for &key in keys {
        if use_once(&mut contestant, u64::from(key)) {
            hits += 1;
        } else {
            contestant.settle();
        }
    }
    hits
}
