//! Errors of starting, stopping and the memory that keys live in.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::{IdError, PolicyError};

/// Why a session factory could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A required part was not given.
    #[error("a session factory needs a {0}; give it to the builder")]
    Missing(&'static str),
    /// Service, product or region suffix is not usable.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The crypto policy is not usable.
    #[error("unusable crypto policy")]
    Policy(#[from] PolicyError),
    /// Locked memory is not to be had.
    #[error("secret memory failed")]
    Memory(#[from] MemoryError),
    /// The threads of the actors, or of audit events, did not start.
    #[error("starting a thread failed")]
    Threads(#[source] io::Error),
    /// The random number generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// What went wrong while a session factory closed; everything else was closed all the same.
#[derive(Debug, Clone)]
pub struct CloseError {
    /// One entry per component that did not close cleanly.
    pub failures: Vec<CloseFailure>,
}

/// A component that did not close cleanly.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{component}: {reason}")]
pub struct CloseFailure {
    /// The component.
    pub component: &'static str,
    /// What happened.
    pub reason: String,
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closing the session factory failed")?;
        for failure in &self.failures {
            write!(f, "; {failure}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CloseError {}

/// Why locked memory could not be had or used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The lock limit leaves no room for the smallest arena.
    #[error(
        "need {needed} bytes of locked memory, limit {soft} soft / {hard} hard, {locked} locked already; raise it with \
         `ulimit -l`, LimitMEMLOCK= (systemd) or --ulimit memlock= (docker), or give the process an effective \
         CAP_IPC_LOCK"
    )]
    Budget {
        /// Bytes wanted.
        needed: u64,
        /// Soft RLIMIT_MEMLOCK in bytes.
        soft: u64,
        /// Hard RLIMIT_MEMLOCK in bytes.
        hard: u64,
        /// Bytes that the process has locked.
        locked: u64,
        /// How the system refused.
        #[source]
        source: Arc<io::Error>,
    },
    /// A system call failed.
    #[error("{operation} failed")]
    System {
        /// The call and what it was for.
        operation: &'static str,
        /// Its errno.
        #[source]
        source: Arc<io::Error>,
    },
    /// Every scratch slot was in use at this moment.
    #[error("all {slots} scratch slots are in use")]
    Exhausted {
        /// How many there are.
        slots: usize,
    },
    /// Every slot holds a key that must stay: the sealing keys of factories and local master keys.
    #[error("all {slots} slots of secret memory hold keys that must stay; map a larger arena with memory::init")]
    Full {
        /// How many there are.
        slots: usize,
    },
    /// The memory is being wiped or has been.
    #[error("secret memory is closed")]
    Closed,
    /// This process is a fork of the one that holds the keys.
    #[error("keys do not survive fork(); build a session factory in the child")]
    Forked,
    /// Something wrote over secret memory; everything in it was wiped.
    #[error("secret memory was overwritten at slot {slot}; everything in it was wiped")]
    Damaged {
        /// Which slot.
        slot: u64,
    },
    /// Something wrote over a sealed copy in ordinary memory; all secret memory was wiped.
    #[error("a sealed key was overwritten; secret memory was wiped")]
    DamagedCopy,
    /// Something wrote over the memory before a secret; all secrets were wiped.
    #[error("memory before a secret was overwritten; all secrets were wiped")]
    DamagedSecret,
    /// A buffer is read-only at the moment.
    #[error("the buffer is frozen; melt it to write")]
    Frozen,
    /// Bytes do not have the size that is asked of them.
    #[error("{bytes} bytes do not fit what takes {of}")]
    Shape {
        /// How many there are.
        bytes: usize,
        /// What they were to fit.
        of: usize,
    },
    /// More bytes than one call of the cipher takes.
    #[error("{bytes} bytes are more than can be sealed at once")]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// A wrapped key, or what an enclave holds, is not what was sealed.
    #[error("what was sealed is not authentic")]
    NotAuthentic,
    /// The random number generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The handling of signals is installed already.
    #[cfg(unix)]
    #[error("signal handling is installed already")]
    Installed,
    /// Another process traces this one and can read its memory.
    #[error("process {tracer} traces this one and can read its keys; detach it, or relax the memory policy")]
    Traced {
        /// Its number; 0 where the system does not say.
        tracer: u64,
    },
    /// A secret of no bytes was asked for.
    #[error("a secret has at least one byte")]
    Empty,
}

/// The call that asks for locked memory beside mlock(2), whose refusals are [`MemoryError::Budget`] at once.
pub(crate) const HIDDEN_MAP: &str = "mmap of a memfd_secret";

impl MemoryError {
    /// Returns what the system said, if this is about that.
    pub(crate) fn cause(&self) -> Option<Arc<io::Error>> {
        match self {
            Self::Budget { source, .. } | Self::System { source, .. } => Some(Arc::clone(source)),
            _ => None,
        }
    }

    /// Tells whether less memory, or a higher lock limit, would have helped: mlock(2) and memfd_secret(2) have three ways
    /// to say so, a limit of 0 among them.
    pub(crate) fn is_about_the_lock_limit(&self) -> bool {
        match self {
            Self::Budget { .. } => true,
            Self::System { operation, source } => *operation == HIDDEN_MAP && is_about_the_lock_limit(source),
            _ => false,
        }
    }
}

/// As [`MemoryError::is_about_the_lock_limit`], of what the system said.
pub(crate) fn is_about_the_lock_limit(error: &io::Error) -> bool {
    #[cfg(unix)]
    let about_limit = [libc::ENOMEM, libc::EAGAIN, libc::EPERM];
    // ERROR_WORKING_SET_QUOTA, ERROR_COMMITMENT_LIMIT, ERROR_NOT_ENOUGH_QUOTA
    #[cfg(not(unix))]
    let about_limit = [1453, 1455, 1816];
    error.raw_os_error().is_some_and(|errno| about_limit.contains(&errno))
}

/// The random number generator failed.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the random number generator failed")]
pub struct RandomError;
