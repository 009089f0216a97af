//! Measures keyward beside the `asherah` crate, in one process, on warm sessions with a static master key and a
//! metastore in memory; or sessions of many partitions, looked up for every operation; or its secret memory beside that of
//! the crate `hardware-enclave` and of Go's `securememory`.
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers/Cargo.toml
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- sessions-lookup
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- secret-memory
//! ```
//!
//! The sides take turns, so that a change of clock speed or load meets both; each number is the median of its rounds.

mod asherah_side;
mod go_side;
mod keyward_side;
mod secret_memory;
mod sessions_lookup;

use std::time::Duration;

const PAYLOADS: [(&str, usize); 4] = [("64 B", 64), ("1 KiB", 1 << 10), ("16 KiB", 16 << 10), ("1 MiB", 1 << 20)];
const ROUNDS: usize = 31;
const ROUND_LENGTH: Duration = Duration::from_millis(20);

/// What is measured.
#[derive(Debug, Clone, Copy)]
enum Operation {
    EncryptStruct,
    EncryptJson,
    DecryptStruct,
    DecryptJson,
}

impl Operation {
    const ALL: [Self; 4] = [Self::EncryptStruct, Self::EncryptJson, Self::DecryptStruct, Self::DecryptJson];

    fn name(self) -> &'static str {
        match self {
            Self::EncryptStruct => "encrypt struct",
            Self::EncryptJson => "encrypt JSON",
            Self::DecryptStruct => "decrypt struct",
            Self::DecryptJson => "decrypt JSON",
        }
    }
}

/// Runs one operation a number of times and tells how long that took.
type Case<'a> = Box<dyn FnMut(u32) -> anyhow::Result<Duration> + 'a>;

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        None => sessions(),
        Some("sessions-lookup") => sessions_lookup::run(),
        Some("secret-memory") => secret_memory::run(),
        Some(other) => anyhow::bail!("there is no comparison {other:?}; there are sessions-lookup and secret-memory"),
    }
}

fn sessions() -> anyhow::Result<()> {
    let keyward = keyward_side::Keyward::new()?;
    let peer = asherah_side::Peer::new()?;
    println!(
        "{:<16}{:>8}{:>16}{:>16}{:>18}",
        "operation", "payload", "keyward ns/op", "asherah ns/op", "asherah/keyward"
    );
    for operation in Operation::ALL {
        for (label, size) in PAYLOADS {
            let payload: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
            let [ours, theirs] = compare([keyward.case(operation, &payload)?, peer.case(operation, &payload)?])?;
            println!("{:<16}{label:>8}{ours:>16.0}{theirs:>16.0}{:>18.2}", operation.name(), theirs / ours);
        }
    }
    keyward.close()?;
    peer.close()
}

/// Returns the median nanoseconds per operation of each case.
fn compare<const CASES: usize>(cases: [Case<'_>; CASES]) -> anyhow::Result<[f64; CASES]> {
    Ok(measure(cases)?.map(median))
}

/// Returns the nanoseconds per operation of each case in each round.
fn measure<const CASES: usize>(mut cases: [Case<'_>; CASES]) -> anyhow::Result<[Vec<f64>; CASES]> {
    let mut counts = [0; CASES];
    for (case, count) in cases.iter_mut().zip(&mut counts) {
        *count = calibrate(case)?;
    }
    let mut rounds = [const { Vec::new() }; CASES];
    for round in 0..ROUNDS {
        for turn in 0..CASES {
            let at = (round + turn) % CASES;
            rounds[at].push(per_operation(&mut cases[at], counts[at])?);
        }
    }
    Ok(rounds)
}

/// Finds how many operations fill a round; warms the case up on the way.
fn calibrate(case: &mut Case<'_>) -> anyhow::Result<u32> {
    let mut count = 1;
    loop {
        // The shortest of three: a thread that waits for a busy processor must not pass for slow work.
        let mut took = Duration::MAX;
        for _ in 0..3 {
            took = took.min(case(count)?);
        }
        if took * 4 >= ROUND_LENGTH {
            let ratio = ROUND_LENGTH.as_secs_f64() / took.as_secs_f64();
            return Ok(((f64::from(count) * ratio) as u32).max(1));
        }
        count *= 2;
    }
}

fn per_operation(case: &mut Case<'_>, count: u32) -> anyhow::Result<f64> {
    Ok(case(count)?.as_nanos() as f64 / f64::from(count))
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}
