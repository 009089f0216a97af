//! Partitions that nobody has encrypted for before: a key is looked for, made, and stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use keyward::kms::StaticKms;
use keyward::{SessionFactory, TOMBSTONE_CREATED};
use tokio_postgres::{Config, NoTls};

use crate::postgres::{EXACT, INSERT, LATEST, connect, read, start, time};
use crate::race::{median, ratio};
use crate::side::{BenchResult, Row, Rows, TASKS, expect_one};

/// Partitions that begin at once, and how many of them do, one after the other, in a turn.
const AT_ONCE: usize = 64;
const EACH: usize = 8;
const ROUNDS: usize = 20;

/// What is wanted: so many partitions per second, or this part of what the driver does, whichever is less.
const RATE: f64 = 2000.0;
const PART: f64 = 0.8;

pub(crate) async fn measure() -> BenchResult {
    let Some((_server, url)) = start().await? else { return Ok(()) };
    let factory = SessionFactory::builder("my-service", "my-product")
        .metastore(connect(&url).await?)
        .kms(StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?)
        .build()
        .await?;
    let sides: [(&str, Arc<dyn Beginner>); 3] = [
        ("keyward", Arc::new(factory.clone())),
        ("tokio-postgres, SELECT, INSERT, SELECT of a tombstone", Arc::new(Driver::new(&url, true)?)),
        ("tokio-postgres, SELECT, INSERT", Arc::new(Driver::new(&url, false)?)),
    ];
    let (rows, mut times) = (Rows::new(), [const { Vec::new() }; 3]);
    // The first round is for connections, statements and the system key; it counts for nothing.
    for round in 0..=ROUNDS {
        for place in 0..sides.len() {
            let turn = (round + place) % sides.len();
            let took = crowd(&sides[turn].1, &rows).await?.as_secs_f64();
            if round > 0 {
                times[turn].push(took / (AT_ONCE * EACH) as f64);
            }
        }
    }
    factory.close().await?;
    println!("\nCold partitions on PostgreSQL, synced, with a pool of {TASKS} and {AT_ONCE} tasks");
    for ((name, _), times) in sides.iter().zip(&times) {
        println!("{name:<65}{:>10.0}/s", 1.0 / median(times.clone()));
    }
    for (at, ((name, _), theirs)) in sides.iter().zip(&times).enumerate().skip(1) {
        let target = if at == 1 { format!("   (target: {PART}, or {RATE}/s)") } else { String::new() };
        println!("{:<65}{:>10.2}{target}", format!("over {name}"), ratio(theirs, &times[0]));
    }
    Ok(())
}

/// Has all tasks begin partitions, and returns how long it took until the last one was done.
async fn crowd(side: &Arc<dyn Beginner>, rows: &Arc<Rows>) -> BenchResult<Duration> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (side, rows) = (Arc::clone(side), Arc::clone(rows));
            tokio::spawn(async move {
                for _ in 0..EACH {
                    side.begin(&rows.fresh()).await?;
                }
                BenchResult::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(start.elapsed())
}

/// What begins the partition of a row.
#[async_trait]
trait Beginner: Send + Sync {
    async fn begin(&self, row: &Row) -> BenchResult;
}

#[async_trait]
impl Beginner for SessionFactory {
    async fn begin(&self, row: &Row) -> BenchResult {
        self.session(&row.partition).await?.encrypt(&[0x5a; 64]).await?;
        Ok(())
    }
}

/// A pool, and what it sends.
struct Driver {
    pool: Pool,
    looks_for_tombstone: bool,
}

impl Driver {
    fn new(url: &str, looks_for_tombstone: bool) -> BenchResult<Self> {
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(url.parse::<Config>()?, NoTls, recycling);
        let pool = Pool::builder(manager).max_size(TASKS).build()?;
        Ok(Self { pool, looks_for_tombstone })
    }
}

#[async_trait]
impl Beginner for Driver {
    async fn begin(&self, row: &Row) -> BenchResult {
        let (id, created) = (row.key.id.as_str(), time(row.key.created)?);
        let client = self.pool.get().await?;
        let latest = client.prepare_cached(LATEST).await?;
        let found = client.query(&latest, &[&id]).await?;
        expect_one(found.first().map(read).transpose()?.is_none())?;
        let insert = client.prepare_cached(INSERT).await?;
        expect_one(client.execute(&insert, &[&id, &created, &row.text]).await? == 1)?;
        if self.looks_for_tombstone {
            let exact = client.prepare_cached(EXACT).await?;
            expect_one(client.query(&exact, &[&id, &time(TOMBSTONE_CREATED)?]).await?.is_empty())?;
        }
        Ok(())
    }
}
