//! How large an arena may be.

use super::arena::Arena;
use super::backend::{self, Acquired, Backend, Demand, MemoryPolicy};
use super::pages;
use super::settings::ArenaSettings;
use super::state::SlotBytes;
use super::sys;
use crate::error::MemoryError;

/// More than any machine locks, and far from where sizes overflow.
const MOST: usize = 1 << 40;

/// Gets memory of the size wanted, or of the largest size to be had.
///
/// The numbers are asked for, but only trying tells: a capability may lift the limit or be worth nothing.
pub(super) fn acquire(settings: &ArenaSettings, least_slots: usize) -> Result<Acquired, MemoryError> {
    let page = sys::page_size();
    let least = ((least_slots + 1) * size_of::<SlotBytes>()).next_multiple_of(page);
    let views = if settings.read_only_view { 2 } else { 1 };
    let wanted = settings.bytes.clamp(least, MOST);
    let mut bytes = wanted.next_multiple_of(page);
    let demand = Demand {
        policy: settings.policy,
        require: settings.require,
        read_only_view: settings.read_only_view,
        may_be_unlocked: false,
    };
    let mut raised = false;
    let refused = loop {
        let error = match backend::acquire(bytes, demand) {
            Ok(acquired) => return Ok(acquired),
            Err(error) => error,
        };
        if !error.is_about_the_lock_limit() {
            break error;
        }
        if !std::mem::replace(&mut raised, true) {
            if let Err(error) = sys::raise_lock_limit(wanted) {
                tracing::debug!(%error, "the soft lock limit could not be raised");
            }
            continue;
        }
        if bytes <= least {
            break pages::over_budget(least * views, error);
        }
        let fits = budget(settings) / views;
        bytes = if fits < bytes { fits } else { bytes / 2 }.max(least) / page * page;
    };
    let may_be_unlocked = settings.require.is_none_or(|backend| backend == Backend::Unlocked);
    if settings.policy == MemoryPolicy::Relaxed && may_be_unlocked {
        tracing::warn!(error = %refused, "secret memory is not locked");
        return backend::acquire(wanted, Demand { may_be_unlocked, ..demand });
    }
    Err(refused)
}

/// Gets memory for a single secret, under the policy of the process's arena.
pub(super) fn acquire_for_one(bytes: usize) -> Result<Acquired, MemoryError> {
    let demand = Arena::demand();
    let refused = match backend::acquire(bytes, Demand { may_be_unlocked: false, ..demand }) {
        Err(error) if error.is_about_the_lock_limit() => error,
        other => return other,
    };
    let limits = pages::limits();
    if limits.soft < limits.hard && sys::raise_lock_limit(bytes).is_ok() {
        return backend::acquire(bytes, demand);
    }
    if demand.may_be_unlocked { backend::acquire(bytes, demand) } else { Err(refused) }
}

/// Returns how many bytes may be locked by the numbers, less what is left to others.
fn budget(settings: &ArenaSettings) -> usize {
    let limits = pages::limits();
    let available = limits.soft.saturating_sub(limits.locked);
    let left = settings.leave_unlocked.min(available / 4);
    usize::try_from(available - left).unwrap_or(usize::MAX)
}
