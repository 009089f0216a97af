//! Protected secrets without the rest of Keyward: a buffer to work on, an enclave that waits, keys that wrap keys.
//!
//! ```sh
//! cargo run --example secrets
//! ```

use std::time::Duration;

use keyward::memory::signals::{SignalSettings, install};
use keyward::memory::{ArenaSettings, Buffer, Enclave, MemoryPolicy, Vault, harden, report};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Before any thread: signals, crashes and the end of the process wipe everything.
    install(&SignalSettings::default())?;
    harden(MemoryPolicy::Strict)?;

    // A secret to work on, in locked pages between guard pages; wiped at its source.
    let mut outside = *b"correct horse battery staple";
    let mut buffer = Buffer::from_bytes(&mut outside)?;
    buffer.bytes_mut()?[0] = b'C';
    println!("the source is wiped: {}", outside == [0; 28]);

    // It waits sealed, in ordinary memory, and is opened when it is needed.
    let enclave: Enclave = buffer.seal()?;
    println!("it opens again: {}", enclave.open()?.equals(b"Correct horse battery staple")?);

    // Keys that compute and never leave secret memory.
    let vault = Vault::open(&ArenaSettings::default())?;
    let (parent, child) = (vault.generate(b"parent")?, vault.generate(b"child")?);
    let wrapped = parent.wrap(&child, &[1; 12])?;
    println!("a wrapped key has {} bytes", wrapped.len());
    vault.close(Duration::from_millis(10));

    println!("{}", report());
    Ok(())
}
