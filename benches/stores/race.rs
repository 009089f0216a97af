//! Sides that take turns: a short batch each, then the next one, in another order each round.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::side::{BenchResult, Rows, Side, TASKS};

/// A call that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Load,
    LoadLatest,
    Store,
    /// And what a store is to do once it has inserted.
    StoreAndFollowUp,
}

impl Call {
    async fn make(self, side: &dyn Side, rows: &Rows, task: usize) -> BenchResult<Duration> {
        match self {
            Self::Load | Self::LoadLatest => {
                let row = rows.any();
                let start = Instant::now();
                match self {
                    Self::Load => side.load(task, row).await?,
                    _ => side.load_latest(task, row).await?,
                }
                Ok(start.elapsed())
            }
            Self::Store | Self::StoreAndFollowUp => {
                let row = rows.fresh();
                let start = Instant::now();
                side.store(task, &row).await?;
                if self == Self::StoreAndFollowUp {
                    side.follow_up(task, &row).await?;
                }
                Ok(start.elapsed())
            }
        }
    }
}

/// Who takes part, by which call.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) side: Arc<dyn Side>,
    pub(crate) call: Call,
}

impl Entry {
    pub(crate) fn new(name: &'static str, side: &Arc<dyn Side>, call: Call) -> Self {
        Self { name, side: Arc::clone(side), call }
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amounts {
    pub(crate) rounds: usize,
    /// Calls of one task after another in a turn.
    pub(crate) batch: usize,
    /// Calls of each of [`TASKS`] in a turn.
    pub(crate) each: usize,
}

/// What was measured of an entry.
#[derive(Default)]
pub(crate) struct Times {
    /// How long each call of one task took.
    pub(crate) calls: Vec<Duration>,
    /// The middle one of each round.
    pub(crate) medians: Vec<f64>,
    /// How long the calls of all tasks took in each round, in seconds for one call.
    pub(crate) crowds: Vec<f64>,
}

/// Runs all rounds, and one before that counts for nothing.
pub(crate) async fn run(entries: &[Entry], rows: &Arc<Rows>, amounts: Amounts) -> BenchResult<Vec<Times>> {
    let mut times: Vec<Times> = entries.iter().map(|_| Times::default()).collect();
    for round in 0..=amounts.rounds {
        for place in 0..entries.len() {
            let turn = (round + place) % entries.len();
            let calls = alone(&entries[turn], rows, amounts.batch).await?;
            if round > 0 {
                let times = &mut times[turn];
                times.medians.push(percentile(&calls, 50).as_secs_f64());
                times.calls.extend(calls);
            }
        }
    }
    for round in 0..=amounts.rounds {
        for place in 0..entries.len() {
            let turn = (round + place) % entries.len();
            let took = crowd(&entries[turn], rows, amounts.each).await?;
            if round > 0 {
                let calls = TASKS * amounts.each;
                times[turn].crowds.push(took.as_secs_f64() / calls as f64);
            }
        }
    }
    Ok(times)
}

/// Has one task make calls, one after the other.
async fn alone(entry: &Entry, rows: &Arc<Rows>, calls: usize) -> BenchResult<Vec<Duration>> {
    let (entry, rows) = (entry.clone(), Arc::clone(rows));
    let task = tokio::spawn(async move {
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            times.push(entry.call.make(&*entry.side, &rows, 0).await?);
        }
        BenchResult::Ok(times)
    });
    task.await?
}

/// Has all tasks make calls at once, and returns how long it took until the last one was done.
async fn crowd(entry: &Entry, rows: &Arc<Rows>, each: usize) -> BenchResult<Duration> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (entry, rows) = (entry.clone(), Arc::clone(rows));
            tokio::spawn(async move {
                for _ in 0..each {
                    entry.call.make(&*entry.side, &rows, task).await?;
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

/// Returns what so many of a hundred did not take longer than.
pub(crate) fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Returns the middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the middle one of the ratios of each round.
pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
}
