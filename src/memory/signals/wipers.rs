//! Wiping before the end, when several threads may be at it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::super::wipe;

static WIPERS: Wipers = Wipers::new();

/// A wipe takes a millisecond per 8 MiB; a crash in the middle of one waits for itself.
const PATIENCE: Duration = Duration::from_millis(200);

/// Wipes everything, and returns when others that do so have finished as well: what one of them has begun with, the wipe of
/// another passes by, and whoever returns first would end the process under its hands.
///
/// May be called from a signal handler.
pub(super) fn wipe_everything() {
    WIPERS.wipe(PATIENCE, || {
        wipe::purge();
    });
}

/// How many threads are wiping.
struct Wipers(AtomicUsize);

impl Wipers {
    const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    fn wipe(&self, patience: Duration, wipe: impl FnOnce()) {
        self.0.fetch_add(1, Ordering::AcqRel);
        wipe();
        self.0.fetch_sub(1, Ordering::AcqRel);
        // clock_gettime(2) and sched_yield(2) may be called in a handler.
        let began = Instant::now();
        while self.0.load(Ordering::Acquire) != 0 && began.elapsed() < patience {
            thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_wipe_returns_when_those_of_other_threads_have() {
        let (wipers, finished) = (Wipers::new(), AtomicBool::new(false));
        let (begin, begun) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let (first, finishes) = (&wipers, &finished);
        thread::scope(|scope| {
            scope.spawn(move || {
                first.wipe(LONG, || {
                    begin.send(()).unwrap();
                    released.recv().unwrap();
                    finishes.store(true, Ordering::Relaxed);
                });
            });
            begun.recv().unwrap();
            wipers.wipe(LONG, || release.send(()).unwrap());
            assert!(finished.load(Ordering::Relaxed));
        });
    }

    #[test]
    fn a_wipe_inside_a_wipe_is_not_waited_for_without_end() {
        let wipers = Wipers::new();
        wipers.wipe(LONG, || wipers.wipe(Duration::from_millis(1), || ()));
        assert_eq!(wipers.0.load(Ordering::Relaxed), 0);
    }
}
