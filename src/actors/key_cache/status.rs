//! What is known of one key version's row.

use super::checks::Checks;
use super::sync::{AtomicBool, Ordering};
use crate::ids::KeyMeta;
use crate::policy::{CryptoPolicy, Wraps};

/// What is known of one key version's row; shared by everything that depends on it.
#[derive(Debug)]
pub(crate) struct KeyStatus {
    meta: KeyMeta,
    /// Once set, never cleared.
    revoked: AtomicBool,
    checks: Checks,
    wraps: Wraps,
}

impl KeyStatus {
    /// `checked` is when the row was asked for, in Unix milliseconds.
    pub(super) fn new(meta: KeyMeta, revoked: bool, checked: i64, jitter: u8, policy: &CryptoPolicy) -> Self {
        let checks = Checks::new(checked, jitter);
        Self { meta, revoked: AtomicBool::new(revoked), checks, wraps: Wraps::new(policy.max_wraps) }
    }

    pub(super) fn meta(&self) -> &KeyMeta {
        &self.meta
    }

    pub(super) fn checks(&self) -> &Checks {
        &self.checks
    }

    pub(super) fn wraps(&self) -> &Wraps {
        &self.wraps
    }

    /// Takes note of what a row said at `checked`, in Unix milliseconds.
    pub(super) fn observe(&self, revoked: bool, checked: i64) {
        if revoked {
            self.revoke();
        }
        self.checks.observe(checked);
    }

    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }
}
