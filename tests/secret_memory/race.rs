//! Wipes amid readers: whatever is published was made by the key.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, Thread};

use aes_gcm::aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes_gcm::aes::{Aes256, Block};
use keyward::MemoryError;
use keyward::memory::{ArenaSettings, LockedKey, SealedKey, Vault, purge};

use crate::TestResult;
use crate::key::{self, Seed};
use crate::needs::Need;
use crate::stage::{self, NO_TIME, Scenario, Stage};
use crate::suite::{Property, control};
use crate::victim::Victim;

pub(crate) const PROPERTIES: &[Property] = &[
    Property {
        name: "no ciphertext is published that a wiped key made in 3,000 closings amid readers of locked memory",
        needs: &[],
        check: || nothing_bad_is_published("mlock close"),
    },
    Property {
        name: "no ciphertext is published that a wiped key made in 3,000 closings amid readers of memfd_secret",
        needs: &[Need::MemfdSecret],
        check: || nothing_bad_is_published("memfd_secret close"),
    },
    Property {
        name: "no ciphertext is published that a wiped key made in 3,000 closings amid readers of a read-only view",
        needs: &[Need::MemfdSecret],
        check: || nothing_bad_is_published("memfd_secret close view"),
    },
    Property {
        name: "no ciphertext is published that a wiped key made in 300 wipes of everything amid readers",
        needs: &[],
        check: || nothing_bad_is_published("mlock purge"),
    },
    Property {
        name: "no ciphertext is published, and no reader faults, in 300 wipes of everything amid readers of a read-only view",
        needs: &[Need::MemfdSecret],
        check: || nothing_bad_is_published("memfd_secret view purge"),
    },
];

pub(crate) const SCENARIOS: &[Scenario] =
    &[Scenario { name: RACE, play: race }, Scenario { name: NAIVE, play: race_naively }];

const RACE: &str = "race";
const NAIVE: &str = "race-naive";

const CLOSINGS: u64 = 3_000;
const PURGES: u64 = 300;
const READERS: usize = 2;
const PLAIN: [u8; 32] = [7; 32];
const NONCE: [u8; 12] = [9; 12];

fn nothing_bad_is_published(how: &str) -> TestResult {
    let naive = tally(format_args!("{NAIVE}"))?;
    control(naive.bad > 0, &format!("readers that check, then use, publish nothing bad: {naive:?}"))?;
    let tally = tally(format_args!("{RACE} {how}"))?;
    assert_eq!(tally.bad, 0, "{tally:?}");
    assert!(tally.published > tally.rounds, "{tally:?}");
    control(tally.discarded > 0, &format!("no wipe met a reader: {tally:?}"))
}

/// What readers did.
#[derive(Debug, Default)]
struct Tally {
    rounds: usize,
    published: usize,
    /// Published, and not what the key makes.
    bad: usize,
    /// Uses that a wipe cut short.
    discarded: usize,
}

impl Tally {
    /// Counts one ciphertext; the first tells that its reader is under way.
    fn publish(&mut self, is_good: bool, start: &Start) {
        self.bad += usize::from(!is_good);
        self.published += 1;
        if self.published == 1 {
            start.reader_is_under_way();
        }
    }

    fn add(&mut self, reader: &Self) {
        self.published += reader.published;
        self.bad += reader.bad;
        self.discarded += reader.discarded;
    }
}

fn tally(scenario: fmt::Arguments<'_>) -> TestResult<Tally> {
    let mut victim = Victim::start(scenario)?;
    let counts: Vec<usize> = victim.expect("counts")?.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let &[rounds, published, bad, discarded] = counts.as_slice() else { return Err("not four counts".into()) };
    victim.end()?.well()?;
    Ok(Tally { rounds, published, bad, discarded })
}

fn report(stage: &Stage, tally: &Tally) -> TestResult {
    let Tally { rounds, published, bad, discarded } = tally;
    stage.say(format_args!("counts {rounds} {published} {bad} {discarded}"))
}

fn race(stage: &Stage) -> TestResult {
    let settings = ArenaSettings { read_only_view: stage.has("view"), ..stage::arena(stage::backend(stage)) };
    let (rounds, close) = if stage.has("purge") { (PURGES, false) } else { (CLOSINGS, true) };
    let mut tally = Tally::default();
    for round in 0..rounds {
        let vault = Vault::open(&settings)?;
        let seed = Seed(1_000 + round);
        let key = stage::import(&vault, seed)?;
        let expected = key::wrap(&seed.key(), &PLAIN, &NONCE)?;
        let start = Start::new();
        thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| read(&key, &expected, &start))).collect();
            start.wait();
            if close {
                vault.close(NO_TIME);
            } else {
                purge();
            }
            for reader in readers {
                tally.add(&reader.join().map_err(|_| "a reader panicked")??);
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
        tally.rounds += 1;
    }
    report(stage, &tally)
}

/// Publishes until the key is gone, and counts what is not as it should be.
fn read(key: &LockedKey, expected: &SealedKey, start: &Start) -> Result<Tally, MemoryError> {
    let mut tally = Tally::default();
    loop {
        let mut computed = false;
        let wrapped = key.using(|lease| {
            computed = true;
            lease.wrap(&PLAIN, &NONCE, &[])
        });
        match wrapped {
            Ok(wrapped) => tally.publish(wrapped == *expected, start),
            Err(MemoryError::Closed) => {
                tally.discarded += usize::from(computed);
                return Ok(tally);
            }
            Err(other) => return Err(other),
        }
    }
}

/// The control: readers look whether the key is still there before they use it, and not again afterwards.
fn race_naively(stage: &Stage) -> TestResult {
    const BLOCKS: usize = 64;
    let mut tally = Tally::default();
    let encrypt = |words: &[AtomicU64; 4]| -> Vec<Block> {
        let blocks = (0..BLOCKS).map(|_| {
            let mut key = [0; 32];
            for (bytes, word) in key.chunks_mut(8).zip(words) {
                bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            }
            let mut block = Block::default();
            Aes256::new(&key.into()).encrypt_block(&mut block);
            block
        });
        blocks.collect()
    };
    for round in 0..CLOSINGS {
        let words = [round + 1, 2, 3, 4].map(AtomicU64::new);
        let expected = encrypt(&words);
        let (open, start) = (AtomicBool::new(true), Start::new());
        let read = || {
            let mut tally = Tally::default();
            while open.load(Ordering::Acquire) {
                tally.publish(encrypt(&words) == expected, &start);
            }
            tally
        };
        thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
            start.wait();
            open.store(false, Ordering::Release);
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            for reader in readers {
                tally.add(&reader.join().map_err(|_| "a reader panicked")?);
            }
            Ok::<_, &str>(())
        })?;
        tally.rounds += 1;
        if tally.bad > 0 {
            break;
        }
    }
    report(stage, &tally)
}

/// Tells the thread that made it when all readers are under way. It sleeps until then, so that they have the processors.
struct Start {
    under_way: AtomicUsize,
    waiter: Thread,
}

impl Start {
    fn new() -> Self {
        Self { under_way: AtomicUsize::new(0), waiter: thread::current() }
    }

    fn reader_is_under_way(&self) {
        if self.under_way.fetch_add(1, Ordering::AcqRel) + 1 == READERS {
            self.waiter.unpark();
        }
    }

    fn wait(&self) {
        while self.under_way.load(Ordering::Acquire) < READERS {
            thread::park();
        }
    }
}
