//! One process operates on keys by the command, another one runs: it obeys within its check interval, by the real clock.
#![cfg(all(feature = "cli", feature = "sqlite"))]

mod cli_support;

use std::time::{Duration, Instant};

use cli_support::{TestResult, World};
use keyward::kms::LocalKms;
use keyward::stores::SqliteMetastore;
use keyward::{CryptoPolicy, Error, KeyMeta, Session, SessionFactory};

const INTERVAL: Duration = Duration::from_millis(400);

/// What the clock of keys is coarser by than that of the test.
const TICK: Duration = Duration::from_millis(20);

/// A running program on the store and master key of the command.
struct Program {
    factory: SessionFactory,
    session: Session,
}

impl Program {
    async fn start(world: &World) -> TestResult<Self> {
        let policy = CryptoPolicy { revoke_check_interval: INTERVAL, ..CryptoPolicy::default() };
        let factory = SessionFactory::builder("keyward", "default")
            .metastore(SqliteMetastore::open(world.path("keyward.db")).await?)
            .kms(LocalKms::open(world.path("keyward.key"))?)
            .policy(policy)
            .build()
            .await?;
        let session = factory.session("alice").await?;
        Ok(Self { factory, session })
    }

    /// Encrypts until that is no more under `old`, and tells whether it was for too long.
    async fn leaves(&self, old: &KeyMeta, since: Instant) -> TestResult<Option<KeyMeta>> {
        loop {
            let began = since.elapsed();
            match self.session.encrypt(b"tea").await {
                Ok(record) if record.parent_key() != old => return Ok(Some(record.parent_key().clone())),
                Ok(_) => assert!(began <= INTERVAL + TICK, "still under {old} after {began:?}"),
                Err(Error::Shredded { .. }) => return Ok(None),
                Err(other) => return Err(other.into()),
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_running_program_obeys_what_the_command_does_within_its_interval() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    let program = Program::start(&world).await?;
    let record = program.session.encrypt(b"tea").await?;
    let first = record.parent_key().clone();

    let created = first.created.to_string();
    world.ok(&["keys", "revoke", "--id", first.id.as_str(), "--created", &created, "--execute"], b"")?;
    let second = program.leaves(&first, Instant::now()).await?.ok_or("it is not shredded")?;

    world.ok(&["keys", "rotate", "--partition", "alice", "--execute"], b"")?;
    let third = program.leaves(&second, Instant::now()).await?.ok_or("it is not shredded")?;
    assert!(first.created < second.created && second.created < third.created);
    assert_eq!(program.session.decrypt(&record).await?, b"tea");

    world.ok(&["keys", "shred", "--partition", "alice", "--execute", "--confirm", "alice"], b"")?;
    let shredded = Instant::now();
    assert!(program.leaves(&third, shredded).await?.is_none());
    assert!(program.session.decrypt(&record).await.is_err());
    program.factory.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_program_that_only_decrypts_notices_a_shredding_within_its_interval() -> TestResult {
    let world = World::new()?;
    let json = world.encrypt("alice", b"tea")?;
    let program = Program::start(&world).await?;
    assert_eq!(program.session.decrypt_json(&json).await?, b"tea");
    world.ok(&["keys", "shred", "--partition", "alice", "--execute", "--confirm", "alice"], b"")?;
    let since = Instant::now();
    loop {
        let began = since.elapsed();
        match program.session.decrypt_json(&json).await {
            Ok(_) => assert!(began <= INTERVAL + TICK, "still readable after {began:?}"),
            Err(Error::Shredded { .. } | Error::KeyNotFound { .. }) => break,
            Err(other) => return Err(other.into()),
        }
        tokio::task::yield_now().await;
    }
    program.factory.close().await?;
    Ok(())
}
