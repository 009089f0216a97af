//! The way to a sink that may be slow: bounded, and never waited for.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use metrics::Counter;

use super::{AuditRecord, AuditSink};

/// Events that wait at most, whatever is configured: the queue has its size from the beginning.
const MOST: usize = 1 << 20;

/// The sending end; the thread ends with it.
pub(crate) struct Queue {
    events: SyncSender<AuditRecord>,
    ended: Receiver<()>,
    dropped: Counter,
}

impl Queue {
    /// Starts a thread that hands events to `sink`.
    pub(crate) fn start(mut sink: Box<dyn AuditSink>, capacity: usize, dropped: Counter) -> io::Result<Self> {
        let (events, waiting) = sync_channel::<AuditRecord>(capacity.clamp(1, MOST));
        let (end, ended) = sync_channel(1);
        thread::Builder::new().name("keyward-audit".to_owned()).spawn(move || {
            for record in waiting {
                sink.record(&record);
            }
            // There is room for it, and nobody may be waiting any more.
            let _ = end.send(());
        })?;
        Ok(Self { events, ended, dropped })
    }

    /// Adds an event, or drops it and counts that.
    pub(crate) fn push(&self, record: AuditRecord) {
        if self.events.try_send(record).is_err() {
            self.dropped.increment(1);
        }
    }

    /// Waits for at most `time` until the sink has taken everything, and tells whether it has.
    pub(crate) fn finish(self, time: Duration) -> bool {
        drop(self.events);
        // A sink that panics has the channel closed without a word.
        self.ended.recv_timeout(time).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::SystemTime;

    use super::*;
    use crate::audit::{AuditEvent, TenantHash};

    const SECOND: Duration = Duration::from_secs(1);

    fn record() -> AuditRecord {
        let event = AuditEvent::KeyShredded { tenant: TenantHash([0; 16]), versions: 1 };
        AuditRecord { at: SystemTime::UNIX_EPOCH, event }
    }

    #[test]
    fn what_is_not_heard_is_counted() {
        let (dropped, heard) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (release, blocked) = sync_channel::<()>(0);
        let count = Arc::clone(&heard);
        let sink = move |_: &AuditRecord| {
            let _ = blocked.recv();
            count.fetch_add(1, Ordering::SeqCst);
        };
        let queue = Queue::start(Box::new(sink), 2, Counter::from_arc(Arc::clone(&dropped))).unwrap();
        (0..10).for_each(|_| queue.push(record()));
        drop(release);
        assert!(queue.finish(60 * SECOND));
        let (dropped, heard) = (dropped.load(Ordering::SeqCst), heard.load(Ordering::SeqCst));
        assert!(dropped + heard == 10 && (2..=3).contains(&heard), "{heard} heard, {dropped} dropped");
    }

    #[test]
    fn a_sink_that_panics_has_not_heard_everything() {
        let queue = Queue::start(Box::new(|_: &AuditRecord| panic!("told to")), 2, Counter::noop()).unwrap();
        queue.push(record());
        assert!(!queue.finish(60 * SECOND));
    }
}
