//! Calls to what is outside the process: counted, bounded, each within its deadline.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::ResponseFuture;
use tokio::sync::Semaphore;

use crate::error::Error;

/// The bounds of the calls to one service; cloning shares them.
#[derive(Clone)]
pub(super) struct Outside {
    timeout: Duration,
    turns: Arc<Semaphore>,
    made: Arc<AtomicU64>,
}

impl Outside {
    /// Allows `at_once` calls at a time; what waits for its turn waits within its deadline.
    pub(super) fn new(at_once: usize, timeout: Duration) -> Self {
        Self { timeout, turns: Arc::new(Semaphore::new(at_once)), made: Arc::default() }
    }

    /// Returns how many calls were asked for.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Makes a call in its turn, or fails with what `late` says when it does not end in time.
    pub(super) fn call<T: 'static>(
        &self,
        late: impl FnOnce(Duration) -> Error + 'static,
        call: impl Future<Output = Result<T, Error>> + 'static,
    ) -> ResponseFuture<Result<T, Error>> {
        let turns = Arc::clone(&self.turns);
        self.within(late, async move {
            let _turn = turns.acquire().await;
            call.await
        })
    }

    /// Makes a call at once, or fails with what `late` says when it does not end in time.
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
