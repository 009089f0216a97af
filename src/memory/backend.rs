//! The kind of memory that secrets live in, found by trying, and what protects it.

use std::fmt;
use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::pages::{Pages, system};
use super::sys;
use crate::error::MemoryError;

/// A kind of memory for secrets, the safest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// Memory that the kernel hides from every process but this one, root's too, and zeroes when it is freed, however the
    /// process ends: memfd_secret(2), Linux 5.14 and later.
    MemfdSecret,
    /// Memory that is locked against swapping: mlock(2) or its like.
    Mlock,
    /// Ordinary memory, which may be written to swap; under [`MemoryPolicy::Relaxed`] alone. Requiring it does without locks.
    Unlocked,
}

impl Backend {
    /// Returns the name that reports use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MemfdSecret => "memfd_secret",
            Self::Mlock => "mlock",
            Self::Unlocked => "unlocked",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happens when a protection is not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryPolicy {
    /// Nothing is kept in memory that lacks a protection which the system should give.
    #[default]
    Strict,
    /// Work goes on, a warning is logged and the report says `degraded`.
    Relaxed,
}

/// A protection and whether it is in force.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Protection {
    /// What it is.
    pub name: &'static str,
    /// Whether it is in force.
    pub active: bool,
    /// Why it is not, where the system said so.
    pub cause: Option<Arc<io::Error>>,
    /// Whether [`MemoryPolicy::Strict`] asks for it; of what the system does not offer, it does not.
    pub required: bool,
}

impl Protection {
    pub(super) fn active(name: &'static str) -> Self {
        Self { name, active: true, cause: None, required: true }
    }

    /// One whose absence is worth knowing and no reason to refuse.
    pub(super) fn optional(name: &'static str, active: bool, cause: Option<io::Error>) -> Self {
        Self { name, active, cause: cause.map(Arc::new), required: false }
    }

    pub(super) fn missing(name: &'static str, cause: Arc<io::Error>) -> Self {
        Self { name, active: false, cause: Some(cause), required: true }
    }

    /// Returns the errno with which the system refused it.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.cause.as_ref().and_then(|cause| cause.raw_os_error())
    }
}

/// What is asked of memory for secrets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Demand {
    pub(super) policy: MemoryPolicy,
    /// Nothing else will do.
    pub(super) require: Option<Backend>,
    /// Readers get a second mapping that cannot be written.
    pub(super) read_only_view: bool,
    /// Memory that is not locked will do.
    pub(super) may_be_unlocked: bool,
}

/// Memory for secrets, zeroed and writable.
#[derive(Debug)]
pub(super) struct Acquired {
    pub(super) pages: Pages,
    pub(super) view: Option<Pages>,
    pub(super) backend: Backend,
    pub(super) protections: Vec<Protection>,
}

const HIDDEN: &str = "hidden from other processes and the kernel";
const ZEROED: &str = "zeroed by the kernel however the process ends";
const LOCKED: &str = "never swapped";
const GUARDS: &str = "guard pages";
const NOT_DUMPED: &str = "excluded from core dumps";
const NOT_DUMPED_VIEW: &str = "view excluded from core dumps";
const FORKED: &str = "absent in forked children";
const VIEW: &str = "read-only for readers";

/// Maps memory for secrets, of the best kind that is to be had, or of the kind that is required.
pub(super) fn acquire(bytes: usize, demand: Demand) -> Result<Acquired, MemoryError> {
    let why_not_hidden = match demand.require {
        Some(Backend::Mlock | Backend::Unlocked) => None,
        _ => match hidden(bytes, demand) {
            Ok(acquired) => return Ok(acquired),
            // No other memory has a view.
            Err(error)
                if demand.require.is_some() || (demand.read_only_view && demand.policy == MemoryPolicy::Strict) =>
            {
                return Err(error);
            }
            Err(error) => Some(error),
        },
    };
    if let Some(error) = &why_not_hidden {
        tracing::debug!(%error, "memfd_secret is not to be had");
    }
    locked(bytes, demand, why_not_hidden)
}

/// Of the pages that are asked for, a second time the size with a view.
#[cfg(target_os = "linux")]
fn hidden(bytes: usize, demand: Demand) -> Result<Acquired, MemoryError> {
    let pages = Pages::reserve(bytes)?;
    let file = sys::secret_file(pages.size()).map_err(system("memfd_secret"))?;
    let mut pages = backed(pages, &file, sys::Access::ReadWrite)?;
    let mut protections = vec![
        Protection::active(HIDDEN),
        Protection::active(ZEROED),
        Protection::active(LOCKED),
        Protection::active(GUARDS),
        Protection::active(FORKED),
    ];
    settle(&mut protections, NOT_DUMPED, demand.policy, pages.exclude_from_dumps())?;
    let mut view = None;
    if demand.read_only_view {
        let mut second = backed(Pages::reserve(bytes)?, &file, sys::Access::Read)?;
        settle(&mut protections, NOT_DUMPED_VIEW, demand.policy, second.exclude_from_dumps())?;
        view = Some(second);
    }
    protections.push(Protection::optional(VIEW, view.is_some(), None));
    // The descriptor is closed here: what it leads to lives on in the mappings alone.
    drop(file);
    Ok(Acquired { pages, view, backend: Backend::MemfdSecret, protections })
}

/// Backs pages by secret memory, or gives them back as they are.
#[cfg(target_os = "linux")]
fn backed(mut pages: Pages, file: &sys::SecretFile, access: sys::Access) -> Result<Pages, MemoryError> {
    match pages.back_by_secret(file, access) {
        Ok(()) => Ok(pages),
        Err(error) => {
            pages.discard();
            Err(error)
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn hidden(_: usize, _: Demand) -> Result<Acquired, MemoryError> {
    Err(system("memfd_secret")(io::ErrorKind::Unsupported.into()))
}

fn locked(bytes: usize, demand: Demand, why_not_hidden: Option<MemoryError>) -> Result<Acquired, MemoryError> {
    let mut pages = Pages::allocate(bytes)?;
    let why_not_hidden = why_not_hidden.and_then(|error| error.cause());
    let absent = |name| Protection { name, active: false, cause: why_not_hidden.clone(), required: false };
    let mut protections = vec![absent(HIDDEN), absent(ZEROED), Protection::active(GUARDS)];
    let locking = match demand.require {
        Some(Backend::Unlocked) => Err(system("mlock of secret memory")(io::ErrorKind::Unsupported.into())),
        _ => pages.lock(),
    };
    let backend = match locking.map_err(|error| (error.cause(), error)) {
        Ok(()) => {
            protections.push(Protection::active(LOCKED));
            Backend::Mlock
        }
        Err((Some(cause), _)) if demand.may_be_unlocked => {
            protections.push(Protection::missing(LOCKED, cause));
            Backend::Unlocked
        }
        Err((_, error)) => {
            pages.discard();
            return Err(error);
        }
    };
    settle(&mut protections, NOT_DUMPED, demand.policy, pages.exclude_from_dumps())?;
    settle(&mut protections, FORKED, demand.policy, pages.keep_from_forks())?;
    if demand.read_only_view {
        // Not left to the system to offer: it was asked for.
        let cause = Arc::new(io::Error::from(io::ErrorKind::Unsupported));
        if demand.policy == MemoryPolicy::Strict {
            return Err(MemoryError::System { operation: "a read-only view without memfd_secret", source: cause });
        }
        protections.push(Protection::missing(VIEW, cause));
    } else {
        protections.push(Protection::optional(VIEW, false, None));
    }
    Ok(Acquired { pages, view: None, backend, protections })
}

/// Notes how a protection went; one that failed is an error under the strict policy, unless the system has no such thing.
fn settle(
    protections: &mut Vec<Protection>,
    name: &'static str,
    policy: MemoryPolicy,
    outcome: Result<(), MemoryError>,
) -> Result<(), MemoryError> {
    let protection = match outcome {
        Ok(()) => Protection::active(name),
        Err(MemoryError::System { source, .. }) if source.kind() == io::ErrorKind::Unsupported => {
            Protection { name, active: false, cause: Some(source), required: false }
        }
        Err(MemoryError::System { source, .. }) if policy == MemoryPolicy::Relaxed => {
            tracing::warn!(protection = name, error = %source, "secret memory lacks a protection");
            Protection::missing(name, source)
        }
        Err(error) => return Err(error),
    };
    protections.push(protection);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(cause: io::Error) -> Result<(), MemoryError> {
        Err(MemoryError::System { operation: "protecting", source: Arc::new(cause) })
    }

    #[test]
    fn what_a_system_does_not_offer_is_reported_and_not_required() {
        for policy in [MemoryPolicy::Strict, MemoryPolicy::Relaxed] {
            let mut protections = Vec::new();
            settle(&mut protections, NOT_DUMPED, policy, refused(io::ErrorKind::Unsupported.into())).unwrap();
            settle(&mut protections, FORKED, policy, Ok(())).unwrap();
            let seen: Vec<_> = protections.iter().map(|of| (of.name, of.active, of.required)).collect();
            assert_eq!(seen, [(NOT_DUMPED, false, false), (FORKED, true, true)]);
            assert_eq!(protections[0].cause.as_ref().unwrap().kind(), io::ErrorKind::Unsupported);
        }
    }

    #[test]
    fn what_a_system_offers_and_refuses_is_required() {
        let refusal = || refused(io::ErrorKind::PermissionDenied.into());
        let mut protections = Vec::new();
        assert!(settle(&mut protections, NOT_DUMPED, MemoryPolicy::Strict, refusal()).is_err());
        settle(&mut protections, NOT_DUMPED, MemoryPolicy::Relaxed, refusal()).unwrap();
        assert!(matches!(&protections[..], [Protection { active: false, required: true, .. }]));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_view_that_was_asked_for_is_required() {
        let demand = Demand { read_only_view: true, ..Demand::default() };
        assert!(locked(1, demand, None).is_err());
        let relaxed = Demand { policy: MemoryPolicy::Relaxed, ..demand };
        let protections = locked(1, relaxed, None).unwrap().protections;
        assert!(protections.iter().any(|of| of.name == VIEW && !of.active && of.required));
    }
}
