//! Measures keyward beside the `asherah` crate, in one process, on warm sessions with a static master key and a
//! metastore in memory.
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers/Cargo.toml
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- secret-memory
//! ```
//!
//! The second compares secret memory instead, with the crate that `asherah` keeps its keys in, and with Go's.
//!
//! The sides take turns, so that a change of clock speed or load meets both; each number is the median of its rounds.

mod asherah_side;
mod go_side;
mod keyward_side;
mod secret_memory;
mod timing;

use timing::compare;

const PAYLOADS: [(&str, usize); 4] = [("64 B", 64), ("1 KiB", 1 << 10), ("16 KiB", 16 << 10), ("1 MiB", 1 << 20)];

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

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        None => sessions(),
        Some("secret-memory") => secret_memory::run(),
        Some(other) => anyhow::bail!("nothing to compare is called {other}; leave it out, or say secret-memory"),
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
            let (ours, theirs) = compare(keyward.case(operation, &payload)?, peer.case(operation, &payload)?)?;
            println!("{:<16}{label:>8}{ours:>16.0}{theirs:>16.0}{:>18.2}", operation.name(), theirs / ours);
        }
    }
    keyward.close()?;
    peer.close()
}
