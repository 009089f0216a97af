//! The caches beside `moka` and `quick_cache`: what an operation costs, and how many look-ups find something.
//!
//! ```sh
//! cargo bench --bench caches
//! ```
//!
//! * `speed.rs` times them, in rounds in which all take turns; `ratios.rs` counts hits, beside those of an eviction that
//!   knows the future (`optimum.rs`).
//! * `contestant.rs` makes them alike; `load.rs` makes the keys, the same ones in every run.
//!
//! The caches belong to the crate alone, so their files are compiled into this program.

#[expect(dead_code, unreachable_pub, unused_imports, reason = "the files under test are made for another crate")]
#[path = "../../src/cache/mod.rs"]
mod cache;

mod contestant;
mod load;
mod optimum;
mod ratios;
mod speed;

fn main() {
    speed::run();
    println!();
    ratios::run();
}
