//! The time of day, injected: keys age by this clock and by nothing else.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of the time of day.
///
/// Keys expire and caches grow stale by it. It is read once per operation, so it should cost a few nanoseconds.
pub trait Clock: Send + Sync + 'static {
    /// Returns the time of day.
    fn now(&self) -> SystemTime;
}

/// The system's clock, at the resolution of the scheduler's tick (1 to 10 ms) where the system offers that.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[cfg(target_os = "linux")]
    fn now(&self) -> SystemTime {
        // CLOCK_REALTIME_COARSE, clock_gettime(2): a few nanoseconds, against some twenty for CLOCK_REALTIME.
        let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        let seconds = Duration::from_secs(time.tv_sec.unsigned_abs());
        let nanos = Duration::from_nanos(time.tv_nsec.unsigned_abs());
        if time.tv_sec >= 0 { UNIX_EPOCH + seconds + nanos } else { UNIX_EPOCH - seconds + nanos }
    }

    #[cfg(not(target_os = "linux"))]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that moves only when told to, for tests and demonstrations.
///
/// ```
/// use keyward::{Clock, ManualClock};
/// use std::time::{Duration, SystemTime};
///
/// let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(60));
/// ```
#[derive(Debug)]
pub struct ManualClock {
    millis: AtomicI64,
}

impl ManualClock {
    /// Creates a clock that stands at `time`.
    #[must_use]
    pub fn at(time: SystemTime) -> Self {
        Self { millis: AtomicI64::new(unix_millis(time)) }
    }

    /// Moves the clock forward, to the millisecond.
    pub fn advance(&self, by: Duration) {
        self.millis.fetch_add(millis(by), Ordering::SeqCst);
    }

    /// Sets the clock, backward too.
    pub fn set(&self, time: SystemTime) {
        self.millis.store(unix_millis(time), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        let millis = self.millis.load(Ordering::SeqCst);
        let distance = Duration::from_millis(millis.unsigned_abs());
        if millis >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
    }
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn now(&self) -> SystemTime {
        (**self).now()
    }
}

/// Milliseconds since 1970, negative before it, saturating far outside any real date.
pub(crate) fn unix_millis(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => millis(after),
        Err(before) => -millis(before.duration()),
    }
}

/// Whole milliseconds of `duration`, saturating.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
