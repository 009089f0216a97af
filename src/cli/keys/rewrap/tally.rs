//! Counts records by the key that they were under.

use std::collections::BTreeMap;

use keyward::KeyMeta;

use crate::cli::table::{columns, printable};
use crate::cli::time::Time;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Rewrapped,
    Unchanged,
    Failed,
}

#[derive(Default)]
pub(super) struct Tally {
    keys: BTreeMap<KeyMeta, Counts>,
    /// Lines that are no records.
    others: Counts,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    rewrapped: u64,
    unchanged: u64,
    failed: u64,
}

impl Tally {
    /// Counts a record under `key`, or a line that is none.
    pub(super) fn count(&mut self, key: Option<KeyMeta>, outcome: Outcome) {
        let counts = match key {
            Some(key) => self.keys.entry(key).or_default(),
            None => &mut self.others,
        };
        *match outcome {
            Outcome::Rewrapped => &mut counts.rewrapped,
            Outcome::Unchanged => &mut counts.unchanged,
            Outcome::Failed => &mut counts.failed,
        } += 1;
    }

    pub(super) fn failed(&self) -> u64 {
        self.total().failed
    }

    fn total(&self) -> Counts {
        self.keys.values().chain([&self.others]).fold(Counts::default(), |sum, counts| Counts {
            rewrapped: sum.rewrapped + counts.rewrapped,
            unchanged: sum.unchanged + counts.unchanged,
            failed: sum.failed + counts.failed,
        })
    }

    /// Writes what was counted as a table, with what `newest` says of each key where it is a dry run.
    pub(super) fn to_table(&self, newest: Option<&dyn Fn(&KeyMeta) -> String>) -> String {
        let done = if newest.is_some() { "WOULD BE RE-WRAPPED" } else { "RE-WRAPPED" };
        let heading = ["KEY", "CREATED", "RECORDS", done, "UNCHANGED", "FAILED"];
        let cells = |id: &str, created: String, counts: &Counts| {
            let records = counts.rewrapped + counts.unchanged + counts.failed;
            let [records, rewrapped, unchanged, failed] =
                [records, counts.rewrapped, counts.unchanged, counts.failed].map(|count| count.to_string());
            [printable(id), created, records, rewrapped, unchanged, failed]
        };
        let keys = self.keys.iter().map(|(key, counts)| cells(key.id.as_str(), Time(key.created).to_string(), counts));
        let others = Some(self.others).filter(|others| *others != Counts::default());
        let others = others.map(|others| cells("no record", "-".to_owned(), &others));
        let total = [cells("total", "-".to_owned(), &self.total())];
        let rows = keys.chain(others).chain(total);
        let Some(newest) = newest else { return columns(heading, rows) };
        let words: Vec<String> = self.keys.keys().map(newest).collect();
        let [a, b, c, d, e, f] = heading;
        let rows = rows
            .enumerate()
            .map(|(at, [a, b, c, d, e, f])| [a, b, c, d, e, f, words.get(at).cloned().unwrap_or_default()]);
        columns([a, b, c, d, e, f, "NEWEST KEY"], rows)
    }
}
