//! What secret memory costs: a lease of a key that is ready, the use of one that is sealed, the start and the wipe of an arena,
//! and what two threads make of one key.
//!
//! Criterion measures each by itself. The table at the end is measured apart, the cases taking turns, as medians, and holds
//! the ones with a target against it.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use keyward::memory::{
    ArenaSettings, Buffer, Enclave, GuardedMemoryFactory, LockedKey, ProtectedMemoryFactory, SecretExt, SecretFactory,
    Vault, init, purge,
};

type BenchResult<T> = Result<T, Box<dyn std::error::Error>>;

const ARENA: usize = 8 << 20;
const ROUNDS: usize = 31;
const ROUND: u32 = 200_000;

fn main() -> BenchResult<()> {
    let vault = Vault::open(&ArenaSettings { bytes: ARENA, ..ArenaSettings::default() })?;
    let key = vault.generate(b"key")?;
    let plain = Box::new([7_u8; 32]);
    let slots = vault.status().slots;
    // Twice as many as fit: of the first half, none is resident any more.
    let crowd = (0..2 * slots).map(|_| vault.generate(b"crowd")).collect::<Result<Vec<_>, _>>()?;
    let cold = &crowd[..slots / 2];
    vault.promote(&key)?;

    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("plain read", |bencher| bencher.iter(|| read(black_box(&plain))));
    criterion.bench_function("lease of a resident key", |bencher| bencher.iter(|| lease(&key)));
    criterion.bench_function("wrap under a resident key", |bencher| {
        bencher.iter(|| key.using(|lease| lease.wrap(&plain, &[1; 12], &[])));
    });
    let mut turn = cold.iter().cycle();
    criterion.bench_function("use of a sealed key", |bencher| bencher.iter(|| turn.next().map(lease)));
    single_secrets(&mut criterion)?;
    criterion.final_summary();

    let rows = [
        lease_over_read(&key, &plain),
        sealed_use(cold),
        two_threads("two threads, one key, over one thread", &key, &key),
        two_threads("two threads, two keys, over one thread", &key, crowd.last().ok_or("no keys")?),
        Row { what: "keys ready for use in 8 MiB", measured: slots as f64, unit: "", target: 6_000.0, more: true },
    ];
    drop((key, vault));
    let arenas = arenas()?;
    println!("\n{:<42}{:>14}{:>14}", "median of interleaved rounds", "measured", "target");
    for Row { what, measured, unit, target, more } in rows.into_iter().chain(arenas) {
        let (sign, met) = if more { ("≥", measured >= target) } else { ("≤", measured <= target) };
        let met = if met { "met" } else { "NOT MET" };
        println!("{what:<42}{measured:>10.1} {unit:<3}{sign:>4} {target:>6.1} {unit:<3} {met}");
    }
    Ok(())
}

/// One line of the table.
struct Row {
    what: &'static str,
    measured: f64,
    unit: &'static str,
    target: f64,
    more: bool,
}

#[inline(never)]
fn read(bytes: &[u8; 32]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum ^ byte)
}

/// Leases the key and does nothing with it: its bytes are lent to nobody.
#[inline(never)]
fn lease(key: &Arc<LockedKey>) -> bool {
    key.using(|lease| sink(lease)).is_ok()
}

fn sink<T>(value: T) {
    black_box(value);
}

fn single_secrets(criterion: &mut Criterion) -> BenchResult<()> {
    let factories: [(&str, &dyn SecretFactory); 2] =
        [("protected", &ProtectedMemoryFactory), ("guarded", &GuardedMemoryFactory::default())];
    for (name, factory) in factories {
        let secret = factory.random(32)?;
        criterion.bench_function(&format!("{name} secret: use"), |bencher| {
            bencher.iter(|| secret.with(|bytes| black_box(bytes)[0]));
        });
        criterion.bench_function(&format!("{name} secret: make and close"), |bencher| {
            bencher.iter(|| factory.create(&mut [7; 32]).and_then(|secret| secret.close()));
        });
        criterion.bench_function(&format!("{name} secret: read all"), |bencher| {
            let mut bytes = [0; 32];
            bencher.iter(|| std::io::Read::read_exact(&mut secret.reader(), &mut bytes));
        });
    }
    criterion.bench_function("buffer: make and destroy", |bencher| {
        bencher.iter(|| Buffer::from_bytes(&mut [7; 32]).and_then(Buffer::destroy));
    });
    let enclave = Enclave::random(32)?;
    criterion.bench_function("enclave: seal", |bencher| {
        bencher.iter_batched_ref(|| [7; 32], |bytes| Enclave::new(bytes), BatchSize::SmallInput);
    });
    criterion.bench_function("enclave: open", |bencher| bencher.iter(|| enclave.open()));
    Ok(())
}

/// Runs `operation` a round's number of times and returns nanoseconds for each.
fn round(mut operation: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..ROUND).for_each(|_| operation());
    nanoseconds(start.elapsed()) / f64::from(ROUND)
}

fn lease_over_read(key: &Arc<LockedKey>, plain: &[u8; 32]) -> Row {
    let over = (0..ROUNDS).map(|_| {
        let plain = round(|| sink(read(black_box(plain))));
        round(|| sink(lease(key))) - plain
    });
    Row { what: "lease over a plain read", measured: median(over), unit: "ns", target: 12.0, more: false }
}

fn sealed_use(keys: &[Arc<LockedKey>]) -> Row {
    let mut turn = keys.iter().cycle();
    let rounds = (0..ROUNDS).map(|_| round(|| sink(turn.next().map(lease))));
    Row { what: "use of a sealed key", measured: median(rounds), unit: "ns", target: 350.0, more: false }
}

/// How much more two threads do than one in the same time.
fn two_threads(what: &'static str, one: &Arc<LockedKey>, other: &Arc<LockedKey>) -> Row {
    const TIMES: u32 = 20;
    let work = |key: &Arc<LockedKey>| (0..TIMES).for_each(|_| sink(round(|| sink(lease(key)))));
    let ratios = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        work(one);
        let alone = start.elapsed();
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| work(one));
            work(other);
        });
        2.0 * alone.as_secs_f64() / start.elapsed().as_secs_f64()
    });
    Row { what, measured: median(ratios), unit: "x", target: 1.9, more: true }
}

/// Wipes everything and maps the arena anew, as often as it takes.
fn arenas() -> BenchResult<[Row; 2]> {
    let settings = ArenaSettings { bytes: ARENA, ..ArenaSettings::default() };
    let (mut starts, mut wipes) = (Vec::new(), Vec::new());
    purge();
    for _ in 0..9 {
        let start = Instant::now();
        init(&settings)?;
        starts.push(milliseconds(start.elapsed()));
        let start = Instant::now();
        black_box(purge());
        wipes.push(milliseconds(start.elapsed()));
    }
    let row = |what, rounds, target| Row { what, measured: median(rounds), unit: "ms", target, more: false };
    Ok([
        row("start of an 8 MiB arena", starts.into_iter(), 60.0),
        row("wipe of an 8 MiB arena", wipes.into_iter(), 1.0),
    ])
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(rounds: impl Iterator<Item = f64>) -> f64 {
    let mut rounds: Vec<f64> = rounds.collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}
