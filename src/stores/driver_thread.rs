//! A thread with a runtime of its own, on which the driver of a SQL server lives.
//!
//! A connection belongs to the tokio runtime that made it, and stalls when nobody drives that one. A store is called from
//! several: the program's own, which may end or stand still, and those of the threads that a session factory starts. So
//! all connections of a store are made and used here, and the store works on every executor.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};

use crate::error::BoxError;

/// How long the last work may take; a server that does not answer keeps no thread.
const LAST_WORK: Duration = Duration::from_secs(1);

type Last = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The handle of such a thread, which ends when it is dropped.
pub(super) struct DriverThread {
    runtime: Handle,
    last: Option<oneshot::Sender<Last>>,
}

impl DriverThread {
    /// Starts a thread of this name.
    ///
    /// # Errors
    /// Those of the system, which gave no thread or no event queue.
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (last, ending) = oneshot::channel::<Last>();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async {
                if let Ok(work) = ending.await {
                    // Work that is late is given up: nobody waits for it.
                    let _ = tokio::time::timeout(LAST_WORK, work).await;
                }
            });
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, last: Some(last) })
    }

    /// Has the thread do `work` and waits for its answer. Work whose answer nobody waits for any more is given up.
    ///
    /// # Errors
    /// When the work panicked, or the thread is gone.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        work: impl Future<Output = R> + Send + 'static,
    ) -> Result<R, BoxError> {
        Task(self.runtime.spawn(work)).join().await.map_err(BoxError::from)
    }

    /// Ends the thread, once it has done some last work, for a second at most.
    pub(super) fn end_with(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(last) = self.last.take() {
            // A thread that is gone has nothing left to close.
            let _ = last.send(Box::pin(work));
        }
    }
}

/// Work under way, given up when dropped.
struct Task<R>(JoinHandle<R>);

impl<R> Task<R> {
    async fn join(mut self) -> Result<R, JoinError> {
        (&mut self.0).await
    }
}

impl<R> Drop for Task<R> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::mpsc;

    use super::*;

    struct Tell(mpsc::Sender<()>);

    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    #[tokio::test]
    async fn the_work_is_done_elsewhere_and_its_panics_stay_there() {
        let thread = DriverThread::start("keyward-test").unwrap();
        let name = thread.run(async { thread::current().name().map(str::to_owned) }).await.unwrap();
        assert_eq!(name.as_deref(), Some("keyward-test"));
        assert!(thread.run(async { panic!("as a driver might") }).await.is_err());
        assert_eq!(thread.run(async { 7 }).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_given_up() {
        let thread = DriverThread::start("keyward-test").unwrap();
        let (told, dropped) = mpsc::channel();
        let tell = Tell(told);
        let work = async move {
            let _tell = tell;
            pending::<()>().await;
        };
        assert!(tokio::time::timeout(Duration::from_millis(10), thread.run(work)).await.is_err());
        assert_eq!(dropped.recv_timeout(Duration::from_secs(30)), Ok(()));
    }

    #[test]
    fn the_last_work_is_done_after_the_handle_is_gone() {
        let mut thread = DriverThread::start("keyward-test").unwrap();
        let (told, done) = mpsc::channel();
        thread.end_with(async move {
            tokio::task::yield_now().await;
            let _ = told.send(());
        });
        drop(thread);
        assert_eq!(done.recv_timeout(Duration::from_secs(30)), Ok(()));
    }
}
