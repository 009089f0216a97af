//! The system calls of secret memory, one file per system, all of one shape.
//!
//! Each system offers the same functions over ranges of whole pages; what it does not have answers
//! [`io::ErrorKind::Unsupported`], which callers report as an absent protection. Nothing here knows the rest of the
//! crate, so that `tests/portability` compiles it for systems that the whole crate is not built for.
//!
//! | system | how it is checked | pages | left out of dumps | in a forked child | kept from tracers |
//! |---|---|---|---|---|---|
//! | Linux, x86-64 | run by the tests | own calls | MADV_DONTDUMP | zeroed or absent | PR_SET_DUMPABLE |
//! | Linux, ARM64 | compiled only | own calls | MADV_DONTDUMP | zeroed or absent | PR_SET_DUMPABLE |
//! | macOS | compiled only | `region` | no | absent | PT_DENY_ATTACH |
//! | Windows | compiled only | `region` | WerRegisterExcludedMemoryBlock | there is no fork | no |
//! | FreeBSD | compiled only | `region` | MADV_NOCORE | zeroed | PROC_TRACE_CTL |
//! | NetBSD | compiled only | `region` | no | zeroed | no |
//! | illumos | compiled only | `region` | no | zeroed | no |
//! | OpenBSD | compiled only | own calls | MAP_CONCEAL | zeroed | no |
//! | DragonFly | compiled only | own calls | MADV_NOCORE | absent | no |
//! | Solaris | compiled only | own calls | no | a copy | no |
//!
//! Where a child finds a copy, or nothing, it is a handler of fork(3) that tells it so; children that are made in other
//! ways are not told.

use std::io;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(super) use self::linux::*;

#[cfg(any(target_os = "freebsd", target_os = "netbsd", target_os = "openbsd", target_os = "dragonfly"))]
mod bsd;
#[cfg(any(target_os = "freebsd", target_os = "netbsd", target_os = "openbsd", target_os = "dragonfly"))]
pub(super) use self::bsd::*;

#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "macos")]
pub(super) use self::macos::*;

#[cfg(any(target_os = "illumos", target_os = "solaris"))]
mod solaris;
#[cfg(any(target_os = "illumos", target_os = "solaris"))]
pub(super) use self::solaris::*;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(super) use self::windows::*;

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(super) use self::unix::*;

#[cfg(any(target_os = "linux", target_os = "openbsd", target_os = "dragonfly", target_os = "solaris"))]
mod posix;
#[cfg(any(target_os = "linux", target_os = "openbsd", target_os = "dragonfly", target_os = "solaris"))]
pub(super) use self::posix::*;

#[cfg(any(windows, target_os = "macos", target_os = "freebsd", target_os = "netbsd", target_os = "illumos"))]
mod region;
#[cfg(any(windows, target_os = "macos", target_os = "freebsd", target_os = "netbsd", target_os = "illumos"))]
pub(super) use self::region::*;

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
    /// What the process may lock now: soft RLIMIT_MEMLOCK, see getrlimit(2); on Windows the minimum working set.
    pub soft: u64,
    /// What it may raise the soft limit to.
    pub hard: u64,
    /// What it has locked, in whole pages: `VmLck` of proc(5). 0 on systems other than Linux, which do not tell.
    pub locked: u64,
}

/// The answer of a system without the facility.
#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn unsupported<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Turns the answer of a call that returns 0 or sets errno into a result.
#[cfg(unix)]
pub(super) fn check(answer: libc::c_int) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
