//! How the program learns that it is to end, and what runs then.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{Signal, waiting};

type Drain = Box<dyn FnOnce(Signal) + Send>;

/// Tells when the process is asked to end. Cloning shares it.
#[derive(Clone)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

/// What the handles share with the threads that wait.
#[derive(Default)]
pub(super) struct Shared {
    /// The number of the first signal, or 0.
    requested: AtomicI32,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// By the place of each waiter, which takes its waker along when it goes.
    wakers: BTreeMap<u64, Waker>,
    places: u64,
    drains: Vec<Drain>,
    /// Whether those above were told.
    told: bool,
    /// Threads that run drains; when the last one is done, the process ends.
    draining: usize,
}

impl Shutdown {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Waits for the first signal; resolves at once when it came.
    ///
    /// # Cancel safety
    /// Nothing is lost, and nothing stays behind, when the future is dropped. Any number may wait, in any executor.
    pub async fn requested(&self) -> Signal {
        let place = Place::new(&self.shared);
        poll_fn(|context| place.poll(context)).await
    }

    /// Returns the first signal, if it came.
    #[must_use]
    pub fn is_requested(&self) -> Option<Signal> {
        self.shared.requested()
    }

    /// Has `drain` run at the first signal, on another thread; when all such functions have returned, everything is wiped and
    /// the process ends with 128 and the signal's number.
    ///
    /// They run one after the other, in the order in which they were given; one that panics has returned. What is given after
    /// the signal runs at once.
    pub fn drain_with(&self, drain: impl FnOnce(Signal) + Send + 'static) {
        let mut waiting = self.shared.waiting();
        let Some(signal) = self.is_requested().filter(|_| waiting.told) else {
            waiting.drains.push(Box::new(drain));
            return;
        };
        waiting.draining += 1;
        drop(waiting);
        let shared = Arc::clone(&self.shared);
        let started = std::thread::Builder::new()
            .name("keyward-drain".to_owned())
            .spawn(move || shared.run([Box::new(drain) as Drain], signal));
        if let Err(error) = started {
            tracing::error!(%error, "no thread to drain on");
            self.shared.drained(signal);
        }
    }
}

impl Shared {
    /// Notes a signal; `false` when it is not the first. Takes no lock.
    pub(super) fn request(&self, signal: Signal) -> bool {
        self.requested.compare_exchange(0, signal.number(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn requested(&self) -> Option<Signal> {
        Signal::from_number(self.requested.load(Ordering::Acquire))
    }

    /// Wakes whoever waits for the signal, and runs the drains.
    pub(super) fn tell(&self, signal: Signal) {
        let mut waiting = self.waiting();
        let (wakers, drains) = (std::mem::take(&mut waiting.wakers), std::mem::take(&mut waiting.drains));
        waiting.told = true;
        waiting.draining += usize::from(!drains.is_empty());
        drop(waiting);
        for waker in wakers.into_values() {
            carefully(|| waker.wake());
        }
        if !drains.is_empty() {
            self.run(drains, signal);
        }
    }

    fn run(&self, drains: impl IntoIterator<Item = Drain>, signal: Signal) {
        for drain in drains {
            carefully(|| drain(signal));
        }
        self.drained(signal);
    }

    /// Ends the process when nothing drains any more.
    fn drained(&self, signal: Signal) {
        let mut waiting = self.waiting();
        waiting.draining -= 1;
        if waiting.draining == 0 {
            drop(waiting);
            waiting::end(signal);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs code of the program; a panic of it does not keep others from their turn.
fn carefully(run: impl FnOnce()) {
    // The hook has told of the panic, and what is left behind is not used again.
    let _ = catch_unwind(AssertUnwindSafe(run));
}

/// Where one waiter has its waker.
struct Place<'a> {
    shared: &'a Shared,
    number: u64,
}

impl<'a> Place<'a> {
    fn new(shared: &'a Shared) -> Self {
        let mut waiting = shared.waiting();
        waiting.places += 1;
        Self { shared, number: waiting.places }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Signal> {
        // Cloning and dropping a waker is code of the program: not under the lock.
        let waker = context.waker().clone();
        let mut waiting = self.shared.waiting();
        if let Some(signal) = self.shared.requested() {
            return Poll::Ready(signal);
        }
        let before = waiting.wakers.insert(self.number, waker);
        drop(waiting);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let waker = self.shared.waiting().wakers.remove(&self.number);
        drop(waker);
    }
}

impl std::fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shutdown").field("requested", &self.is_requested()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker of the program's");
        }
    }

    #[test]
    fn the_first_signal_wakes_every_waiter_once_and_the_second_is_told_apart() {
        let shutdown = Shutdown::new(Arc::default());
        let (count, clone) = (Arc::new(Count::default()), shutdown.clone());
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let (mut one, mut other) = (pin!(shutdown.requested()), pin!(clone.requested()));
        for _ in 0..3 {
            assert!(one.as_mut().poll(&mut context).is_pending() && other.as_mut().poll(&mut context).is_pending());
        }
        assert!(shutdown.shared.request(Signal::HangUp) && !shutdown.shared.request(Signal::Quit));
        shutdown.shared.tell(Signal::HangUp);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert_eq!(one.poll(&mut context), Poll::Ready(Signal::HangUp));
        assert_eq!(other.poll(&mut context), Poll::Ready(Signal::HangUp));
        assert_eq!(clone.is_requested(), Some(Signal::HangUp));
    }

    #[test]
    fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let shutdown = Shutdown::new(Arc::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        for _ in 0..10 {
            let mut waits = Box::pin(shutdown.requested());
            assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert!(shutdown.shared.waiting().wakers.is_empty());
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1);
    }

    #[test]
    fn a_waker_that_panics_keeps_no_other_from_its_turn() {
        let shutdown = Shutdown::new(Arc::default());
        let count = Arc::new(Count::default());
        let (panics, counts) = (Waker::from(Arc::new(Panics)), Waker::from(Arc::clone(&count)));
        let (mut one, mut other) = (pin!(shutdown.requested()), pin!(shutdown.requested()));
        assert!(one.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
        assert!(other.as_mut().poll(&mut Context::from_waker(&counts)).is_pending());
        assert!(shutdown.shared.request(Signal::Terminate));
        shutdown.shared.tell(Signal::Terminate);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
