//! Counts rows, and prints what became of them.

use std::collections::BTreeMap;

use keyward::KeyMeta;
use serde::Serialize;

use super::row::Outcome;
use crate::cli::error::Failure;
use crate::cli::table::{columns, kind_name, printable};
use crate::cli::time::Time;

/// What became of all rows.
pub(super) struct Tally {
    from: String,
    to: String,
    pub(super) executed: bool,
    /// Whether the store that is copied to is not made yet.
    pub(super) is_new: bool,
    /// Rows that are no keys.
    pub(super) strangers: usize,
    /// Ids that are shredded in both stores now, or would be.
    pub(super) tombstones: usize,
    kinds: BTreeMap<&'static str, Counts>,
    /// Those rows of which there is more to say than that they are there.
    notes: Vec<(KeyMeta, Outcome)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Counts {
    keys: usize,
    /// Those that were there, also those that were revoked there now.
    there: usize,
    copied: usize,
    revoked: usize,
    different: usize,
    left_out: usize,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    executed: bool,
    from: &'a str,
    to: &'a str,
    kinds: &'a BTreeMap<&'static str, Counts>,
    /// How many of the keys are, or would be, in both stores when the command ends.
    in_both: usize,
    tombstones: usize,
    rows_that_are_no_keys: usize,
    notes: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    created: i64,
    created_at: Time,
    outcome: String,
}

impl Tally {
    /// Begins with nothing counted.
    pub(super) fn new(from: String, to: String, executed: bool) -> Self {
        let (kinds, notes) = (BTreeMap::new(), Vec::new());
        Self { from, to, executed, is_new: false, strangers: 0, tombstones: 0, kinds, notes }
    }

    /// Counts a key.
    pub(super) fn count(&mut self, key: KeyMeta, outcome: Outcome) {
        let counts = self.kinds.entry(kind_name(&key.id).unwrap_or("other")).or_default();
        counts.keys += 1;
        match &outcome {
            Outcome::There | Outcome::RevokedThere => counts.there += 1,
            Outcome::Copied => counts.copied += 1,
            Outcome::Revoked => {
                counts.there += 1;
                counts.revoked += 1;
            }
            Outcome::Different | Outcome::CorruptThere(_) | Outcome::Lost => counts.different += 1,
            Outcome::Corrupt(_)
            | Outcome::Shredded
            | Outcome::ShreddedThere
            | Outcome::Unusable
            | Outcome::Buried(_) => counts.left_out += 1,
        }
        if !matches!(outcome, Outcome::There | Outcome::Copied) {
            self.note(key, outcome);
        }
    }

    /// Has a row named.
    pub(super) fn note(&mut self, key: KeyMeta, outcome: Outcome) {
        self.notes.push((key, outcome));
    }

    /// What the command ends with when all rows were gone through.
    ///
    /// # Errors
    /// [`Failure::Conflicts`], else [`Failure::CorruptKeys`].
    pub(super) fn outcome(&self) -> Result<(), Failure> {
        let corrupt = self.notes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Corrupt(_))).count();
        match (self.total().different, corrupt) {
            (0, 0) => Ok(()),
            (0, corrupt) => Err(Failure::CorruptKeys(corrupt)),
            (different, _) => Err(Failure::Conflicts(different)),
        }
    }

    fn total(&self) -> Counts {
        self.kinds.values().fold(Counts::default(), |sum, counts| Counts {
            keys: sum.keys + counts.keys,
            there: sum.there + counts.there,
            copied: sum.copied + counts.copied,
            revoked: sum.revoked + counts.revoked,
            different: sum.different + counts.different,
            left_out: sum.left_out + counts.left_out,
        })
    }

    /// Returns how many keys are in both stores now.
    fn in_both(&self) -> usize {
        let Counts { there, copied, .. } = self.total();
        if self.executed { there + copied } else { there }
    }

    /// Returns the rows that are named, in order.
    fn notes(&self) -> Vec<&(KeyMeta, Outcome)> {
        let mut notes: Vec<_> = self.notes.iter().collect();
        notes.sort_by(|(a, _), (b, _)| a.cmp(b));
        notes
    }

    pub(super) fn to_json(&self) -> String {
        let notes = self.notes().into_iter().map(|(key, outcome)| Line {
            id: key.id.as_str(),
            created: key.created,
            created_at: Time(key.created),
            outcome: self.text(outcome),
        });
        let report = Report {
            executed: self.executed,
            from: &self.from,
            to: &self.to,
            kinds: &self.kinds,
            in_both: self.in_both(),
            tombstones: self.tombstones,
            rows_that_are_no_keys: self.strangers,
            notes: notes.collect(),
        };
        // Text, numbers and lists of them always have a JSON form.
        serde_json::to_string(&report).unwrap_or_default() + "\n"
    }

    /// Writes what was counted as a table, the rows that are named, and what to know; `is_complete` unless it was stopped.
    pub(super) fn to_text(&self, is_complete: bool) -> String {
        let [copied, revoked] = if self.executed { ["COPIED", "REVOKED"] } else { ["TO COPY", "TO REVOKE"] };
        let heading = ["KIND", "KEYS", "THERE", copied, revoked, "DIFFERENT", "LEFT OUT"];
        let cells = |kind: &str, counts: &Counts| {
            let Counts { keys, there, copied, revoked, different, left_out } = *counts;
            let [a, b, c, d, e, f] =
                [keys, there, copied, revoked, different, left_out].map(|count: usize| count.to_string());
            [kind.to_owned(), a, b, c, d, e, f]
        };
        // System keys come first, as they do in the work.
        let kinds = self.kinds.iter().rev().map(|(kind, counts)| cells(kind, counts));
        let mut text = columns(heading, kinds.chain([cells("total", &self.total())]));
        if !self.notes.is_empty() {
            let rows = self.notes().into_iter().map(|(key, outcome)| {
                [printable(key.id.as_str()), Time(key.created).to_string(), printable(&self.text(outcome))]
            });
            text.push_str(&format!("\n{}", columns(["ID", "CREATED", "OUTCOME"], rows)));
        }
        text.push('\n');
        if self.strangers > 0 {
            text.push_str(&format!("Rows that are no keys, and not copied: {}.\n", self.strangers));
        }
        if self.tombstones > 0 {
            let are =
                if self.executed { "that are shredded in both" } else { "that are, or would be, shredded in both" };
            text.push_str(&format!("Ids {are}: {}.\n", self.tombstones));
        }
        if is_complete {
            text.push_str(&self.conclusion());
        } else {
            text.push_str("It was stopped before the end; copying again goes on there.\n");
        }
        text
    }

    fn conclusion(&self) -> String {
        let Self { from, to, .. } = self;
        let (keys, both) = (self.total().keys, self.in_both());
        let state = format!("{keys} keys in {from}, {both} of them in {to}, byte for byte.\n");
        if self.executed {
            return format!(
                "{state}Processes that use the first may make keys there meanwhile: when all use the second, copy again.\n"
            );
        }
        let new = if self.is_new { "There is no table in the second yet. " } else { "" };
        format!("{state}{new}Nothing was changed; --execute copies what is missing.\n")
    }

    /// Says what became of a row, or would.
    fn text(&self, outcome: &Outcome) -> String {
        let would = |done: &str, would: &str| if self.executed { done.to_owned() } else { would.to_owned() };
        match outcome {
            Outcome::There => "there".to_owned(),
            Outcome::Copied => would("copied", "would be copied"),
            Outcome::Revoked => would("there, revoked now", "there, would be revoked"),
            Outcome::RevokedThere => "there, and revoked there alone: left so".to_owned(),
            Outcome::Different => "different: another key is there, left so".to_owned(),
            Outcome::CorruptThere(fault) => format!("different: what is there is corrupt, left so: {fault}"),
            Outcome::Lost => "different: it was changed, and is not as it was made".to_owned(),
            Outcome::Corrupt(fault) => format!("corrupt, not copied: {fault}"),
            Outcome::Shredded => "its id is shredded, not copied".to_owned(),
            Outcome::ShreddedThere => "its id is shredded there, not copied".to_owned(),
            Outcome::Unusable => "its system key is another there, not copied".to_owned(),
            Outcome::Buried(0) => would("shredded", "would be shredded"),
            Outcome::Buried(keys) => {
                format!(
                    "{}: {keys} keys of this id",
                    would("shredded there, destroyed", "would be shredded there, destroying")
                )
            }
        }
    }
}
