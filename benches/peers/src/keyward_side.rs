//! Keyward's side: a current-thread runtime, entered once per round.

use std::hint::black_box;
use std::time::Instant;

use anyhow::ensure;
use keyward::{CryptoPolicy, Session, SessionFactory, kms::StaticKms, stores::InMemoryMetastore};
use tokio::runtime::{Builder, Runtime};

use crate::{Case, Operation};

pub struct Keyward {
    runtime: Runtime,
    factory: SessionFactory,
    session: Session,
}

impl Keyward {
    pub fn new() -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (factory, session) = runtime.block_on(async {
            let factory = SessionFactory::builder("my-service", "my-product")
                .metastore(InMemoryMetastore::new())
                .kms(StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?)
                .policy(CryptoPolicy::default())
                .build()
                .await?;
            let session = factory.session("partition-1").await?;
            anyhow::Ok((factory, session))
        })?;
        Ok(Self { runtime, factory, session })
    }

    pub fn case<'a>(&'a self, operation: Operation, payload: &'a [u8]) -> anyhow::Result<Case<'a>> {
        let Self { runtime, session, .. } = self;
        let record = runtime.block_on(session.encrypt(payload))?;
        let json = runtime.block_on(session.encrypt_json(payload))?;
        ensure!(runtime.block_on(session.decrypt(&record))?[..] == *payload, "the record does not come back");
        ensure!(runtime.block_on(session.decrypt_json(&json))?[..] == *payload, "the JSON text does not come back");
        Ok(Box::new(move |count| {
            runtime.block_on(async {
                let start = Instant::now();
                match operation {
                    Operation::EncryptStruct => {
                        for _ in 0..count {
                            black_box(session.encrypt(black_box(payload)).await?);
                        }
                    }
                    Operation::EncryptJson => {
                        for _ in 0..count {
                            black_box(session.encrypt_json(black_box(payload)).await?);
                        }
                    }
                    Operation::DecryptStruct => {
                        for _ in 0..count {
                            black_box(session.decrypt(black_box(&record)).await?);
                        }
                    }
                    Operation::DecryptJson => {
                        for _ in 0..count {
                            black_box(session.decrypt_json(black_box(&json)).await?);
                        }
                    }
                }
                Ok(start.elapsed())
            })
        }))
    }

    pub fn close(self) -> anyhow::Result<()> {
        let Self { runtime, factory, session } = self;
        runtime.block_on(async {
            session.close().await?;
            factory.close().await?;
            Ok(())
        })
    }
}
