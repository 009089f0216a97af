//! What the process as a whole can do to keep others from its memory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::backend::{MemoryPolicy, Protection};
use super::pages::system;
use super::sys;
use crate::error::MemoryError;

const NO_CORE_FILES: &str = "no core files";
const NOT_TRACEABLE: &str = "not traceable by the same user";
const NOT_TRACED: &str = "not traced now";

/// Whether the program asked for it: what nobody asked for is not missing.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Has the process write no core files and be readable and traceable by no other process of its user, and makes sure
/// that none traces it now.
///
/// Call it early in `main`. It concerns the whole process, so a library that uses this one leaves it to the program. On
/// Linux `/proc/self/environ`, `io` and `mem` are then closed to the process itself, unless it is root.
///
/// # Errors
/// Under [`MemoryPolicy::Strict`], [`MemoryError::System`] for what the system offers and refuses, and
/// [`MemoryError::Traced`]; what could be done was done.
pub fn harden(policy: MemoryPolicy) -> Result<Vec<Protection>, MemoryError> {
    ASKED.store(true, Ordering::Relaxed);
    let attempts = [
        (NO_CORE_FILES, sys::forbid_core_files().map_err(system("setrlimit(RLIMIT_CORE)"))),
        (NOT_TRACEABLE, sys::forbid_tracing().map_err(system("prctl(PR_SET_DUMPABLE)"))),
        (NOT_TRACED, nobody_traces()),
    ];
    let mut refusal = None;
    let mut protections = Vec::new();
    for (name, attempt) in attempts {
        protections.push(to_protection(name, attempt.as_ref().map(|()| true)));
        match attempt {
            Err(error) if !is_absent(&error) && policy == MemoryPolicy::Strict => refusal = refusal.or(Some(error)),
            Err(error) if !is_absent(&error) => {
                tracing::warn!(protection = name, %error, "the process lacks a protection");
            }
            _ => {}
        }
    }
    refusal.map_or(Ok(protections), Err)
}

/// Returns how things are, without changing them.
pub(super) fn protections() -> Vec<Protection> {
    let required = ASKED.load(Ordering::Relaxed);
    let ask = |name, answer: Result<bool, MemoryError>| {
        let mut protection = to_protection(name, answer.as_ref().copied());
        protection.required &= required;
        protection
    };
    vec![
        ask(NO_CORE_FILES, sys::core_files_are_forbidden().map_err(system("getrlimit(RLIMIT_CORE)"))),
        ask(NOT_TRACEABLE, sys::tracing_is_forbidden().map_err(system("prctl(PR_GET_DUMPABLE)"))),
        ask(NOT_TRACED, nobody_traces().map(|()| true)),
    ]
}

fn nobody_traces() -> Result<(), MemoryError> {
    match sys::tracer().map_err(system("reading /proc/self/status"))? {
        Some(tracer) => Err(MemoryError::Traced { tracer }),
        None => Ok(()),
    }
}

/// Tells whether the system has no such thing.
fn is_absent(error: &MemoryError) -> bool {
    matches!(error, MemoryError::System { source, .. } if source.kind() == io::ErrorKind::Unsupported)
}

fn to_protection(name: &'static str, answer: Result<bool, &MemoryError>) -> Protection {
    let error = match answer {
        Ok(true) => return Protection::active(name),
        Ok(false) => return Protection { name, active: false, cause: None, required: true },
        Err(error) => error,
    };
    let cause = error.cause().unwrap_or_else(|| Arc::new(io::Error::other(error.to_string())));
    Protection { required: !is_absent(error), ..Protection::missing(name, cause) }
}
