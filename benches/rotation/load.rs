//! A steady load: encrypts that are due at fixed times, each timed from when it was due.
//!
//! An operation that waits delays those that are due meanwhile, and all of them count: who only times what is running sees
//! one slow operation where a thousand callers waited. What does not count is time for which the system gave the processor
//! to others between two operations: the operations that were due by then are due when it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyward::{Error, Session};

use crate::histogram::Histogram;

/// From one operation to the next.
pub(crate) const PERIOD: Duration = Duration::from_micros(10);

pub(crate) const PAYLOAD: [u8; 64] = [0x5a; 64];

/// What looks at the clock all the time does not look away for this long, unless another has its processor.
const STOLEN: Duration = Duration::from_micros(20);

/// How many operations there are between times at which the task makes way for others of its runtime.
const YIELDS_EVERY: u32 = 1024;

/// Which window of time it is, told by the scenario to the tasks.
pub(crate) struct Now(AtomicUsize);

impl Now {
    const ENDED: usize = usize::MAX;

    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(0)))
    }

    pub(crate) fn set(&self, window: usize) {
        self.0.store(window, Ordering::SeqCst);
    }

    pub(crate) fn end(&self) {
        self.set(Self::ENDED);
    }
}

/// What happened in one window of time.
#[derive(Clone)]
pub(crate) struct Window {
    pub(crate) latencies: Histogram,
    /// When the keys that encrypted were created, in Unix seconds, and when each was first used.
    pub(crate) keys: Vec<(i64, Instant)>,
    /// How long the task waited for a processor while it had nothing to do.
    pub(crate) stolen: Duration,
}

/// Encrypts until it is told that time has ended.
pub(crate) async fn run(session: Session, now: Arc<Now>, windows: usize) -> Result<Vec<Window>, Error> {
    let mut windows = vec![Window { latencies: Histogram::new(), keys: Vec::new(), stolen: Duration::ZERO }; windows];
    let mut due = Instant::now();
    for count in 1_u32.. {
        let stolen = wait_until(due);
        if !stolen.is_zero() {
            due = Instant::now();
        }
        let Some(window) = windows.get_mut(now.0.load(Ordering::SeqCst)) else { break };
        window.stolen += stolen;
        let record = session.encrypt(&PAYLOAD).await?;
        window.latencies.add(due.elapsed());
        let created = record.parent_key().created;
        if window.keys.last().is_none_or(|(last, _)| *last != created) {
            window.keys.push((created, Instant::now()));
        }
        due += PERIOD;
        if count % YIELDS_EVERY == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(windows)
}

/// Waits, awake, and returns for how much of that time another had the processor.
fn wait_until(due: Instant) -> Duration {
    let (mut last, mut stolen) = (Instant::now(), Duration::ZERO);
    while last < due {
        std::hint::spin_loop();
        let now = Instant::now();
        let gap = now.duration_since(last);
        if gap > STOLEN {
            stolen += gap;
        }
        last = now;
    }
    stolen
}
