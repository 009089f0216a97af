//! Keys and secrets in memory: keyward's beside those of `hardware-enclave`, which `asherah` uses, and those of Go.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hardware_enclave::MemoryEnclave;
use keyward::memory::{
    ArenaSettings, Enclave, GuardedMemoryFactory, LockedKey, ProtectedMemoryFactory, SecretExt, SecretFactory, Vault,
};

use crate::go_side::Go;
use crate::timing::{Case, calibrate, compare, median, per_operation};

const KEYS: usize = 200;
const GO_ROUNDS: usize = 5;

pub(crate) fn run() -> anyhow::Result<()> {
    println!("{:<44}{:>14}{:>14}{:>14}", "a key of 32 bytes", "keyward ns", "peer ns", "peer/keyward");
    beside_hardware_enclave()?;
    match Go::build()? {
        Some(go) => beside_go(&go),
        None => {
            println!("SKIP Go: no go on PATH");
            Ok(())
        }
    }
}

fn print(what: &str, ours: f64, theirs: f64) {
    println!("{what:<44}{ours:>14.1}{theirs:>14.1}{:>14.2}", theirs / ours);
}

/// What a program does with a key that it has: a lease on this side, an opened copy on the other.
fn beside_hardware_enclave() -> anyhow::Result<()> {
    let vault = Vault::open(&ArenaSettings::default())?;
    let keys = (0..KEYS).map(|_| vault.generate(b"key")).collect::<Result<Vec<_>, _>>()?;
    let sealed = (0..KEYS).map(|_| MemoryEnclave::seal(&[7; 32])).collect::<Result<Vec<_>, _>>()?;
    let enclaves = (0..KEYS).map(|_| Enclave::new(&mut [7; 32])).collect::<Result<Vec<_>, _>>()?;
    for threads in [1, 2] {
        for (what, count) in [("one hot key", 1), ("200 keys in turn", KEYS)] {
            let ours = in_threads(threads, keys[..count].iter().map(lease));
            let theirs = in_threads(threads, sealed[..count].iter().map(open));
            let (ours, theirs) = compare(ours, theirs)?;
            print(&format!("{what}, {threads} thread(s): lease / open"), ours, theirs);
        }
    }
    let ours = in_threads(1, enclaves.iter().map(|enclave| move || black_box(enclave.open()).is_ok()));
    let (ours, theirs) = compare(ours, in_threads(1, sealed.iter().map(open)))?;
    print("200 secrets in turn: enclave / open", ours, theirs);
    Ok(())
}

fn lease(key: &Arc<LockedKey>) -> impl Fn() -> bool + Copy + Send + '_ {
    move || {
        let used = key.using(|lease| {
            black_box(lease);
        });
        used.is_ok()
    }
}

fn open(enclave: &MemoryEnclave) -> impl Fn() -> bool + Copy + Send + '_ {
    move || black_box(enclave.open()).is_ok_and(|slot| black_box(slot.as_slice())[0] == 7)
}

/// Does each of `operations` in turn, on every thread.
fn in_threads<'a, F>(threads: usize, operations: impl Iterator<Item = F>) -> Case<'a>
where
    F: Fn() -> bool + Copy + Send + Sync + 'a,
{
    let operations: Vec<F> = operations.collect();
    Box::new(move |count| {
        let work = || (0..count).zip(operations.iter().cycle()).all(|(_, operation)| operation());
        let start = Instant::now();
        let worked = if threads == 1 {
            work()
        } else {
            thread::scope(|scope| {
                let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
                work() & others.into_iter().all(|other| other.join().unwrap_or(false))
            })
        };
        anyhow::ensure!(worked, "an operation failed");
        Ok(start.elapsed())
    })
}

/// Single secrets with pages of their own, by the same operations as `go/secret_test.go`.
fn beside_go(go: &Go) -> anyhow::Result<()> {
    let factories: [(&str, &dyn SecretFactory); 2] =
        [("protected", &ProtectedMemoryFactory), ("guarded", &GuardedMemoryFactory::default())];
    let mut ours = Vec::new();
    for (name, factory) in factories {
        let secret: Arc<dyn keyward::memory::Secret> = factory.random(32)?.into();
        let (used, shared, read) = (Arc::clone(&secret), Arc::clone(&secret), Arc::clone(&secret));
        ours.push((format!("Use/{name}"), case(move || used.with(|bytes| black_box(bytes)[0]).is_ok())));
        ours.push((format!("ParallelUse/{name}"), parallel(shared)));
        let make = move || factory.create(&mut [7; 32]).and_then(|secret| secret.close()).is_ok();
        ours.push((format!("Make/{name}"), case(make)));
        let mut into = [0; 32];
        let read = move || std::io::Read::read_exact(&mut read.reader(), &mut into).is_ok();
        ours.push((format!("Read/{name}"), case(read)));
    }
    let counts = ours.iter_mut().map(|(_, case)| calibrate(case)).collect::<Result<Vec<_>, _>>()?;
    let mut rounds: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); ours.len()];
    for _ in 0..GO_ROUNDS {
        let theirs = go.run()?;
        for (((name, case), count), (our_rounds, their_rounds)) in ours.iter_mut().zip(&counts).zip(&mut rounds) {
            our_rounds.push(per_operation(case, *count)?);
            let Some(time) = theirs.get(name.as_str()) else { anyhow::bail!("Go did not measure {name}") };
            their_rounds.push(*time);
        }
    }
    for ((name, _), (ours, theirs)) in ours.into_iter().zip(rounds) {
        print(&format!("Go: {name}"), median(ours), median(theirs));
    }
    Ok(())
}

fn case<'a>(mut operation: impl FnMut() -> bool + 'a) -> Case<'a> {
    Box::new(move |count| {
        let start = Instant::now();
        anyhow::ensure!((0..count).all(|_| operation()), "an operation failed");
        Ok(start.elapsed())
    })
}

/// As Go counts: the time over the uses of all threads together.
fn parallel<'a>(secret: Arc<dyn keyward::memory::Secret>) -> Case<'a> {
    Box::new(move |count| {
        let work = |count: u32| (0..count).all(|_| secret.with(|_| ()).is_ok());
        let start = Instant::now();
        let worked = thread::scope(|scope| {
            let other = scope.spawn(|| work(count / 2));
            work(count - count / 2) & other.join().unwrap_or(false)
        });
        anyhow::ensure!(worked, "a use failed");
        Ok(start.elapsed().max(Duration::from_nanos(1)))
    })
}
