//! Keys in secret memory: keyward's leases beside `open` of the crate `hardware-enclave`, and keyward's secrets beside
//! those of Go's `securememory`.
//!
//! A lease computes with a key that stays where it is; `open` copies the 32 bytes out. So they are also compared with a wrap
//! of the key under another one, for which keyward unseals it and lends its 32 bytes: the wrap itself is part of its time.

use std::hint::black_box;
use std::io::Read;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use hardware_enclave::MemoryEnclave;
use keyward::memory::{ArenaSettings, GuardedMemoryFactory, LockedKey, ProtectedMemoryFactory, SecretFactory, Vault};

use crate::go_side::Go;
use crate::{Case, compare};

/// How many keys are opened in turn: more than the peer keeps ready.
const MANY: usize = 200;

pub fn run() -> anyhow::Result<()> {
    let vault = Vault::open(&ArenaSettings::default())?;
    beside_enclaves(&vault)?;
    println!();
    match Go::build()? {
        Some(go) => beside_go(&vault, &go)?,
        None => println!("SKIP Go's securememory: there is no go on PATH"),
    }
    vault.close(Duration::ZERO);
    Ok(())
}

fn beside_enclaves(vault: &Vault) -> anyhow::Result<()> {
    println!("hardware-enclave over keyward, how many times the time");
    println!("{:<34}{:>10}{:>16}{:>14}", "open of", "a lease", "bytes + a wrap", "sealed lease");
    // The oldest keys give their slots to the fillers, and none of them gets one again.
    let sealed = keys(vault, MANY)?;
    let _fillers = keys(vault, vault.status().slots + MANY)?;
    let demoted = vault.status().demotions;
    ensure!(demoted >= MANY as u64, "only {demoted} keys lost their slots");
    let resident = keys(vault, MANY)?;
    let parent = vault.generate(b"parent")?;
    let enclaves = (0..MANY).map(|at| MemoryEnclave::seal(&[at as u8; 32])).collect::<Result<Vec<_>, _>>()?;

    let wrap = |key: &Arc<LockedKey>| {
        black_box(parent.wrap(key, &[1; 12])?);
        Ok(())
    };
    let open = |enclave: &MemoryEnclave| {
        black_box(enclave.open()?.as_slice());
        Ok(())
    };
    for count in [1, MANY] {
        for threads in [1, 2] {
            let [leased, wrapped, unsealed, theirs] = compare([
                in_turn(&resident[..count], threads, lease),
                in_turn(&resident[..count], threads, wrap),
                in_turn(&sealed[..count], threads, lease),
                in_turn(&enclaves[..count], threads, open),
            ])?;
            let what = format!("{}, {}", plural(count, "key"), plural(threads, "thread"));
            let [leased, wrapped, unsealed] = [leased, wrapped, unsealed].map(|ours| theirs / ours);
            println!("{what:<34}{leased:>10.2}{wrapped:>16.2}{unsealed:>14.2}");
        }
    }
    Ok(())
}

fn beside_go(vault: &Vault, go: &Go) -> anyhow::Result<()> {
    println!("Go's securememory over keyward, how many times the time");
    println!("{:<34}{:>18}{:>18}", "operation", "the same", "a key in a vault");
    let key = vault.generate(b"key")?;
    let factories: [(&str, &dyn SecretFactory); 2] =
        [("protected", &ProtectedMemoryFactory), ("guarded", &GuardedMemoryFactory::default())];
    for (kind, factory) in factories {
        let (factory, key) = ([factory], std::slice::from_ref(&key));
        let secrets = [factory[0].create(&mut [7; 32])?];
        for (benchmark, threads) in [("Sequential", 1), ("Parallel", 2)] {
            let lent = in_turn(&secrets, threads, |secret| {
                Ok(secret.with_bytes(&mut |bytes| {
                    black_box(bytes[0]);
                })?)
            });
            let [lent, leased, theirs] = compare([lent, in_turn(key, threads, lease), go.case(benchmark, kind)])?;
            print(benchmark, kind, &[theirs / lent, theirs / leased]);
        }
        let create = in_turn(&factory, 1, |factory| Ok(factory.create(&mut [7; 32])?.close()?));
        let import = in_turn(std::slice::from_ref(vault), 1, |vault| {
            black_box(vault.import(b"key", &mut [7; 32])?);
            Ok(())
        });
        let [created, imported, theirs] = compare([create, import, go.case("Create", kind)])?;
        print("Create", kind, &[theirs / created, theirs / imported]);
        let read = in_turn(&secrets, 1, |secret| {
            let mut into = [0; 32];
            secret.reader().read_exact(&mut into)?;
            ensure!(black_box(into) == [7; 32], "the reader read something else");
            Ok(())
        });
        let [read, theirs] = compare([read, go.case("Reader", kind)])?;
        print("Reader", kind, &[theirs / read]);
    }
    Ok(())
}

fn print(benchmark: &str, kind: &str, ratios: &[f64]) {
    let ratios: String = ratios.iter().map(|ratio| format!("{ratio:>18.2}")).collect();
    println!("{:<34}{ratios}", format!("{} {kind}", benchmark.to_lowercase()));
}

/// Borrows the key and does nothing with it.
fn lease(key: &Arc<LockedKey>) -> anyhow::Result<()> {
    Ok(key.using(|lease| {
        black_box(lease);
    })?)
}

fn keys(vault: &Vault, count: usize) -> anyhow::Result<Vec<Arc<LockedKey>>> {
    (0..count).map(|_| Ok(vault.generate(b"key")?)).collect()
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Does `work` with each thing in turn, in so many threads at once that share the count.
fn in_turn<'a, T: Sync>(
    things: &'a [T],
    threads: usize,
    work: impl Fn(&T) -> anyhow::Result<()> + Copy + Send + Sync + 'a,
) -> Case<'a> {
    let run = move |first: usize, count: usize| -> anyhow::Result<()> {
        things.iter().cycle().skip(first).take(count).try_for_each(|thing| work(black_box(thing)))
    };
    Box::new(move |count| {
        let count = count as usize;
        let start = Instant::now();
        if threads == 1 {
            run(0, count)?;
        } else {
            thread::scope(|scope| {
                // Each begins elsewhere, so that they do not follow each other.
                let share = |thread| run(thread * things.len() / threads, (count + thread) / threads);
                let others: Vec<_> = (0..threads).map(|thread| scope.spawn(move || share(thread))).collect();
                others.into_iter().try_for_each(|other| other.join().expect("nothing panics"))
            })?;
        }
        Ok(start.elapsed())
    })
}
