//! Timing of operations that take no longer than two looks at a clock.

use std::cell::Cell;
use std::time::Instant;

use super::Meters;

/// One operation in so many is timed, and stands for those before it.
const WEIGHT: u32 = 64;

/// After so many milliseconds without one the next operation is timed: where operations are rare all are.
const IDLE: i64 = 100;

/// What is timed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Timed {
    Encrypt,
    Decrypt,
}

/// What a thread has counted and not recorded yet.
#[derive(Clone, Copy, Default)]
struct Pending {
    operations: u32,
    hits: u32,
    /// When the thread recorded last, in Unix milliseconds.
    recorded: i64,
}

thread_local! {
    // Of all factories together: their numbers have the same names.
    static PENDING: [Cell<Pending>; 2] = const {
        [const { Cell::new(Pending { operations: 0, hits: 0, recorded: 0 }) }; 2]
    };
    static SESSIONS: Cell<Pending> = const { Cell::new(Pending { operations: 0, hits: 0, recorded: 0 }) };
}

/// An operation that is being timed.
pub(crate) struct Stopwatch {
    timed: Timed,
    operations: u32,
    began: Instant,
}

impl Meters {
    /// Counts an operation, at `now` in Unix milliseconds; if it is one to be timed, that has begun.
    #[inline]
    pub(crate) fn begin(&self, timed: Timed, now: i64) -> Option<Stopwatch> {
        PENDING.with(|pending| {
            let cell = &pending[timed as usize];
            let mut pending = cell.get();
            pending.operations += 1;
            let is_due = pending.operations >= WEIGHT || !(0..IDLE).contains(&now.saturating_sub(pending.recorded));
            if !is_due {
                cell.set(pending);
                return None;
            }
            cell.set(Pending { operations: 0, hits: pending.hits, recorded: now });
            Some(Stopwatch { timed, operations: pending.operations, began: Instant::now() })
        })
    }

    /// Counts that an operation found its key loaded.
    #[inline]
    pub(crate) fn hit(timed: Timed) {
        PENDING.with(|pending| {
            let cell = &pending[timed as usize];
            cell.set(Pending { hits: cell.get().hits.saturating_add(1), ..cell.get() });
        });
    }

    /// Counts a session that was found open, at `now` in Unix milliseconds.
    #[inline]
    pub(crate) fn session_hit(&self, now: i64) {
        SESSIONS.with(|cell| {
            let mut pending = cell.get();
            pending.operations += 1;
            if pending.operations >= WEIGHT || !(0..IDLE).contains(&now.saturating_sub(pending.recorded)) {
                self.sessions.hits.increment(u64::from(pending.operations));
                pending = Pending { operations: 0, hits: 0, recorded: now };
            }
            cell.set(pending);
        });
    }

    /// Records an operation that was timed, for itself and for those that were not.
    #[inline]
    pub(crate) fn end(&self, stopwatch: Option<Stopwatch>) {
        if let Some(stopwatch) = stopwatch {
            self.record(&stopwatch);
        }
    }

    #[cold]
    fn record(&self, stopwatch: &Stopwatch) {
        let histogram = match stopwatch.timed {
            Timed::Encrypt => &self.encrypt,
            Timed::Decrypt => &self.decrypt,
        };
        histogram.record_many(stopwatch.began.elapsed(), stopwatch.operations as usize);
        let hits = PENDING.with(|pending| {
            let cell = &pending[stopwatch.timed as usize];
            let hits = cell.get().hits;
            cell.set(Pending { hits: 0, ..cell.get() });
            hits
        });
        self.intermediate_keys.cache.hits.increment(u64::from(hits));
    }
}
