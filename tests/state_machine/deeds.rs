//! What processes do, and what comes of it.

use std::task::Poll;

use keyward::stores::Revocation;
use keyward::{DataRowRecord, Error};

use crate::actions::{Forgery, PARTITIONS};
use crate::checks::is_outage;
use crate::model::{Kept, Model};
use crate::support::{self, TestResult, flip, poll_once};

impl Model {
    pub(crate) async fn encrypt(&mut self, process: usize, partition: usize, json: bool) -> TestResult {
        let payload = self.records.len().to_le_bytes();
        let session = self.session(process, partition).await?;
        let outcome = self
            .attempt(async || {
                if json {
                    Ok(DataRowRecord::from_json(&session.encrypt_json(&payload).await?)?)
                } else {
                    session.encrypt(&payload).await
                }
            })
            .await;
        self.note_encrypted(process, partition, &payload, outcome)
    }

    pub(crate) async fn decrypt(&mut self, process: usize, kept: &Kept) -> TestResult {
        let session = self.session(process, kept.partition).await?;
        let outcome = self.attempt(async || session.decrypt(&kept.record).await).await;
        self.note_decrypted(process, kept, outcome)
    }

    pub(crate) async fn both(&mut self, process: usize, kept: &Kept, decrypt_first: bool) -> TestResult {
        let session = self.session(process, kept.partition).await?;
        let decrypt = self.attempt(async || session.decrypt(&kept.record).await);
        let encrypt = self.attempt(async || session.encrypt(b"both").await);
        let (decrypted, encrypted) = if decrypt_first {
            tokio::join!(biased; decrypt, encrypt)
        } else {
            let (encrypted, decrypted) = tokio::join!(biased; encrypt, decrypt);
            (decrypted, encrypted)
        };
        self.note_decrypted(process, kept, decrypted)?;
        self.note_encrypted(process, kept.partition, b"both", encrypted)
    }

    pub(crate) async fn rewrap(&mut self, process: usize, kept: Kept) -> TestResult {
        let session = self.session(process, kept.partition).await?;
        let rewrapped = match self.attempt(async || session.rewrap(&kept.record).await).await {
            Ok(rewrapped) => rewrapped,
            Err(error) => return self.check_failure(process, kept.partition, error),
        };
        let Some(record) = rewrapped else {
            let parent = kept.record.parent_key();
            assert!(!self.processes[process].obeys.contains(parent), "{parent} is revoked, its records stay under it");
            return Ok(());
        };
        assert_eq!((record.data(), record.created()), (kept.record.data(), kept.record.created()));
        assert_ne!(record.parent_key(), kept.record.parent_key());
        self.check_keys_of(process, kept.partition, &record)?;
        let kept = Kept { record, ..kept };
        self.decrypt(process, &kept).await?;
        self.records.push(kept);
        Ok(())
    }

    pub(crate) async fn forge(&mut self, process: usize, partition: usize, kept: Kept, forgery: Forgery) -> TestResult {
        let Kept { partition: own, record, .. } = kept;
        let (mut parent, mut reader) = (record.parent_key().clone(), own);
        let (mut key, mut data) = (record.encrypted_key().to_vec(), record.data().to_vec());
        match forgery {
            Forgery::NoSuchKey(created) => parent.created = created,
            Forgery::OtherPartition => reader = partition,
            Forgery::OtherKeyId => {
                reader = partition;
                parent.id = support::key(&self.intermediate_key(partition), 0).id;
            }
            Forgery::BitOfKey(bit) => key = flip(&key, bit),
            Forgery::BitOfData(bit) => data = flip(&data, bit % (data.len() * 8)),
        }
        let forged = DataRowRecord::from_parts(record.created(), key, parent, data);
        if (&forged, reader) == (&record, own) {
            return Ok(());
        }
        let session = self.session(process, reader).await?;
        let outcome = self.attempt(async || session.decrypt(&forged).await).await;
        let now = self.now();
        self.processes[process].absent.insert(forged.parent_key().clone(), now);
        let error = outcome.err().ok_or("a forged record was decrypted")?;
        self.check_forgery(process, reader, forgery, error)
    }

    pub(crate) fn revoke_elsewhere(&mut self, id: &str) {
        if self.world.store.rows(id).last().is_some_and(|row| !row.is_tombstone()) {
            let key = support::key(id, self.world.store.revoke_latest(id));
            let now = self.now();
            self.revoked.entry(key).or_insert(now);
        }
    }

    pub(crate) async fn revoke(&mut self, process: usize, id: &str, age: usize) -> TestResult {
        let mut rows = self.world.store.rows(id);
        rows.retain(|row| !row.is_tombstone());
        if let Some(row) = rows.iter().nth_back(age % rows.len().max(1)) {
            let key = support::key(id, row.created);
            assert_ne!(self.keys(process).revoke(&key).await?, Revocation::NotFound);
            let now = self.now();
            self.revoked.entry(key.clone()).or_insert(now);
            self.processes[process].obeys.insert(key);
        }
        Ok(())
    }

    pub(crate) async fn revoke_midway(&mut self, process: usize, partition: usize, id: &str) -> TestResult {
        let session = self.session(process, partition).await?;
        let answers = self.world.store.control.delay_answers(id);
        let mut encrypting = Box::pin(session.encrypt(b"midway"));
        let at_once = match poll_once(encrypting.as_mut()) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        };
        if let Some(outcome) = at_once {
            self.note_encrypted(process, partition, b"midway", outcome)?;
            answers.open();
            return self.revoke(process, id, 0).await;
        }
        self.settle().await?;
        self.revoke(process, id, 0).await?;
        answers.open();
        // One that fails by an outage that is over is not made again here.
        match encrypting.await {
            Err(error) if is_outage(&error) => Ok(()),
            outcome => self.note_encrypted(process, partition, b"midway", outcome),
        }
    }

    pub(crate) async fn rotate(&mut self, process: usize, partition: usize, system: bool) -> TestResult {
        let keys = self.keys(process);
        self.rotations += 1;
        let rotate = async || {
            if system { keys.rotate_system_key().await } else { keys.rotate(PARTITIONS[partition]).await }
        };
        match self.attempt(rotate).await {
            Ok(key) => {
                assert!(self.world.store.latest(key.id.as_str()).created >= key.created, "{key} is not the newest");
                if !system {
                    self.processes[process].rotated.insert(partition, key.created);
                }
                self.encrypt(process, partition, false).await
            }
            Err(error) => self.check_failure(process, partition, error),
        }
    }

    pub(crate) async fn shred(&mut self, process: usize, partition: usize) -> TestResult {
        self.keys(process).shred(PARTITIONS[partition]).await?;
        let now = self.now();
        self.shredded.entry(partition).or_insert(now);
        self.processes[process].buried.insert(partition);
        let rows = self.world.store.rows(&self.intermediate_key(partition));
        assert!(rows.len() == 1 && rows[0].is_tombstone(), "{rows:?}");
        for kept in self.records.clone().iter().filter(|kept| kept.partition == partition) {
            self.decrypt(process, kept).await?;
        }
        self.encrypt(process, partition, true).await
    }

    /// Does something, again if it failed by an outage that is over: a load may have been under way that began before.
    pub(crate) async fn attempt<R>(&self, operation: impl AsyncFn() -> Result<R, Error>) -> Result<R, Error> {
        for _ in 0..4 {
            let outcome = operation().await;
            if self.failing || !outcome.as_ref().is_err_and(is_outage) {
                return outcome;
            }
        }
        operation().await
    }
}
