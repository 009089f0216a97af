//! What must hold.

use std::time::Duration;

use keyward::{DataRowRecord, Error, KeyMeta};

use crate::actions::{EXPIRE, Forgery, INTERVAL, PARTITIONS};
use crate::model::{Kept, Model};
use crate::support::{self, MINUTE, TestResult};

/// How long after a failed look nobody looks again.
const LAST_RETRY: Duration = MINUTE;

/// How long after a failed look a key is encrypted with unchecked: until the next one is due, and has not been made either.
const LAST_GRACE: Duration = Duration::from_secs(2 * 60);

/// How long a key that was not found is taken not to exist.
const ABSENT: Duration = Duration::from_secs(2);

/// How many records of a partition may name keys that do not exist before it is throttled.
const STRANGERS: usize = 64;

/// Tells whether the outside world is to blame, and not for good.
pub(crate) fn is_outage(error: &Error) -> bool {
    matches!(error, Error::Metastore(_) | Error::Kms(_) | Error::Restarted { .. } | Error::Timeout { .. })
}

impl Model {
    /// Takes note of what came of an encrypt, which must be what may come of it.
    pub(crate) fn note_encrypted(
        &mut self,
        process: usize,
        partition: usize,
        payload: &[u8],
        outcome: Result<DataRowRecord, Error>,
    ) -> TestResult {
        match outcome {
            Ok(record) => {
                self.check_keys_of(process, partition, &record)?;
                self.records.push(Kept { partition, record, payload: payload.to_vec() });
                Ok(())
            }
            Err(error) => self.check_failure(process, partition, error),
        }
    }

    /// Checks why no key was had to encrypt with.
    pub(crate) fn check_failure(&mut self, process: usize, partition: usize, error: Error) -> TestResult {
        match error {
            Error::Shredded { .. } | Error::KeyNotFound { .. } if self.shredded.contains_key(&partition) => Ok(()),
            error if self.failing && is_outage(&error) => Ok(()),
            error => Err(format!("process {process} failed for {}: {error:?}", PARTITIONS[partition]).into()),
        }
    }

    /// Takes note of what came of a decrypt, which must be what may come of it.
    pub(crate) fn note_decrypted(
        &mut self,
        process: usize,
        kept: &Kept,
        outcome: Result<Vec<u8>, Error>,
    ) -> TestResult {
        let (parent, failing) = (kept.record.parent_key(), self.failing);
        let shredded = self.shredded.get(&kept.partition).copied();
        match outcome {
            Ok(payload) => {
                assert_eq!(payload, kept.payload);
                if let Some(shredded) = shredded {
                    assert!(!self.processes[process].buried.contains(&kept.partition), "a destroyed key decrypted");
                    let since = self.now() - shredded;
                    let is_excused = since <= millis(INTERVAL) || self.has_failed_within(LAST_RETRY);
                    assert!(is_excused, "a key decrypted {since} ms after its destruction");
                }
                self.processes[process].used.entry(parent.clone()).or_default();
            }
            Err(Error::Shredded { .. } | Error::KeyNotFound { .. }) if shredded.is_some() => self.strangers += 1,
            Err(Error::Throttled { .. }) if shredded.is_some() && self.strangers >= STRANGERS => {}
            // Another process made it right after somebody asked for it.
            Err(Error::KeyNotFound { .. }) if self.was_absent(process, parent) => {}
            Err(error) if failing && is_outage(&error) => {
                let is_kept = self.setting.keeps_intermediate_keys();
                let has_it = is_kept && shredded.is_none() && self.processes[process].used.contains_key(parent);
                assert!(!has_it, "a process has {parent} and does not decrypt with it: {error:?}");
            }
            Err(error) => return Err(format!("process {process} cannot decrypt under {parent}: {error:?}").into()),
        }
        Ok(())
    }

    fn was_absent(&self, process: usize, key: &KeyMeta) -> bool {
        let process = &self.processes[process];
        let asked = process.absent.get(key);
        !process.used.contains_key(key) && asked.is_some_and(|asked| self.now() - asked <= millis(ABSENT))
    }

    /// Checks that the process could not have known better than to use these keys.
    pub(crate) fn check_keys_of(&mut self, process: usize, partition: usize, record: &DataRowRecord) -> TestResult {
        let key = record.parent_key();
        assert_eq!(key.id.as_str(), self.intermediate_key(partition));
        self.check_age(process, key);
        if let Some(shredded) = self.shredded.get(&partition) {
            assert!(!self.processes[process].buried.contains(&partition), "a destroyed {key} encrypted");
            let (since, most) = (self.now() - shredded, self.revocation_bound());
            assert!(since <= most, "{key} encrypted {since} ms after its destruction, {most} at most");
            return Ok(());
        }
        let rows = self.world.store.rows(key.id.as_str());
        let row = rows.iter().find(|row| row.created == key.created).ok_or("the key is stored")?;
        let system = row.parent_key.clone().ok_or("it has a parent")?;
        self.check_age(process, &system);
        self.check_revocation(process, key);
        self.check_revocation(process, &system);
        let (max_wraps, is_kept) = (self.setting.max_wraps, self.setting.keeps_intermediate_keys());
        let process = &mut self.processes[process];
        let rotated = process.rotated.get(&partition).copied().unwrap_or(i64::MIN);
        assert!(key.created >= rotated, "{key} encrypted though the process has made {rotated}");
        let wraps = process.used.entry(key.clone()).or_default();
        *wraps += 1;
        assert!(!is_kept || *wraps <= max_wraps, "{key} encrypted {wraps} times");
        Ok(())
    }

    fn check_age(&self, process: usize, key: &KeyMeta) {
        let age = self.now() + self.processes[process].clock_ahead - key.created * 1000;
        assert!(age <= millis(EXPIRE), "{key} encrypted though it expired");
    }

    fn check_revocation(&self, process: usize, key: &KeyMeta) {
        let Some(revoked) = self.revoked.get(key) else { return };
        let (since, most) = (self.now() - revoked, self.revocation_bound());
        assert!(!self.processes[process].obeys.contains(key), "process {process} encrypted under {key}, revoked by it");
        assert!(since <= most, "{key} encrypted {since} ms after its revocation, {most} at most");
    }

    /// How long a revocation, or the destruction of a partition, may go unnoticed now.
    fn revocation_bound(&self) -> i64 {
        let grace = if self.has_failed_within(LAST_GRACE) { self.setting.max_stale } else { Duration::ZERO };
        millis(INTERVAL + grace)
    }

    fn has_failed_within(&self, time: Duration) -> bool {
        self.failing || self.failed.is_some_and(|failed| self.now() - failed <= millis(time))
    }

    /// Checks why a forged record was refused.
    pub(crate) fn check_forgery(
        &mut self,
        process: usize,
        partition: usize,
        forgery: Forgery,
        error: Error,
    ) -> TestResult {
        let is_refused = match forgery {
            Forgery::OtherPartition => matches!(error, Error::WrongPartition),
            Forgery::NoSuchKey(_) => matches!(error, Error::KeyNotFound { .. }),
            Forgery::OtherKeyId => matches!(error, Error::KeyNotFound { .. } | Error::Undecryptable),
            Forgery::BitOfKey(_) | Forgery::BitOfData(_) => matches!(error, Error::Undecryptable),
        };
        self.strangers += 1;
        let is_throttled = matches!(error, Error::Throttled { .. }) && self.strangers >= STRANGERS;
        if is_refused || is_throttled { Ok(()) } else { self.check_failure(process, partition, error) }
    }

    /// Checks that no more keys were made than there was reason to.
    pub(crate) fn check_rows(&self) {
        let ids = (0..PARTITIONS.len()).map(|partition| self.intermediate_key(partition));
        let superfluous: Vec<KeyMeta> =
            ids.chain([self.world.system_key()]).flat_map(|id| self.superfluous_rows(&id)).collect();
        // An encrypt that was given up goes on by the time it had; if it comes late it may add a row behind the newest.
        // Wraps are counted by whoever made them, so all that can be said of budgets is how often one was spent at most.
        let wraps = self.records.len() + self.cancelled + self.world.calls().store_ik;
        let spent = wraps / usize::try_from(self.setting.budget()).unwrap_or(usize::MAX);
        let most = self.cancelled + self.rotations + spent;
        assert!(superfluous.len() <= most, "made for nothing, {most} at most: {superfluous:?}");
    }

    /// Returns rows that are valid, are not the newest of their id, and were not about to expire when the next one came.
    fn superfluous_rows(&self, id: &str) -> Vec<KeyMeta> {
        let is_expired =
            |created: i64| self.now() + self.furthest_ahead - created.saturating_mul(1000) > millis(EXPIRE);
        let is_invalid = |key: &KeyMeta| self.revoked.contains_key(key) || is_expired(key.created);
        let rows = self.world.store.rows(id);
        let mut found = Vec::new();
        for (row, next) in rows.iter().zip(rows.iter().skip(1)) {
            let key = support::key(id, row.created);
            let parent = row.parent_key.as_ref();
            let earliest = parent.map_or(row.created, |parent| parent.created.min(row.created));
            let is_due = self.setting.rotate_ahead.is_some_and(|lead| {
                let due = earliest * 1000 + millis(EXPIRE) - millis(lead);
                // Creation times are truncated to a minute.
                next.created * 1000 + millis(MINUTE) >= due
            });
            if !is_invalid(&key) && !parent.is_some_and(is_invalid) && !is_due {
                found.push(key);
            }
        }
        found
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).expect("not that long")
}
