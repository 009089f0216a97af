//! What is measured of a store, and how it is printed.

use std::sync::Arc;

use crate::race::{Amounts, Call, Entry, Times, median, percentile, ratio, run};
use crate::side::{BenchResult, Rows, Side, TASKS};

/// What a call may take, as a multiple of what the bare driver takes.
const TARGET: f64 = 1.15;

/// A store and bare drivers, of which the first counts.
pub(crate) struct Contest {
    /// What the server is and does.
    pub(crate) title: &'static str,
    pub(crate) ours: Arc<dyn Side>,
    /// Who loads, beside ours.
    pub(crate) loads: Vec<(&'static str, Arc<dyn Side>)>,
    /// Who stores.
    pub(crate) stores: Vec<Entry>,
    pub(crate) load_amounts: Amounts,
    pub(crate) store_amounts: Amounts,
}

impl Contest {
    /// Measures all calls. The rows are to be there for everybody.
    pub(crate) async fn run(&self, rows: &Arc<Rows>) -> BenchResult {
        println!("\n{}", self.title);
        println!("p50 and p99 of one task; the time for one call where {TASKS} tasks make calls at once");
        println!("{:<13}{:<52}{:>10}{:>10}{:>12}", "", "", "p50", "p99", "all at once");
        for (name, call) in [("load", Call::Load), ("load latest", Call::LoadLatest)] {
            let others = self.loads.iter().map(|(name, side)| Entry::new(name, side, call)).collect();
            self.race(name, call, others, rows, self.load_amounts).await?;
        }
        self.race("store", Call::Store, self.stores.clone(), rows, self.store_amounts).await
    }

    async fn race(
        &self,
        name: &str,
        call: Call,
        others: Vec<Entry>,
        rows: &Arc<Rows>,
        amounts: Amounts,
    ) -> BenchResult {
        let mut entries = vec![Entry::new("keyward", &self.ours, call)];
        entries.extend(others);
        report(name, &entries, &run(&entries, rows, amounts).await?);
        Ok(())
    }
}

fn report(call: &str, entries: &[Entry], times: &[Times]) {
    let tail = |times: &Times| percentile(&times.calls, 99).as_secs_f64();
    for (at, (entry, times)) in entries.iter().zip(times).enumerate() {
        let p50 = percentile(&times.calls, 50).as_secs_f64();
        let crowd = median(times.crowds.clone());
        let call = if at == 0 { call } else { "" };
        println!("{call:<13}{:<52}{:>10}{:>10}{:>12}", entry.name, text(p50), text(tail(times)), text(crowd));
    }
    let ours = &times[0];
    for (at, (entry, theirs)) in entries.iter().zip(times).enumerate().skip(1) {
        let p50 = ratio(&ours.medians, &theirs.medians);
        let p99 = tail(ours) / tail(theirs);
        let crowd = ratio(&ours.crowds, &theirs.crowds);
        let target = if at == 1 { format!("   (target: {TARGET})") } else { String::new() };
        println!("{:<13}{:<52}{p50:>10.2}{p99:>10.2}{crowd:>12.2}{target}", "", format!("over {}", entry.name));
    }
}

/// A time in the unit that suits it.
fn text(seconds: f64) -> String {
    if seconds < 0.01 { format!("{:.1} us", seconds * 1e6) } else { format!("{:.1} ms", seconds * 1e3) }
}
