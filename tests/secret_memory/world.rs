//! A session factory in a victim, and how an auditor who has the master key learns all of its keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyward::kms::StaticKms;
use keyward::stores::{InMemoryMetastore, KeyAdmin};
use keyward::{DataRowRecord, SessionFactory};
use zeroize::Zeroize;

use crate::TestResult;
use crate::key::{self, Seed, from_hex, to_hex};
use crate::stage::Stage;
use crate::victim::Victim;

/// A factory and where its keys are stored.
pub(crate) struct World {
    pub(crate) store: Arc<InMemoryMetastore>,
    pub(crate) factory: SessionFactory,
}

impl World {
    /// Builds a factory on a master key that nothing else has afterwards.
    pub(crate) async fn new(master: Seed) -> TestResult<Self> {
        let store = Arc::new(InMemoryMetastore::new());
        let builder = SessionFactory::builder("service", "product").metastore(Arc::clone(&store)).kms(kms(master)?);
        Ok(Self { store, factory: builder.drain_timeout(Duration::from_millis(100)).build().await? })
    }

    /// Sends the parent all keys as they are stored, wrapped, and those of `records`.
    pub(crate) async fn tell_keys(&self, stage: &Stage, records: &[DataRowRecord]) -> TestResult {
        for row in self.store.list(None, usize::MAX).await? {
            let record = row.record?;
            let parent = record.parent_key.map_or_else(|| "-".to_owned(), |parent| parent.id.to_string());
            stage.say(format_args!("key {} {parent} {}", row.key.id, to_hex(&record.encrypted_key)))?;
        }
        for (record, number) in records.iter().zip(0..) {
            stage.say(format_args!("key {number} {} {}", record.parent_key().id, to_hex(record.encrypted_key())))?;
        }
        stage.say("all")
    }
}

#[inline(never)]
fn kms(master: Seed) -> TestResult<StaticKms> {
    let mut key = [0; 32];
    master.fill(&mut key);
    let kms = StaticKms::new(&key);
    key.zeroize();
    Ok(kms?)
}

/// Reads what [`World::tell_keys`] sends, and opens all of it: the master key and every key below.
pub(crate) fn learn_keys(victim: &mut Victim, master: Seed) -> TestResult<Vec<[u8; 32]>> {
    let mut wrapped = BTreeMap::new();
    loop {
        let line = victim.line()?;
        if line == "all" {
            break;
        }
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        let [_, id, parent, bytes] = <[String; 4]>::try_from(words).map_err(|words| format!("not a key: {words:?}"))?;
        wrapped.insert(id, (parent, from_hex(&bytes)?));
    }
    let mut plain = BTreeMap::from([("-".to_owned(), master.key())]);
    while plain.len() <= wrapped.len() {
        let known = plain.len();
        for (id, (parent, bytes)) in &wrapped {
            if let Some(parent) = plain.get(parent) {
                let key = key::unwrap(parent, bytes)?;
                plain.insert(id.clone(), key);
            }
        }
        if plain.len() == known {
            return Err("the victim sent a key without its parent".into());
        }
    }
    Ok(plain.into_values().collect())
}
