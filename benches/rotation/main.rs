//! What callers notice of a rotation, and of a revoke check, in the middle of a steady load.
//!
//! ```sh
//! cargo bench --bench rotation        # one task encrypts
//! cargo bench --bench rotation -- 2   # two do, and keep two processors busy
//! ```
//!
//! A task spins between operations. Where others want its processor too, the longest tails are theirs: `stolen` tells how
//! much of the time. On Linux, as root, what follows puts the others behind:
//!
//! ```sh
//! setsid -w sh -c 'echo -20 >/proc/self/autogroup; exec nice -n -20 cargo bench --bench rotation'
//! ```
//!
//! Every round is four windows of time: nothing happens; the rows of the keys are to be looked at; nothing happens; the
//! keys, system key and intermediate key, are to be replaced. Once with both done ahead of time, in the background, and
//! once with both late, when a caller has to wait: `rotate_ahead: None`, and a clock that goes past the interval between
//! two operations.
//!
//! * `load.rs` is the callers, `store.rs` the store that takes a millisecond for each call, `histogram.rs` the durations.

mod histogram;
mod load;
mod store;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use keyward::{CryptoPolicy, ManualClock, Session, SessionFactory, kms::StaticKms};
use tokio::runtime::{Builder, Runtime};

use histogram::Histogram;
use load::{Now, PAYLOAD, PERIOD, Window};
use store::DistantStore;

type BenchResult<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 20;
const WINDOW: Duration = Duration::from_millis(250);

const MINUTE: Duration = Duration::from_secs(60);

/// A tail of a tail needs lives that are short enough for the check and the rotation not to coincide.
const EXPIRE_AFTER: Duration = Duration::from_secs(100 * 60);
const REVOKE_CHECK_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// What happens to keys in a window of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Steady,
    Refresh,
    Rotation,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Refresh => "refresh",
            Self::Rotation => "rotation",
        }
    }
}

const ROUND: [Event; 4] = [Event::Steady, Event::Refresh, Event::Steady, Event::Rotation];

/// When refreshes and rotations take place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Ahead,
    Late,
}

impl When {
    /// How far the clock has gone, since the keys of a round were made, once an event is to take place.
    fn of(self, event: Event) -> Option<Duration> {
        match (self, event) {
            (_, Event::Steady) => None,
            // The last moment of the interval, when every key is looked at, whatever its share of chance.
            (Self::Ahead, Event::Refresh) => Some(REVOKE_CHECK_INTERVAL - Duration::from_millis(100)),
            (Self::Late, Event::Refresh) => Some(REVOKE_CHECK_INTERVAL + Duration::from_secs(1)),
            // Within the lead, which is an eighth of a life, and beyond the half of it over which rotations are spread.
            (Self::Ahead, Event::Rotation) => Some(EXPIRE_AFTER - 5 * MINUTE),
            (Self::Late, Event::Rotation) => Some(EXPIRE_AFTER + Duration::from_secs(1)),
        }
    }
}

fn main() -> BenchResult<()> {
    let tasks = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1);
    println!(
        "{tasks} task(s); an encrypt of {} B is due every {PERIOD:?} and timed from then on; {ROUNDS} rounds of {} windows of \
         {WINDOW:?}",
        PAYLOAD.len(),
        ROUND.len()
    );
    for when in [When::Ahead, When::Late] {
        println!();
        report(when, &measure(when, tasks)?);
    }
    Ok(())
}

/// The windows of each task, and what the store was asked in each.
struct Measured {
    tasks: Vec<Vec<Window>>,
    calls: Vec<Calls>,
}

/// What the store was asked in one window.
struct Calls {
    event: Event,
    reads: usize,
    writes: usize,
}

/// Runs all rounds.
fn measure(when: When, tasks: usize) -> BenchResult<Measured> {
    // One more thread than there are tasks, which never sleep.
    let runtime = Builder::new_multi_thread().worker_threads(tasks + 1).enable_all().build()?;
    let (clock, store) = (Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH)), Arc::new(DistantStore::default()));
    clock.advance(Duration::from_secs(1_700_000_000));
    let (factory, session) = runtime.block_on(open(when, Arc::clone(&clock), Arc::clone(&store)))?;
    let measured = drive(&runtime, when, &clock, &store, &session, tasks);
    drop(session);
    runtime.block_on(factory.close())?;
    measured
}

async fn open(when: When, clock: Arc<ManualClock>, store: Arc<DistantStore>) -> BenchResult<(SessionFactory, Session)> {
    let policy = CryptoPolicy {
        expire_after: EXPIRE_AFTER,
        revoke_check_interval: REVOKE_CHECK_INTERVAL,
        created_precision: Duration::from_secs(1),
        ..CryptoPolicy::default()
    };
    let policy = match when {
        When::Ahead => policy,
        When::Late => CryptoPolicy { rotate_ahead: None, ..policy },
    };
    let factory = SessionFactory::builder("my-service", "my-product")
        .metastore(store)
        .kms(StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?)
        .policy(policy)
        .clock(clock)
        .build()
        .await?;
    let session = factory.session("partition-1").await?;
    session.encrypt(&PAYLOAD).await?;
    Ok((factory, session))
}

/// Moves the clock while the tasks encrypt, and makes sure that what was to happen in each window did.
fn drive(
    runtime: &Runtime,
    when: When,
    clock: &ManualClock,
    store: &DistantStore,
    session: &Session,
    tasks: usize,
) -> BenchResult<Measured> {
    // The first window is for the tasks to get going; it counts for nothing.
    let (now, windows) = (Now::new(), 1 + ROUNDS * ROUND.len());
    let running: Vec<_> =
        (0..tasks).map(|_| runtime.spawn(load::run(session.clone(), Arc::clone(&now), windows))).collect();
    pass(WINDOW);
    let mut calls = Vec::new();
    for round in 0..ROUNDS {
        let mut age = Duration::ZERO;
        for (at, event) in ROUND.into_iter().enumerate() {
            let (reads, writes) = store.calls();
            now.set(1 + round * ROUND.len() + at);
            if let Some(target) = when.of(event) {
                clock.advance(target - age);
                age = target;
            }
            pass(WINDOW);
            let (reads_after, writes_after) = store.calls();
            calls.push(Calls { event, reads: reads_after - reads, writes: writes_after - writes });
        }
    }
    now.end();
    let mut tasks = Vec::new();
    for task in running {
        tasks.push(runtime.block_on(task)??.split_off(1));
    }
    let measured = Measured { tasks, calls };
    measured.check()?;
    Ok(measured)
}

impl Measured {
    /// Fails unless keys changed in the windows of rotations and nowhere else, and the store was asked when it was to be.
    fn check(&self) -> BenchResult<()> {
        for windows in &self.tasks {
            let mut last = None;
            for (at, (window, &Calls { event, reads, writes })) in windows.iter().zip(&self.calls).enumerate() {
                let first = window.keys.first().ok_or("a window without an operation")?.0;
                let changes = window.keys.len() - 1 + usize::from(last.is_some_and(|last| last != first));
                last = window.keys.last().map(|(created, _)| *created);
                let is_right = match event {
                    Event::Steady => (changes, reads, writes) == (0, 0, 0),
                    Event::Refresh => (changes, writes) == (0, 0) && reads > 0,
                    Event::Rotation => (changes, writes) == (1, 2),
                };
                if !is_right {
                    let found = format!("{changes} changes of key, {reads} reads, {writes} writes");
                    return Err(format!("window {at}, {event:?}: {found}").into());
                }
            }
        }
        Ok(())
    }

    /// Returns the windows of one kind, those of one task together.
    fn windows(&self, event: Event) -> impl Iterator<Item = &Window> {
        let named = self.tasks.iter().flat_map(|windows| windows.iter().zip(&self.calls));
        named.filter(move |(_, calls)| calls.event == event).map(|(window, _)| window)
    }

    fn merged(&self, event: Event) -> Histogram {
        let mut merged = Histogram::new();
        self.windows(event).for_each(|window| merged.merge(&window.latencies));
        merged
    }

    /// Returns the middle one of the p99.9 of each window, in seconds.
    fn middle_tail(&self, event: Event) -> f64 {
        median(self.windows(event).map(|window| window.latencies.all_but(1_000).as_secs_f64()).collect())
    }

    /// Returns the percentage of time for which others had the processor.
    fn stolen(&self, event: Event) -> f64 {
        let (count, stolen) = self
            .windows(event)
            .fold((0.0, 0.0), |(count, stolen), window| (count + 1.0, stolen + window.stolen.as_secs_f64()));
        stolen * 100.0 / (count * WINDOW.as_secs_f64())
    }

    /// Returns how many calls to the store the middle one of such events took.
    fn calls(&self, event: Event) -> f64 {
        let calls = self.calls.iter().filter(|calls| calls.event == event);
        median(calls.map(|calls| (calls.reads + calls.writes) as f64).collect())
    }

    /// Returns how long keys that were to be replaced encrypted on, for the middle one of those that did.
    fn delay(&self) -> Option<Duration> {
        let delays = self.windows(Event::Rotation).filter_map(|window| match window.keys[..] {
            [(_, before), (_, after)] => Some(after.duration_since(before).as_secs_f64()),
            _ => None,
        });
        let delays: Vec<f64> = delays.collect();
        (!delays.is_empty()).then(|| Duration::from_secs_f64(median(delays)))
    }
}

fn report(when: When, measured: &Measured) {
    println!(
        "{}",
        match when {
            When::Ahead => "Ahead of time: as the policy has it by default",
            When::Late => "Late: rotate_ahead is None, and nobody encrypted in the last part of the interval",
        }
    );
    let events = [Event::Steady, Event::Refresh, Event::Rotation];
    let merged = events.map(|event| measured.merged(event));
    print!("{:<10}{:>10}{:>12}{:>12}", "window", "encrypts", "p50", "p99");
    println!("{:>12}{:>12}{:>12}{:>10}", "p99.9", "p99.99", "max", "stolen");
    for (event, histogram) in events.into_iter().zip(&merged) {
        let [p50, p99, p999, p9999] = [500_000, 10_000, 1_000, 100].map(|part| text(histogram.all_but(part)));
        print!("{:<10}{:>10}{p50:>12}{p99:>12}", event.name(), histogram.total());
        println!("{p999:>12}{p9999:>12}{:>12}{:>9.2}%", text(histogram.longest()), measured.stolen(event));
    }
    let tail = |histogram: &Histogram| histogram.all_but(1_000).as_secs_f64();
    for (event, histogram) in events.into_iter().zip(&merged).skip(1) {
        println!(
            "p99.9 of {} over steady state: {:.2} of all rounds together, {:.2} of the middle ones (target: 2); {} calls to \
             the store",
            event.name(),
            tail(histogram) / tail(&merged[0]),
            measured.middle_tail(event) / measured.middle_tail(Event::Steady),
            measured.calls(event),
        );
    }
    if let Some(delay) = measured.delay() {
        println!("from the move of the clock to the first record under the new key: {}", text(delay));
    }
    println!("{:<24}{:>12}{:>12}{:>12}", "took", "steady", "refresh", "rotation");
    for power in (0..40).filter(|&power| merged.iter().any(|histogram| histogram.at_power(power) > 0)) {
        let [from, to] = [power, power + 1].map(|power| text(Duration::from_nanos(1 << power)));
        let share = |histogram: &Histogram| match histogram.at_power(power) {
            0 => format!("{:>12}", "."),
            count => format!("{:>11.4}%", count as f64 * 100.0 / histogram.total() as f64),
        };
        println!("{:<24}{}", format!("{from} to {to}"), merged.iter().map(share).collect::<String>());
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A duration in the unit that suits it.
fn text(duration: Duration) -> String {
    match duration.as_nanos() {
        nanos @ ..10_000 => format!("{nanos} ns"),
        nanos @ ..10_000_000 => format!("{:.1} us", nanos as f64 / 1e3),
        nanos => format!("{:.1} ms", nanos as f64 / 1e6),
    }
}

/// Lets time pass.
fn pass(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}
