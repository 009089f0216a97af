//! What secret memory costs: leases of resident keys, uses of sealed ones, the start and the wipe of an arena, and what
//! a second thread adds. Ends with a table of what is asked of each.
//!
//! On a machine that is busy with other work, a round of threads counts only if each of them had a processor to itself and
//! all of them ran at the same time; the table says so when too few did.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::Criterion;
use keyward::MemoryError;
use keyward::memory::{ArenaSettings, ArenaStatus, LockedKey, Vault, init, purge};
use rustix::time::{ClockId, clock_gettime};

type BenchResult<T> = Result<T, Box<dyn std::error::Error>>;

const ARENA: usize = 8 << 20;
/// Keys that are sealed and in no slot, used in turn: few, and so many that the processor's nearest caches do not hold them.
const COLD: [usize; 2] = [200, 4096];
const ROUNDS: usize = 41;
const ROUND: Duration = Duration::from_millis(2);
/// Rounds of threads: on a busy machine most of them are disturbed.
const THREAD_ROUNDS: usize = 2000;
/// Undisturbed rounds without which nothing is said.
const ENOUGH: usize = 21;
/// How much of a round each thread must have had a processor.
const UNDISTURBED: f64 = 0.98;
/// How much of a round all threads must have been at work; without it, threads that ran one after another would pass.
const TOGETHER: f64 = 0.8;

fn main() -> BenchResult<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let stage = Stage::new()?;
    let status = stage.vault.status();
    single(&mut criterion, &stage);
    whole(&mut criterion)?;
    criterion.final_summary();

    if !std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        // The benchmarks of the arena's life have wiped the first stage.
        table(&Stage::new()?, &status)?;
    }
    Ok(())
}

fn settings() -> ArenaSettings {
    ArenaSettings { bytes: ARENA, ..ArenaSettings::default() }
}

/// An arena with more keys than slots.
struct Stage {
    vault: Vault,
    /// The oldest keys, whose slots went to younger ones.
    cold: Vec<Arc<LockedKey>>,
    _fillers: Vec<Arc<LockedKey>>,
    /// Two keys that stay in their slots, being the youngest.
    hot: [Arc<LockedKey>; 2],
}

impl Stage {
    fn new() -> BenchResult<Self> {
        let vault = Vault::open(&settings())?;
        let generate =
            |count: usize| (0..count).map(|_| vault.generate(b"key")).collect::<Result<Vec<_>, MemoryError>>();
        let cold = generate(COLD[1])?;
        let fillers = generate(vault.status().slots * 2)?;
        let hot = [vault.generate(b"first")?, vault.generate(b"second")?];
        if vault.status().demotions < COLD[1] as u64 {
            return Err("the oldest keys are still in their slots".into());
        }
        Ok(Self { vault, cold, _fillers: fillers, hot })
    }

    fn cold_uses(&self, keys: usize) -> impl FnMut(u32) {
        let mut keys = self.cold[..keys].iter().cycle();
        move |count| keys.by_ref().take(count as usize).for_each(|key| lease(key))
    }
}

/// Borrows the key and does nothing with it.
#[inline]
fn lease(key: &LockedKey) {
    key.using(|lease| {
        black_box(lease);
    })
    .expect("the vault is open");
}

#[inline]
fn read(plain: &[u8; 32]) {
    black_box(*black_box(plain));
}

fn leases(key: &LockedKey, count: u32) {
    (0..count).for_each(|_| lease(black_box(key)));
}

fn reads(plain: &[u8; 32], count: u32) {
    (0..count).for_each(|_| read(plain));
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Criterion's measurement of uses.
fn single(criterion: &mut Criterion, stage: &Stage) {
    let mut group = criterion.benchmark_group("secret_memory/use");
    let plain = [7; 32];
    group.bench_function("plain read", |bencher| bencher.iter(|| read(&plain)));
    group.bench_function("resident key", |bencher| bencher.iter(|| lease(black_box(&stage.hot[0]))));
    for keys in COLD {
        let mut uses = stage.cold_uses(keys);
        group.bench_function(format!("sealed key of {keys}"), |bencher| bencher.iter(|| uses(1)));
    }
    group.finish();
}

/// Criterion's measurement of an arena's life; wipes every arena.
fn whole(criterion: &mut Criterion) -> BenchResult<()> {
    start_and_wipe()?;
    let mut group = criterion.benchmark_group("secret_memory/arena of 8 MiB");
    group.sample_size(20);
    let mut measure = |name, part: fn((Duration, Duration)) -> Duration| {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                (0..iterations).map(|_| part(start_and_wipe().expect("what worked once works again"))).sum()
            });
        });
    };
    measure("start", |(start, _)| start);
    measure("wipe", |(_, wipe)| wipe);
    group.finish();
    Ok(())
}

/// Maps a new arena, and wipes everything: how long each took.
fn start_and_wipe() -> BenchResult<(Duration, Duration)> {
    // The last arena is dead by now, or this maps nothing.
    purge();
    let start = Instant::now();
    let status = init(&settings())?;
    let started = start.elapsed();
    if status.locked_bytes < ARENA {
        return Err(format!("only {} bytes may be locked; raise the limit (ulimit -l)", status.locked_bytes).into());
    }
    let start = Instant::now();
    let wiped = purge();
    let took = start.elapsed();
    if wiped.bytes < ARENA || wiped.failed > 0 {
        return Err(format!("not all was wiped: {wiped:?}").into());
    }
    Ok((started, took))
}

/// Measures everything once more, in rounds that take turns, and prints it beside what is asked.
fn table(stage: &Stage, status: &ArenaStatus) -> BenchResult<()> {
    println!("\n{:<44}{:>12}{:>14}  ", "what (medians of rounds that take turns)", "measured", "asked");

    let plain = [7; 32];
    let mut cold = COLD.map(|keys| stage.cold_uses(keys));
    let (mut over_read, mut cold_use) = (Vec::new(), [const { Vec::new() }; 2]);
    let counts = [calibrate(&mut |count| reads(&plain, count)), calibrate(&mut |count| leases(&stage.hot[0], count))];
    let cold_counts = cold.each_mut().map(calibrate);
    for _ in 0..ROUNDS {
        let read = each(counts[0], |count| reads(&plain, count));
        over_read.push(each(counts[1], |count| leases(&stage.hot[0], count)) - read);
        for (at, uses) in cold.iter_mut().enumerate() {
            cold_use[at].push(each(cold_counts[at], uses));
        }
    }
    at_most("resident key over a plain read", median(&mut over_read), 12.0, "ns");
    for (keys, rounds) in COLD.iter().zip(&mut cold_use) {
        at_most(&format!("sealed key of {keys}: unseal, use, wipe"), median(rounds), 350.0, "ns");
    }
    #[expect(clippy::cast_precision_loss, reason = "some thousands of slots, some millions of bytes")]
    let per_arena = status.slots as f64 * ARENA as f64 / status.locked_bytes as f64;
    at_least("keys per 8 MiB locked", per_arena, 6000.0, "", 0);
    threads(stage, counts[1] / 16);

    // Last, since it wipes the stage.
    let (mut starts, mut wipes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (start, wipe) = start_and_wipe()?;
        starts.push(start.as_secs_f64() * 1e3);
        wipes.push(wipe.as_secs_f64() * 1e3);
    }
    at_most("start of an arena of 8 MiB", median(&mut starts), 60.0, "ms");
    at_most("wipe of an arena of 8 MiB", median(&mut wipes), 1.0, "ms");
    Ok(())
}

/// What a second thread adds, on one key and on two, and where nothing is shared.
fn threads(stage: &Stage, count: u32) {
    let [first, second] = &stage.hot;
    let counter = AtomicUsize::new(0);
    let counts = || (0..count).for_each(|_| _ = black_box(&counter).fetch_add(1, Ordering::Relaxed));
    let mut rates = [const { Rates::new() }; 4];
    let mut rounds = 0;
    while rounds < THREAD_ROUNDS && !rates.iter().all(Rates::are_enough) {
        rounds += 1;
        rates[0].round([&|| leases(first, count), &|| leases(first, count)]);
        rates[1].round([&|| leases(first, count), &|| leases(second, count)]);
        rates[2].round([&|| computes(count), &|| computes(count)]);
        rates[3].round([&counts, &counts]);
    }
    let [one, two, nothing, word] = rates.map(Rates::gain);
    for (what, gain) in [("two threads on one key, over one", one), ("two threads on two keys, over one", two)] {
        match gain {
            Some(gain) => at_least(what, gain, 1.9, "x", 2),
            None => println!("{what:<44}{:>12}{:>14}  SKIP: too few undisturbed rounds", "-", ">= 1.9 x"),
        }
    }
    // What this machine can show at best, and what sharing looks like on it.
    for (what, gain) in
        [("two threads that share nothing, over one", nothing), ("two threads on one counter, over one", word)]
    {
        let gain = gain.map_or_else(|| "-".to_owned(), |gain| format!("{gain:.2} x"));
        println!("{what:<44}{gain:>12}{:>14}", "-");
    }
}

/// Work without memory, to see what the machine's second processor is worth.
fn computes(count: u32) {
    let mut state = 1_u64;
    for _ in 0..count {
        for _ in 0..4 {
            state = black_box(state).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
    }
    black_box(state);
}

/// Work that is done again and again by a thread of its own.
type Work<'a> = &'a (dyn Fn() + Sync);

/// How fast one thread was in each undisturbed round, and two together.
struct Rates {
    one: Vec<f64>,
    two: Vec<f64>,
}

impl Rates {
    const fn new() -> Self {
        Self { one: Vec::new(), two: Vec::new() }
    }

    fn round(&mut self, work: [Work<'_>; 2]) {
        self.one.extend(rate(&work[..1]));
        self.two.extend(rate(&work));
    }

    fn are_enough(&self) -> bool {
        self.one.len() >= 2 * ENOUGH && self.two.len() >= 2 * ENOUGH
    }

    fn gain(mut self) -> Option<f64> {
        (self.one.len() >= ENOUGH && self.two.len() >= ENOUGH).then(|| median(&mut self.two) / median(&mut self.one))
    }
}

/// Runs every piece of work in a thread of its own, all at once, and returns the sum of their rates; `None` when one of
/// them had to share its processor, or to wait while another ran.
fn rate(work: &[Work<'_>]) -> Option<f64> {
    let ready = AtomicUsize::new(0);
    let alone = |own: Work<'_>| {
        // Its first use makes what the thread has of the arena.
        own();
        ready.fetch_add(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) < work.len() {
            spin_loop();
        }
        let (on_processor, start) = (processor_time(), Instant::now());
        own();
        let (end, on_processor) = (Instant::now(), processor_time() - on_processor);
        let took = end - start;
        (on_processor.as_secs_f64() >= UNDISTURBED * took.as_secs_f64()).then_some((start, end))
    };
    let spans: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let threads: Vec<_> = work.iter().map(|work| scope.spawn(|| alone(work))).collect();
        threads.into_iter().map(|thread| thread.join().expect("leases do not panic")).collect::<Option<_>>()
    })?;
    let together =
        spans.iter().map(|span| span.1).min()?.saturating_duration_since(spans.iter().map(|span| span.0).max()?);
    let took = spans.iter().map(|(start, end)| *end - *start);
    let longest = took.clone().max()?;
    (together.as_secs_f64() >= TOGETHER * longest.as_secs_f64())
        .then(|| took.map(|took| took.as_secs_f64().recip()).sum())
}

/// How long this thread had a processor so far.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("it only grows from zero")
}

/// Finds how many operations fill a round; warms them up on the way.
fn calibrate(work: &mut impl FnMut(u32)) -> u32 {
    let mut count = 64;
    loop {
        // The shortest of three: a wait for a busy processor must not pass for slow work.
        let took = (0..3).map(|_| timed(|| work(count))).min().expect("three are not none");
        if took * 2 >= ROUND {
            return count;
        }
        count *= 2;
    }
}

/// Nanoseconds of each of `count` operations.
fn each(count: u32, mut work: impl FnMut(u32)) -> f64 {
    timed(|| work(count)).as_secs_f64() * 1e9 / f64::from(count)
}

fn median(rounds: &mut [f64]) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn at_most(what: &str, measured: f64, asked: f64, unit: &str) {
    let measured_text = format!("{measured:.2} {unit}");
    row(what, &measured_text, &format!("<= {asked} {unit}"), measured <= asked);
}

fn at_least(what: &str, measured: f64, asked: f64, unit: &str, digits: usize) {
    let measured_text = format!("{measured:.digits$} {unit}");
    row(what, &measured_text, &format!(">= {asked} {unit}"), measured >= asked);
}

fn row(what: &str, measured: &str, asked: &str, met: bool) {
    println!("{what:<44}{measured:>12}{asked:>14}  {}", if met { "met" } else { "NOT MET" });
}
