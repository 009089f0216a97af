//! Has the key management service look at each system key.

use keyward::kms::KmsError;
use keyward::stores::KeyRow;

use super::service::Service;
use super::verdict::{Fault, Outcome, Verdict};
use crate::cli::progress::Progress;
use crate::cli::table::chain;

/// So many failures one after the other are not those of keys.
const TOO_MANY: usize = 3;

/// One version of a system key, as the service sees it.
pub(super) struct Seen {
    pub(super) verdict: Verdict,
    /// What it is as it stands in the store; empty where that is no key record.
    pub(super) wrapped: Vec<u8>,
}

/// Has the service look at the rows of system keys, in their order; tombstones are left out.
pub(super) async fn look_at_all(kms: &Service, rows: Vec<KeyRow>) -> Vec<Seen> {
    let mut progress = Progress::counting("looking at system keys", rows.len());
    let (mut all, mut patience) = (Vec::new(), Patience::default());
    for row in rows {
        if !row.record.as_ref().is_ok_and(|record| record.is_tombstone()) {
            let seen = look(kms, row, &patience).await;
            patience.note(seen.verdict.fault.as_ref().filter(|_| seen.verdict.outcome == Outcome::NotLookedAt));
            all.push(seen);
        }
        progress.add(1);
    }
    all
}

async fn look(kms: &Service, row: KeyRow, patience: &Patience) -> Seen {
    let record = match row.record {
        Ok(record) => record,
        Err(error) => {
            let mut verdict = Verdict::new(row.key, false, Outcome::Corrupt);
            verdict.fault = Some(Fault { text: chain(&error), is_transient: false });
            return Seen { verdict, wrapped: Vec::new() };
        }
    };
    let mut verdict = Verdict::new(row.key, record.revoked, Outcome::NotLookedAt);
    match patience.is_over() {
        Some(fault) => verdict.fault = Some(fault),
        None => inspect(kms, &record.encrypted_key, &mut verdict).await,
    }
    Seen { verdict, wrapped: record.encrypted_key }
}

/// Puts what the service says about a wrapped key into a verdict.
pub(super) async fn inspect(kms: &Service, wrapped: &[u8], verdict: &mut Verdict) {
    match kms.inspect(wrapped).await {
        Ok(findings) => {
            verdict.findings = findings;
            verdict.outcome = if verdict.is_repairable() { Outcome::ToBeRepaired } else { Outcome::Good };
        }
        Err(KmsError::Undecryptable { .. }) => verdict.outcome = Outcome::Foreign,
        Err(error) => {
            verdict.outcome = Outcome::NotLookedAt;
            verdict.fault = Some((&error).into());
        }
    }
}

/// How long a service, or a store, that fails is gone on with: the rest would take long and come to nothing.
#[derive(Default)]
pub(super) struct Patience {
    /// How many failures there were since the last success.
    failures: usize,
    last: Option<Fault>,
}

impl Patience {
    /// Counts what became of a key.
    pub(super) fn note(&mut self, fault: Option<&Fault>) {
        self.failures = if fault.is_some() { self.failures + 1 } else { 0 };
        self.last = fault.cloned();
    }

    /// Tells why nobody is asked any more, once that is so.
    pub(super) fn is_over(&self) -> Option<Fault> {
        let last = self.last.as_ref().filter(|_| self.failures >= TOO_MANY)?;
        let text = format!("not tried: the {TOO_MANY} before it failed");
        Some(Fault { text, is_transient: last.is_transient })
    }
}
