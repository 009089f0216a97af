//! Prints what became of system keys.

use std::collections::BTreeMap;

use keyward::kms::WrapFinding;
use serde::Serialize;

use super::verdict::{Outcome, Verdict};
use crate::cli::error::Failure;
use crate::cli::table::{columns, printable};
use crate::cli::time::Time;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// Of `repair` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    executed: Option<bool>,
    keys: Vec<Line<'a>>,
    /// How many keys have which outcome.
    counts: BTreeMap<&'static str, usize>,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    created: i64,
    created_at: Time,
    revoked: bool,
    outcome: &'static str,
    findings: Vec<Finding<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mended: Vec<Finding<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Finding<'a> {
    Missing { place: &'a str },
    Former { place: &'a str, key: &'a str },
    Unconfigured { place: &'a str, key: &'a str },
    Outdated { version: u64, latest: u64 },
    Other { about: String },
}

impl<'a> Line<'a> {
    fn new(verdict: &'a Verdict) -> Self {
        Self {
            id: verdict.key.id.as_str(),
            created: verdict.key.created,
            created_at: Time(verdict.key.created),
            revoked: verdict.is_revoked,
            outcome: verdict.outcome.word(),
            findings: verdict.findings.iter().map(Finding::from).collect(),
            mended: verdict.mended.iter().map(Finding::from).collect(),
            fault: verdict.fault.as_ref().map(|fault| fault.text.as_str()),
        }
    }
}

impl<'a> From<&'a WrapFinding> for Finding<'a> {
    fn from(finding: &'a WrapFinding) -> Self {
        match finding {
            WrapFinding::Missing { place } => Self::Missing { place },
            WrapFinding::Former { place, key } => Self::Former { place, key },
            WrapFinding::Unconfigured { place, key } => Self::Unconfigured { place, key },
            WrapFinding::Outdated { version, latest } => Self::Outdated { version: *version, latest: *latest },
            other => Self::Other { about: other.to_string() },
        }
    }
}

/// Writes all verdicts as one JSON object; `executed` tells of `repair` whether it did anything.
pub(super) fn to_json(verdicts: &[Verdict], executed: Option<bool>) -> String {
    let counts = counts(verdicts).into_iter().map(|(outcome, count)| (outcome.word(), count)).collect();
    let report = Report { executed, keys: verdicts.iter().map(Line::new).collect(), counts };
    // Text, numbers and lists of them always have a JSON form.
    serde_json::to_string(&report).unwrap_or_default() + "\n"
}

/// Writes all verdicts as a table, and counts them.
pub(super) fn to_text(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return "no system keys\n".to_owned();
    }
    let cells = |verdict: &Verdict| {
        let (key, outcome) = (&verdict.key, verdict.outcome.word());
        [printable(key.id.as_str()), Time(key.created).to_string(), outcome.to_owned(), printable(&about(verdict))]
    };
    let table = columns(["ID", "CREATED", "OUTCOME", "ABOUT"], verdicts.iter().map(cells));
    let counts = counts(verdicts).into_iter().map(|(outcome, count)| format!("{count} {}", outcome.word()));
    let counts = counts.collect::<Vec<_>>().join(", ");
    format!("{table}\nSystem keys: {}; {counts}.\n", verdicts.len())
}

fn about(verdict: &Verdict) -> String {
    let mended = verdict.mended.iter().map(|finding| format!("mended: {finding}"));
    let findings = verdict.findings.iter().map(WrapFinding::to_string);
    let fault = verdict.fault.iter().map(|fault| fault.text.clone());
    mended.chain(findings).chain(fault).collect::<Vec<_>>().join("; ")
}

fn counts(verdicts: &[Verdict]) -> BTreeMap<Outcome, usize> {
    let mut counts = BTreeMap::new();
    for verdict in verdicts {
        *counts.entry(verdict.outcome).or_default() += 1;
    }
    counts
}

/// What a command ends with when everything was printed.
///
/// # Errors
/// [`Failure::SystemKeys`] when somebody has to do something about a key, with a `hint` at what.
pub(super) fn judge(verdicts: &[Verdict], hint: &'static str) -> Result<(), Failure> {
    let bad: Vec<&Verdict> = verdicts.iter().filter(|verdict| verdict.outcome.is_bad()).collect();
    if bad.is_empty() {
        return Ok(());
    }
    let is_transient = bad.iter().all(|verdict| verdict.fault.as_ref().is_some_and(|fault| fault.is_transient));
    Err(Failure::SystemKeys { count: bad.len(), is_transient, hint })
}
