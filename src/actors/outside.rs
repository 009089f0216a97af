//! Calls to what is outside the process: counted, each within its deadline.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::ResponseFuture;

use crate::error::Error;

/// The deadline of the calls to one service; cloning shares them.
#[derive(Clone)]
pub(super) struct Outside {
    timeout: Duration,
    made: Arc<AtomicU64>,
}

impl Outside {
    /// Gives each call this time.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, made: Arc::default() }
    }

    /// Returns how many calls were asked for.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Makes a call, or fails with what `late` says when it does not end in time.
    pub(super) fn within<T: 'static>(
        &self,
        late: impl FnOnce(Duration) -> Error + 'static,
        call: impl Future<Output = Result<T, Error>> + 'static,
    ) -> ResponseFuture<Result<T, Error>> {
        self.made.fetch_add(1, Ordering::Relaxed);
        let after = self.timeout;
        Box::pin(async move { tokio::time::timeout(after, call).await.unwrap_or_else(|_| Err(late(after))) })
    }
}
