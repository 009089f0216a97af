//! The peer's side: its synchronous session, and the fastest road it has between a record and JSON text.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use asherah::aead::AES256GCM;
use asherah::api::new_session_factory;
use asherah::kms::StaticKMS;
use asherah::metastore::InMemoryMetastore;
use asherah::{Config, DataRowRecord, Session, SessionFactory};

use crate::{Case, Operation};

type Kms = StaticKMS<AES256GCM>;

/// Bytes of records that are cloned ahead of a timed stretch; small, so that they stay in the processor's cache.
const CLONED_AHEAD: usize = 32 << 10;

pub struct Peer {
    factory: SessionFactory<AES256GCM, Kms, InMemoryMetastore>,
    session: Session<AES256GCM, Kms, InMemoryMetastore>,
}

impl Peer {
    pub fn new() -> anyhow::Result<Self> {
        let crypto = Arc::new(AES256GCM::new());
        let kms = Arc::new(StaticKMS::new(Arc::clone(&crypto), b"thisIsAStaticMasterKeyForTesting".to_vec())?);
        let config = Config::new("my-service", "my-product");
        let factory = new_session_factory(config, Arc::new(InMemoryMetastore::new()), kms, crypto);
        let session = factory.get_session("partition-1");
        Ok(Self { factory, session })
    }

    pub fn case<'a>(&'a self, operation: Operation, payload: &'a [u8]) -> anyhow::Result<Case<'a>> {
        let session = &self.session;
        let record = session.encrypt(payload)?;
        let json = record.to_json_fast();
        ensure!(session.decrypt(record.clone())? == payload, "the record does not come back");
        ensure!(session.decrypt(serde_json::from_str(&json)?)? == payload, "the JSON text does not come back");
        Ok(Box::new(move |count| {
            let start = Instant::now();
            match operation {
                Operation::EncryptStruct => {
                    for _ in 0..count {
                        black_box(session.encrypt(black_box(payload))?);
                    }
                }
                Operation::EncryptJson => {
                    for _ in 0..count {
                        black_box(session.encrypt(black_box(payload))?.to_json_fast());
                    }
                }
                Operation::DecryptStruct => return decrypt_struct(session, &record, count),
                Operation::DecryptJson => {
                    for _ in 0..count {
                        let record: DataRowRecord = serde_json::from_str(black_box(&json))?;
                        black_box(session.decrypt(record)?);
                    }
                }
            }
            Ok(start.elapsed())
        }))
    }

    pub fn close(self) -> anyhow::Result<()> {
        self.session.close()?;
        self.factory.close()
    }
}

/// Decrypting consumes the record, so clones are made ahead; only decrypting and dropping the record is timed.
fn decrypt_struct(
    session: &Session<AES256GCM, Kms, InMemoryMetastore>,
    record: &DataRowRecord,
    count: u32,
) -> anyhow::Result<Duration> {
    let stretch = u32::try_from((CLONED_AHEAD / record.data.len()).max(1))?;
    let (mut left, mut took) = (count, Duration::ZERO);
    while left > 0 {
        let records: Vec<DataRowRecord> = (0..stretch.min(left)).map(|_| record.clone()).collect();
        left -= stretch.min(left);
        let start = Instant::now();
        for record in records {
            black_box(session.decrypt(black_box(record))?);
        }
        took += start.elapsed();
    }
    Ok(took)
}
