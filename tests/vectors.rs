//! Records that other implementations wrote: all decrypt, and none does once anything about it is changed.

mod support;

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward::kms::StaticKms;
use keyward::stores::{InMemoryMetastore, Metastore, StoreOutcome};
use keyward::{DataRowRecord, EnvelopeKeyRecord, Error, KeyId, SessionFactory};
use serde::Deserialize;
use support::{TestResult, flip};

const FILES: [(&str, usize); 2] = [("go-mysql-static.json", 62), ("ffi-mysql-static.json", 70)];

/// What one implementation wrote.
#[derive(Deserialize)]
struct Vectors {
    service: String,
    product: String,
    kms: Kms,
    metastore: Vec<Row>,
    records: Vec<Record>,
}

#[derive(Deserialize)]
struct Kms {
    key: String,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    key_record: String,
}

#[derive(Deserialize)]
struct Record {
    partition: String,
    plaintext: String,
    record: String,
}

impl Vectors {
    fn read(name: &str) -> TestResult<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// Builds a factory over the rows, each changed by `change`.
    async fn factory(&self, change: impl Fn(&str, &mut EnvelopeKeyRecord)) -> TestResult<SessionFactory> {
        let store = InMemoryMetastore::new();
        for Row { id, key_record, .. } in &self.metastore {
            let mut record = EnvelopeKeyRecord::from_json(key_record.as_bytes())?;
            change(id, &mut record);
            assert_eq!(store.store(&KeyId::new(id), &record).await?, StoreOutcome::Stored);
        }
        let kms = StaticKms::new(self.kms.key.as_bytes())?;
        Ok(SessionFactory::builder(&self.service, &self.product).metastore(store).kms(kms).build().await?)
    }

    fn partitions(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.records.iter().map(|record| record.partition.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Which bits of `size` bytes are tried: all of a small record, the ends and a sample of a large one.
fn bits(size: usize) -> Vec<usize> {
    let all = size * 8;
    if size <= 200 {
        return (0..all).collect();
    }
    (0..64 * 8).chain((64 * 8..all - 64 * 8).step_by(size * 8 / 64 + 1)).chain(all - 64 * 8..all).collect()
}

#[test]
fn there_are_exactly_132_records() -> TestResult {
    for (file, count) in FILES {
        assert_eq!(Vectors::read(file)?.records.len(), count, "{file}");
    }
    assert_eq!(FILES.iter().map(|(_, count)| count).sum::<usize>(), 132);
    Ok(())
}

#[tokio::test]
async fn every_record_decrypts_as_text_and_as_a_record() -> TestResult {
    for (file, _) in FILES {
        let vectors = Vectors::read(file)?;
        let factory = vectors.factory(|_, _| ()).await?;
        for Record { partition, plaintext, record } in &vectors.records {
            let plaintext = STANDARD.decode(plaintext)?;
            let session = factory.session(partition).await?;
            assert!(session.decrypt_json(record.as_bytes()).await? == plaintext, "{file}: {partition}");
            let record = DataRowRecord::from_json(record.as_bytes())?;
            assert!(session.decrypt(&record).await? == plaintext, "{file}: {partition}");
            assert!(session.decrypt_json(&record.to_json()).await? == plaintext, "{file}: {partition}");
        }
        assert_eq!(factory.status().cached_keys, vectors.metastore.len(), "{file}: every row was needed");
        factory.close().await?;
        assert_eq!(factory.status().live_keys, 0);
    }
    Ok(())
}

#[tokio::test]
async fn no_record_decrypts_with_a_bit_of_its_data_or_its_key_turned() -> TestResult {
    for (file, _) in FILES {
        let vectors = Vectors::read(file)?;
        let factory = vectors.factory(|_, _| ()).await?;
        for Record { partition, record, .. } in &vectors.records {
            let session = factory.session(partition).await?;
            let record = DataRowRecord::from_json(record.as_bytes())?;
            let with = |key: Vec<u8>, data: Vec<u8>| {
                DataRowRecord::from_parts(record.created(), key, record.parent_key().clone(), data)
            };
            let key_bits = bits(record.encrypted_key().len()).into_iter();
            let data_bits = bits(record.data().len()).into_iter();
            let damaged = key_bits
                .map(|bit| with(flip(record.encrypted_key(), bit), record.data().to_vec()))
                .chain(data_bits.map(|bit| with(record.encrypted_key().to_vec(), flip(record.data(), bit))));
            for (number, damaged) in damaged.enumerate() {
                // The two roads have code of their own; they take turns.
                let outcome = match number % 2 {
                    0 => session.decrypt(&damaged).await,
                    _ => session.decrypt_json(&damaged.to_json()).await,
                };
                assert!(matches!(outcome, Err(Error::Undecryptable)), "{file}: {partition}, {number}: {outcome:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn no_record_decrypts_with_a_bit_of_its_intermediate_keys_row_turned() -> TestResult {
    for (file, _) in FILES {
        let vectors = Vectors::read(file)?;
        for bit in bits(60) {
            let turn = |id: &str, row: &mut EnvelopeKeyRecord| {
                if id.starts_with("_IK_") {
                    row.encrypted_key = flip(&row.encrypted_key, bit);
                }
            };
            let factory = vectors.factory(turn).await?;
            for partition in vectors.partitions() {
                let record = vectors.records.iter().find(|record| record.partition == partition).expect("it has some");
                let outcome = factory.session(partition).await?.decrypt_json(record.record.as_bytes()).await;
                assert!(matches!(outcome, Err(Error::KeyCorrupt { .. })), "{file}: {partition}, {bit}: {outcome:?}");
            }
            factory.close().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn no_partition_decrypts_the_records_of_another() -> TestResult {
    for (file, _) in FILES {
        let vectors = Vectors::read(file)?;
        let factory = vectors.factory(|_, _| ()).await?;
        for reader in vectors.partitions() {
            let session = factory.session(reader).await?;
            for Record { partition, record, .. } in vectors.records.iter().filter(|record| record.partition != reader) {
                let outcome = session.decrypt_json(record.as_bytes()).await;
                assert!(
                    matches!(outcome, Err(Error::WrongPartition)),
                    "{file}: {reader} read {partition}: {outcome:?}"
                );
                let outcome = session.decrypt(&DataRowRecord::from_json(record.as_bytes())?).await;
                assert!(
                    matches!(outcome, Err(Error::WrongPartition)),
                    "{file}: {reader} read {partition}: {outcome:?}"
                );
            }
        }
        assert_eq!(factory.status().metastore_calls, 0, "refused before any call");
    }
    Ok(())
}
