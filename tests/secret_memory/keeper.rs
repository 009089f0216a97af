//! A victim that keeps a key in one place or another, waits, and ends as it is told. It does not use the key: what uses leave
//! behind is the business of `residue.rs`.

use std::fmt;
use std::hint::black_box;

use keyward::memory::{MemoryPolicy, Vault, harden};

use crate::TestResult;
use crate::os;
use crate::raw::RawPages;
use crate::stage::{self, Scenario, Stage};

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario { name: KEEPER, play: keep }];

pub(crate) const KEEPER: &str = "keeper";

/// Where the key is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Ordinary memory.
    Heap,
    /// Locked memory about which nothing else was done.
    Locked,
    /// A vault on locked memory.
    Mlock,
    /// A vault on memory that the kernel hides.
    MemfdSecret,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Heap => "heap",
            Self::Locked => "locked",
            Self::Mlock => "mlock",
            Self::MemfdSecret => "memfd_secret",
        })
    }
}

/// Keeps the key of the first argument; `nobody` changes the user, `cores` permits core files, `harden` keeps others out and
/// forbids them. Says where the key is, if it is in raw memory, and does what the answer says.
fn keep(stage: &Stage) -> TestResult {
    if stage.has("nobody") {
        os::become_nobody()?;
    }
    if stage.has("cores") {
        let (_, hard) = os::limit(libc::RLIMIT_CORE)?;
        os::set_limit(libc::RLIMIT_CORE, hard, hard)?;
    }
    if stage.has("harden") {
        harden(MemoryPolicy::Strict)?;
    }
    let seed = stage.seed(0)?;
    if stage.has("heap") {
        let mut key = Box::new([0; 32]);
        seed.fill(&mut key);
        linger(stage, &key)?;
        black_box(&key);
    } else if stage.has("locked") {
        let mut pages = RawPages::map(4096)?;
        pages.lock()?;
        seed.fill(pages.key());
        linger(stage, pages.key())?;
    } else {
        let vault = Vault::open(&stage::arena(stage::backend(stage)))?;
        let key = stage::import(&vault, seed)?;
        linger(stage, &[0; 32])?;
        drop(key);
    }
    Ok(())
}

fn linger(stage: &Stage, key: &[u8; 32]) -> TestResult {
    let answer = stage.pause(format_args!("ready {:p}", black_box(key)))?;
    match answer.as_str() {
        "abort" => std::process::abort(),
        _ => Ok(()),
    }
}
