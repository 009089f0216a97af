//! The system calls of secret memory, one file per system, all of one shape.
//!
//! Each file offers the same functions over ranges of whole pages; what a system does not have answers
//! [`io::ErrorKind::Unsupported`], which callers report as an absent protection. Nothing here knows the rest of the
//! crate, so that `tests/portability` compiles it for systems that the whole crate is not built for.
//!
//! Run by the tests: Linux. Compiled only: see `tests/portability`.

use std::io;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(super) use linux::*;

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(super) use unix::*;

/// What the process itself may do with pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: touching them is a fault.
    None,
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
}

/// How much memory the process may lock and how much it has, in bytes; `u64::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// What the process may lock now: soft RLIMIT_MEMLOCK, see getrlimit(2).
    pub soft: u64,
    /// What it may raise the soft limit to.
    pub hard: u64,
    /// What it has locked, in whole pages: `VmLck` of proc(5). 0 where the system does not tell.
    pub locked: u64,
}

/// The answer of a system without the facility.
#[allow(dead_code, reason = "not every system lacks something")]
fn unsupported<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Turns the answer of a call that returns 0 or sets errno into a result.
#[cfg(unix)]
fn check(answer: libc::c_int) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
