//! Large payloads: computed on a blocking pool, so that other tasks have their turn.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Session, Shared};
use crate::actors::CachedKey;
use crate::error::Error;

/// Payloads above this size (about a millisecond of work on a slow machine) are handed to a blocking pool.
pub(super) const OFFLOAD_ABOVE: usize = 4 * 1024 * 1024;

/// How much of a large payload is copied before other tasks get their turn.
const COPY_STEP: usize = 1024 * 1024;

impl Session {
    /// Runs `work` on a blocking pool.
    pub(super) async fn offload<R: Send + 'static>(
        &self,
        key: Arc<CachedKey>,
        work: impl FnOnce(&Shared, &CachedKey) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let (shared, own) = (Arc::clone(&self.shared), Arc::clone(&key));
        let result = self.blocking(move || work(&shared, &own)).await?;
        self.finish(&key, result)
    }

    pub(super) async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Error> {
        self.shared.system.runtime().spawn_blocking(work).await.map_err(|_| {
            // The pool ends with the factory.
            if self.shared.system.is_closing() {
                Error::Closed
            } else {
                Error::Restarted { component: "blocking pool" }
            }
        })
    }
}

/// Copies a large payload for the blocking pool, letting other tasks run in between.
pub(super) async fn copy(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut copy = Zeroizing::new(Vec::with_capacity(bytes.len()));
    for step in bytes.chunks(COPY_STEP) {
        copy.extend_from_slice(step);
        yield_once().await;
    }
    copy
}

/// Lets other tasks of whatever executor runs this one have their turn.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
