//! `keyward kms repair`

use keyward::stores::{KeyAdmin, Replacement};

use super::look::{Patience, Seen, inspect, look_at_all};
use super::options::Repair;
use super::report::{judge, to_json, to_text};
use super::service::Service;
use super::verdict::{Fault, Outcome, Verdict};
use crate::cli::config::Config;
use crate::cli::error::Failure;
use crate::cli::keys::system_keys;
use crate::cli::open::{block_on, open_existing};
use crate::cli::output::print;
use crate::cli::progress::Progress;
use crate::cli::table::chain;

/// How often one key is decided about anew: when somebody else changes it, or it could be repaired in part.
const ROUNDS: usize = 4;

const AGAIN: &str =
    "mend what is named above and run it again: what was repaired stays so, and what was not is as it was";

/// Has system keys wrapped for the places that cannot open them, or says which, and prints what becomes of each.
///
/// # Errors
/// [`Failure`]; [`Failure::SystemKeys`] after everything was printed.
pub(super) fn run(config: &Config, options: &Repair) -> Result<(), Failure> {
    let verdicts = block_on(async {
        let store = open_existing(&config.store).await?.admin;
        let kms = Service::open(config).await?;
        let seen = look_at_all(&kms, system_keys(&*store).await?).await;
        if options.execute {
            return Ok(repair_all(&*store, &kms, seen).await);
        }
        Ok(seen.into_iter().map(|seen| would_be(seen.verdict)).collect())
    })?;
    print(&if options.json { to_json(&verdicts, Some(options.execute)) } else { to_text_of(&verdicts, options) })?;
    judge(&verdicts, AGAIN)
}

fn to_text_of(verdicts: &[Verdict], options: &Repair) -> String {
    let text = to_text(verdicts);
    let is_any = |outcomes: &[Outcome]| verdicts.iter().any(|verdict| outcomes.contains(&verdict.outcome));
    if !options.execute && is_any(&[Outcome::WouldBeRepaired]) {
        return text + "Nothing was changed; --execute repairs them.\n";
    }
    if is_any(&[Outcome::Repaired, Outcome::PartlyRepaired]) {
        return text + "Whoever could open a key before still can.\n";
    }
    text + "Nothing was changed.\n"
}

fn would_be(mut verdict: Verdict) -> Verdict {
    if verdict.outcome == Outcome::ToBeRepaired {
        verdict.outcome = Outcome::WouldBeRepaired;
    }
    verdict
}

/// Repairs what can be; goes on when one key fails.
async fn repair_all(store: &dyn KeyAdmin, kms: &Service, seen: Vec<Seen>) -> Vec<Verdict> {
    let mut progress = Progress::counting("repairing", seen.len());
    let (mut all, mut patience) = (Vec::new(), Patience::default());
    for Seen { mut verdict, wrapped } in seen {
        if verdict.outcome == Outcome::ToBeRepaired {
            match patience.is_over() {
                Some(fault) => (verdict.outcome, verdict.fault) = (Outcome::NotRepaired, Some(fault)),
                None => {
                    verdict = repair(store, kms, verdict, wrapped).await;
                    // Where something could be repaired, other keys can be too.
                    patience.note(verdict.fault.as_ref().filter(|_| verdict.outcome != Outcome::PartlyRepaired));
                }
            }
        }
        progress.add(1);
        all.push(verdict);
    }
    all
}

/// Repairs one key until nothing is missing that can be had.
async fn repair(store: &dyn KeyAdmin, kms: &Service, mut verdict: Verdict, mut wrapped: Vec<u8>) -> Verdict {
    let before = verdict.findings.clone();
    let mut has_changed = false;
    let mut rounds = 0..ROUNDS;
    while verdict.outcome == Outcome::ToBeRepaired {
        if rounds.next().is_none() {
            let text = "it was changed by others again and again".to_owned();
            verdict.fault = Some(Fault { text, is_transient: true });
            break;
        }
        match repair_once(store, kms, &verdict, &wrapped).await {
            Ok(was_replaced) => has_changed |= was_replaced,
            Err(fault) => {
                verdict.fault = Some(fault);
                break;
            }
        }
        match look_again(store, kms, &mut verdict).await {
            Some(anew) => wrapped = anew,
            None => return verdict,
        }
    }
    verdict.mended = before.into_iter().filter(|finding| !verdict.findings.contains(finding)).collect();
    verdict.outcome = match verdict.outcome {
        Outcome::Good if has_changed => Outcome::Repaired,
        Outcome::ToBeRepaired if has_changed => Outcome::PartlyRepaired,
        Outcome::ToBeRepaired => Outcome::NotRepaired,
        other => other,
    };
    verdict
}

/// Has a key wrapped anew and puts that in its place, unless somebody else has changed it; tells whether it did.
async fn repair_once(store: &dyn KeyAdmin, kms: &Service, verdict: &Verdict, wrapped: &[u8]) -> Result<bool, Fault> {
    let Some(anew) = kms.repair(wrapped).await.map_err(|error| Fault::from(&error))? else {
        let text = "the key management service has nothing to add yet".to_owned();
        return Err(Fault { text, is_transient: true });
    };
    match store.replace_wrapped_key(&verdict.key, wrapped, &anew).await {
        Ok(outcome) => Ok(outcome == Replacement::Replaced),
        Err(error) => Err((&error).into()),
    }
}

/// Reads a key back and has it looked at; `None` when there is nothing any more that can be repaired.
async fn look_again(store: &dyn KeyAdmin, kms: &Service, verdict: &mut Verdict) -> Option<Vec<u8>> {
    let row = match store.versions(&verdict.key.id).await {
        Ok(rows) => rows.into_iter().find(|row| row.key == verdict.key),
        Err(error) => {
            (verdict.outcome, verdict.fault) = (Outcome::NotLookedAt, Some((&error).into()));
            verdict.findings.clear();
            return None;
        }
    };
    let record = match row.map(|row| row.record) {
        Some(Ok(record)) if !record.is_tombstone() => record,
        Some(Err(error)) => {
            verdict.outcome = Outcome::Corrupt;
            verdict.fault = Some(Fault { text: chain(&error), is_transient: false });
            return None;
        }
        _ => {
            verdict.outcome = Outcome::Gone;
            verdict.findings.clear();
            return None;
        }
    };
    inspect(kms, &record.encrypted_key, verdict).await;
    Some(record.encrypted_key)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use keyward::kms::{KmsAdmin, KmsError, PlaceCheck, WrapFinding};
    use keyward::stores::{InMemoryMetastore, Metastore};
    use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};

    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    /// A service for which a key that does not end in `!` is to be repaired. While it repairs one, somebody else changes it, as
    /// often as `changes` says.
    struct Contended {
        store: Arc<InMemoryMetastore>,
        changes: usize,
        repairs: AtomicUsize,
    }

    fn key() -> KeyMeta {
        KeyMeta { id: KeyId::new("_SK_s_p"), created: 60 }
    }

    #[async_trait]
    impl KmsAdmin for Contended {
        async fn check(&self) -> Vec<PlaceCheck> {
            Vec::new()
        }

        async fn inspect_key(&self, encrypted: &[u8]) -> Result<Vec<WrapFinding>, KmsError> {
            let is_whole = encrypted.ends_with(b"!");
            Ok(if is_whole { Vec::new() } else { vec![WrapFinding::Missing { place: "here".to_owned() }] })
        }

        async fn repair_key(&self, encrypted: &[u8]) -> Result<Option<Vec<u8>>, KmsError> {
            let repairs = self.repairs.fetch_add(1, Ordering::Relaxed);
            if repairs < self.changes {
                let changed = format!("changed {repairs}");
                let replaced = self.store.replace_wrapped_key(&key(), encrypted, changed.as_bytes()).await;
                assert!(matches!(replaced, Ok(Replacement::Replaced)), "{replaced:?}");
            }
            Ok(Some([encrypted, b"!"].concat()))
        }
    }

    /// Repairs a key that is changed so often; returns what came of it, and what is stored then.
    async fn contended(changes: usize) -> Result<(Verdict, Vec<u8>), Box<dyn std::error::Error>> {
        let store = Arc::new(InMemoryMetastore::new());
        let record =
            EnvelopeKeyRecord { created: 60, encrypted_key: b"first".to_vec(), parent_key: None, revoked: true };
        assert_eq!(store.store(&key().id, &record).await?, keyward::stores::StoreOutcome::Stored);
        let kms =
            Service::new(Arc::new(Contended { store: Arc::clone(&store), changes, repairs: AtomicUsize::new(0) }));
        let seen = look_at_all(&kms, store.versions(&key().id).await?).await;
        let verdict = repair_all(&*store, &kms, seen).await.pop().ok_or("one key is looked at")?;
        let stored = store.load(&key()).await?.ok_or("the key is there")?;
        assert!(stored.revoked, "what is repaired stays revoked");
        Ok((verdict, stored.encrypted_key))
    }

    #[tokio::test]
    async fn a_key_that_others_change_meanwhile_is_decided_about_anew() -> TestResult {
        for (changes, expected) in [(0, "first!"), (1, "changed 0!"), (3, "changed 2!")] {
            let (verdict, stored) = contended(changes).await?;
            assert_eq!((verdict.outcome, verdict.mended.len()), (Outcome::Repaired, 1), "{verdict:?}");
            assert_eq!(String::from_utf8(stored)?, expected);
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_key_that_never_stays_is_left_to_another_run() -> TestResult {
        let (verdict, stored) = contended(usize::MAX).await?;
        assert_eq!(verdict.outcome, Outcome::NotRepaired);
        assert!(verdict.fault.is_some_and(|fault| fault.is_transient));
        assert_eq!(stored, b"changed 3");
        Ok(())
    }
}
