//! Wraps system keys for the places that could not be had when they were made.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::KmsCalls;
use crate::ids::KeyId;
use crate::kms::{KmsAdmin, WrapFinding};
use crate::memory::RandomFill;
use crate::retry::half_to_one;
use crate::stores::{KeyAdmin, Replacement};

/// Intervals from one look to the next when nothing was missing, and between tries at most.
const MOST: u32 = 60;

/// Who can repair, and how often it is tried.
pub(crate) struct Repairs {
    pub(crate) kms: Arc<dyn KmsAdmin>,
    pub(crate) store: Arc<dyn KeyAdmin>,
    pub(crate) interval: Duration,
}

/// The work of looking and repairing, which ends with the thread that it is done on.
pub(super) struct Repairing {
    pub(super) repairs: Repairs,
    pub(super) key: KeyId,
    pub(super) calls: Arc<KmsCalls>,
    /// How long one call to the store or the service may take.
    pub(super) timeout: Duration,
    pub(super) random: RandomFill,
}

impl Repairing {
    /// Looks at all versions of the system key within the first two intervals; again after sixty intervals, within two of one in
    /// which a key was wrapped without some place, and less and less often while something is missing and cannot be had.
    pub(super) async fn run(self) {
        let (mut seen, mut pause, mut left) = (None, 1, 0);
        loop {
            sleep(self.repairs.interval.mul_f64(half_to_one(&self.random))).await;
            let missed = self.calls.health().iter().map(|place| place.missed_wraps).sum::<u64>();
            if seen == Some(missed) && left > 0 {
                left -= 1;
                continue;
            }
            let is_whole = self.repair_all().await;
            // A key that was missed may not be in the store yet: the next look tells.
            let is_seen_again = seen == Some(missed);
            pause = if is_whole || !is_seen_again { 1 } else { MOST.min(pause * 2) };
            left = if is_whole && is_seen_again { MOST } else { pause - 1 };
            seen = Some(missed);
        }
    }

    /// Repairs what can be; tells whether nothing is missing any more.
    async fn repair_all(&self) -> bool {
        let Some(rows) = self.within("list system keys", self.repairs.store.versions(&self.key)).await else {
            return false;
        };
        let mut is_whole = true;
        for row in rows {
            let Ok(record) = row.record else { continue };
            if record.is_tombstone() {
                continue;
            }
            let created = row.key.created;
            let kms = &self.repairs.kms;
            let found = self.within("look at a system key", kms.inspect_key(&record.encrypted_key)).await;
            match found {
                Some(found) if !found.iter().any(WrapFinding::is_repairable) => continue,
                Some(_) => {}
                None => {
                    is_whole = false;
                    continue;
                }
            }
            let repair = self.within("wrap a system key anew", kms.repair_key(&record.encrypted_key)).await;
            let Some(Some(repaired)) = repair else {
                is_whole = false;
                continue;
            };
            let replace = self.repairs.store.replace_wrapped_key(&row.key, &record.encrypted_key, &repaired);
            let replaced = self.within("store a system key that was wrapped anew", replace).await;
            let left = self.within("look at a system key", kms.inspect_key(&repaired)).await;
            if replaced == Some(Replacement::Replaced) {
                tracing::info!(created, "a system key was wrapped for places that it lacked");
            }
            // Where somebody else changed it, the next look tells.
            is_whole &= replaced == Some(Replacement::Replaced)
                && left.is_some_and(|left| !left.iter().any(WrapFinding::is_repairable));
        }
        is_whole
    }

    /// Gives a call its time; what fails is tried again later.
    async fn within<T, E: std::error::Error + 'static>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Option<T> {
        match timeout(self.timeout, call).await {
            Ok(Ok(value)) => Some(value),
            Ok(Err(error)) => {
                tracing::warn!(
                    operation,
                    error = &error as &dyn std::error::Error,
                    "system keys could not be repaired"
                );
                None
            }
            Err(_) => {
                tracing::warn!(operation, after = ?self.timeout, "system keys could not be repaired in time");
                None
            }
        }
    }
}
