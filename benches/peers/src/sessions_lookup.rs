//! Sessions of many partitions, looked up for every operation, as a service does that serves them all.
//!
//! Partitions take turns in an order that says nothing of how they lie in memory. All keys are resident if there is locked
//! memory for them; where there is not, unsealing keys is part of every operation, and the run says so. The peer's sessions
//! leave by LRU: its default, SLRU, goes through all sessions whenever one is used for the second time.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use asherah::aead::AES256GCM;
use asherah::api::new_session_factory;
use asherah::kms::StaticKMS;
use asherah::metastore::InMemoryMetastore as PeerMetastore;
use keyward::memory::ArenaSettings;
use keyward::stores::InMemoryMetastore;
use keyward::{CryptoPolicy, Session, SessionFactory, kms::StaticKms};
use tokio::runtime::{Builder, Runtime};

use crate::{Case, measure, median};

const MASTER_KEY: &[u8; 32] = b"thisIsAStaticMasterKeyForTesting";
const PAYLOAD: [u8; 64] = [0x5a; 64];

const PARTITIONS: [usize; 2] = [1_000, 100_000];

/// Bytes of locked memory for each key, generously.
const BYTES_PER_KEY: usize = 512;

type PeerFactory = asherah::SessionFactory<AES256GCM, StaticKMS<AES256GCM>, PeerMetastore>;

pub fn run() -> anyhow::Result<()> {
    let most = PARTITIONS[PARTITIONS.len() - 1];
    let arena = keyward::memory::init(&ArenaSettings { bytes: most * BYTES_PER_KEY, ..ArenaSettings::default() })?;
    if arena.slots < most {
        println!(
            "REMARK: locked memory holds {} keys (lock limit {} bytes): with more partitions, operations unseal keys",
            arena.slots, arena.hard_limit
        );
    }
    println!("Nanoseconds per operation. encrypt: JSON of {} B; open: a session is opened and dropped.", PAYLOAD.len());
    print!("{:<12}{:>12}{:>18}{:>15}", "operation", "partitions", "ours, looked up", "ours, held");
    println!("{:>14}{:>18}{:>17}", "look-up costs", "asherah", "asherah/ours");
    for partitions in PARTITIONS {
        let ids = shuffled(partitions);
        let ours = Ours::open(&ids)?;
        let theirs = open_theirs(&ids)?;
        row("encrypt", partitions, [ours.encrypt_looked_up(&ids), ours.encrypt_held(), encrypt_theirs(&theirs, &ids)])?;
        row("open", partitions, [ours.open_looked_up(&ids), ours.open_held(), open_theirs_alone(&theirs, &ids)])?;
        let memory = ours.factory.status().memory;
        println!("keyward's keys: {} resident, {} sealed", memory.hot, memory.cold);
        ours.close()?;
        theirs.close()?;
    }
    Ok(())
}

/// Measures looking up, holding and the peer; what a look-up costs is the median of the differences of neighbours in time.
fn row(name: &str, partitions: usize, cases: [Case<'_>; 3]) -> anyhow::Result<()> {
    let [looked_up, held, peer] = measure(cases)?;
    let costs = median(looked_up.iter().zip(&held).map(|(looked_up, held)| looked_up - held).collect());
    let [looked_up, held, peer] = [looked_up, held, peer].map(median);
    print!("{name:<12}{partitions:>12}{looked_up:>18.1}{held:>15.1}");
    println!("{costs:>14.1}{peer:>18.1}{:>17.2}", peer / looked_up);
    Ok(())
}

/// The ids of partitions in the order of their use; the same one in every run.
fn shuffled(partitions: usize) -> Vec<String> {
    let mut numbers: Vec<usize> = (0..partitions).collect();
    let mut state: u64 = 1;
    for last in (1..partitions).rev() {
        // xorshift64, <https://www.jstatsoft.org/article/view/v008i14>.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        numbers.swap(last, (state % (last as u64 + 1)) as usize);
    }
    numbers.into_iter().map(|number| format!("partition-{number:06}")).collect()
}

/// Takes things in turn and goes on, the next time, where it stopped: what was used last is not what is used next.
struct Turns<'a, T> {
    things: &'a [T],
    next: Cell<usize>,
}

impl<'a, T> Turns<'a, T> {
    fn new(things: &'a [T]) -> Self {
        Self { things, next: Cell::new(0) }
    }

    #[inline]
    fn next(&self) -> &'a T {
        let at = self.next.get();
        self.next.set(if at + 1 == self.things.len() { 0 } else { at + 1 });
        black_box(&self.things[at])
    }
}

struct Ours {
    runtime: Runtime,
    factory: SessionFactory,
    /// One of each partition, in the order of use.
    held: Vec<Session>,
}

impl Ours {
    fn open(ids: &[String]) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let policy = CryptoPolicy {
            cache_sessions: true,
            session_cache_size: ids.len() * 2,
            intermediate_key_cache_size: ids.len() * 2,
            ..CryptoPolicy::default()
        };
        let (factory, held) = runtime.block_on(async {
            let factory = SessionFactory::builder("my-service", "my-product")
                .metastore(InMemoryMetastore::new())
                .kms(StaticKms::new(MASTER_KEY)?)
                .policy(policy)
                .build()
                .await?;
            // Made in another order than that of their use.
            let mut sorted: Vec<&String> = ids.iter().collect();
            sorted.sort();
            for id in sorted {
                factory.session(id).await?.encrypt_json(&PAYLOAD).await?;
            }
            let mut held = Vec::new();
            for id in ids {
                held.push(factory.session(id).await?);
            }
            anyhow::Ok((factory, held))
        })?;
        ensure!(factory.status().open_sessions == ids.len(), "sessions left the cache");
        Ok(Self { runtime, factory, held })
    }

    fn encrypt_looked_up<'a>(&'a self, ids: &'a [String]) -> Case<'a> {
        let turns = Turns::new(ids);
        Box::new(move |count| {
            self.runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..count {
                    let session = self.factory.session(turns.next()).await?;
                    black_box(session.encrypt_json(black_box(&PAYLOAD)).await?);
                }
                Ok(start.elapsed())
            })
        })
    }

    fn encrypt_held(&self) -> Case<'_> {
        let turns = Turns::new(&self.held);
        Box::new(move |count| {
            self.runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..count {
                    black_box(turns.next().encrypt_json(black_box(&PAYLOAD)).await?);
                }
                Ok(start.elapsed())
            })
        })
    }

    fn open_looked_up<'a>(&'a self, ids: &'a [String]) -> Case<'a> {
        let turns = Turns::new(ids);
        Box::new(move |count| {
            self.runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..count {
                    black_box(self.factory.session(turns.next()).await?);
                }
                Ok(start.elapsed())
            })
        })
    }

    fn open_held(&self) -> Case<'_> {
        let turns = Turns::new(&self.held);
        Box::new(move |count| {
            let start = Instant::now();
            for _ in 0..count {
                black_box(turns.next().clone());
            }
            Ok(start.elapsed())
        })
    }

    fn close(self) -> anyhow::Result<()> {
        let Self { runtime, factory, held } = self;
        drop(held);
        runtime.block_on(factory.close())?;
        Ok(())
    }
}

fn open_theirs(ids: &[String]) -> anyhow::Result<PeerFactory> {
    let crypto = Arc::new(AES256GCM::new());
    let kms = Arc::new(StaticKMS::new(Arc::clone(&crypto), MASTER_KEY.to_vec())?);
    let policy = asherah::CryptoPolicy {
        cache_sessions: true,
        session_cache_max_size: ids.len() * 2,
        session_cache_eviction_policy: "lru".to_owned(),
        intermediate_key_cache_max_size: ids.len() * 2,
        ..asherah::CryptoPolicy::default()
    };
    let config = asherah::Config::new("my-service", "my-product").with_policy(policy);
    let factory = new_session_factory(config, Arc::new(PeerMetastore::new()), kms, crypto);
    let mut sorted: Vec<&String> = ids.iter().collect();
    sorted.sort();
    for id in sorted {
        factory.get_session(id).encrypt(&PAYLOAD)?;
    }
    Ok(factory)
}

fn encrypt_theirs<'a>(factory: &'a PeerFactory, ids: &'a [String]) -> Case<'a> {
    let turns = Turns::new(ids);
    Box::new(move |count| {
        let start = Instant::now();
        for _ in 0..count {
            black_box(factory.get_session(turns.next()).encrypt(black_box(&PAYLOAD))?.to_json_fast());
        }
        Ok(start.elapsed())
    })
}

fn open_theirs_alone<'a>(factory: &'a PeerFactory, ids: &'a [String]) -> Case<'a> {
    let turns = Turns::new(ids);
    Box::new(move |count| {
        let start = Instant::now();
        for _ in 0..count {
            black_box(factory.get_session(turns.next()));
        }
        Ok(start.elapsed())
    })
}
