//! Measures keyward beside the `asherah` crate, in one process, on warm sessions with a static master key and a
//! metastore in memory.
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers/Cargo.toml
//! ```
//!
//! The sides take turns, so that a change of clock speed or load meets both; each number is the median of its rounds.

mod asherah_side;
mod keyward_side;

use std::time::Duration;

const PAYLOADS: [(&str, usize); 4] = [("64 B", 64), ("1 KiB", 1 << 10), ("16 KiB", 16 << 10), ("1 MiB", 1 << 20)];
const ROUNDS: usize = 15;
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
    let keyward = keyward_side::Keyward::new()?;
    let peer = asherah_side::Peer::new()?;
    println!(
        "{:<16}{:>8}{:>16}{:>16}{:>18}",
        "operation", "payload", "keyward ns/op", "asherah ns/op", "asherah/keyward"
    );
    for operation in Operation::ALL {
        for (label, size) in PAYLOADS {
            let payload: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
            let (ours, theirs) = compare(keyward.case(operation, &payload)?, peer.case(operation, &payload)?)?;
            println!("{:<16}{label:>8}{ours:>16.0}{theirs:>16.0}{:>18.2}", operation.name(), theirs / ours);
        }
    }
    keyward.close()?;
    peer.close()
}

/// Returns the median nanoseconds per operation of both cases.
fn compare(mut ours: Case<'_>, mut theirs: Case<'_>) -> anyhow::Result<(f64, f64)> {
    let (our_count, their_count) = (calibrate(&mut ours)?, calibrate(&mut theirs)?);
    let (mut our_rounds, mut their_rounds) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            our_rounds.push(per_operation(&mut ours, our_count)?);
            their_rounds.push(per_operation(&mut theirs, their_count)?);
        } else {
            their_rounds.push(per_operation(&mut theirs, their_count)?);
            our_rounds.push(per_operation(&mut ours, our_count)?);
        }
    }
    Ok((median(our_rounds), median(their_rounds)))
}

/// Finds how many operations fill a round; warms the case up on the way.
fn calibrate(case: &mut Case<'_>) -> anyhow::Result<u32> {
    let mut count = 1;
    loop {
        let took = case(count)?;
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
