//! What sessions share with their factory.

use std::sync::Arc;

use crate::actors::{CachedKey, System};
use crate::audit::Audit;
use crate::clock::{Clock, unix_millis};
use crate::envelope::{Envelope, Parent};
use crate::error::Error;
use crate::ids::Realm;
use crate::metrics::Meters;
use crate::policy::CryptoPolicy;
use crate::record::DataRowRecord;

/// What a factory shares with its sessions.
pub(crate) struct Shared {
    pub(crate) system: System,
    pub(crate) realm: Realm,
    pub(crate) policy: Arc<CryptoPolicy>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) envelope: Envelope,
    pub(crate) max_payload: usize,
    pub(crate) meters: Arc<Meters>,
    pub(crate) audit: Arc<Audit>,
}

impl Shared {
    /// Returns the time of day in Unix milliseconds.
    pub(crate) fn now(&self) -> i64 {
        unix_millis(self.clock.now())
    }

    pub(super) fn parent(key: &CachedKey) -> Parent<'_> {
        Parent { meta: key.meta(), key: key.key(), wraps: key.wraps() }
    }

    pub(super) fn seal(&self, key: &CachedKey, now: i64, payload: &[u8]) -> Result<DataRowRecord, Error> {
        self.envelope.seal(Self::parent(key), now.div_euclid(1000), payload)
    }

    pub(super) fn seal_json(&self, key: &CachedKey, now: i64, payload: &[u8]) -> Result<Vec<u8>, Error> {
        self.envelope.seal_json(Self::parent(key), now.div_euclid(1000), payload)
    }
}
