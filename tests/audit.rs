//! Audit events: what is told, to whom, and that nobody waits for a sink.

mod support;

use std::sync::{Arc, Mutex, mpsc};

use keyward::kms::StaticKms;
use keyward::stores::{InMemoryMetastore, Revocation};
use keyward::{AuditEvent, AuditRecord, AuditSettings, DataRowRecord, Error, KeyKind, ManualClock, SessionFactory};
use support::{DAY, SECOND, START, TestResult, at, flip};

/// A factory whose audit events are noted.
struct Stage {
    factory: SessionFactory,
    store: Arc<InMemoryMetastore>,
    clock: Arc<ManualClock>,
    heard: Arc<Mutex<Vec<AuditRecord>>>,
}

impl Stage {
    async fn new() -> TestResult<Self> {
        let (store, clock) = (Arc::new(InMemoryMetastore::new()), Arc::new(ManualClock::at(at(START))));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&heard);
        let sink = move |record: &AuditRecord| noted.lock().expect("no holder panics").push(record.clone());
        let settings =
            AuditSettings { sink: Some(Box::new(sink)), tenant_key: Some([7; 32]), ..AuditSettings::default() };
        let factory = build(&store, &clock, settings).await?;
        Ok(Self { factory, store, clock, heard })
    }

    /// Closes the factory, which hands over what waits, and returns what was heard.
    async fn finish(self) -> TestResult<Vec<AuditEvent>> {
        self.factory.close().await?;
        let heard = self.heard.lock().expect("no holder panics");
        assert!(heard.iter().all(|record| record.at >= at(START)));
        Ok(heard.iter().map(|record| record.event.clone()).collect())
    }
}

async fn build(
    store: &Arc<InMemoryMetastore>,
    clock: &Arc<ManualClock>,
    settings: AuditSettings,
) -> TestResult<SessionFactory> {
    let factory = SessionFactory::builder("svc", "prod")
        .metastore(Arc::clone(store))
        .kms(StaticKms::new(support::MASTER_KEY)?)
        .clock(Arc::clone(clock))
        .audit(settings)
        .build()
        .await?;
    Ok(factory)
}

#[tokio::test]
async fn the_life_of_a_key_is_told_in_order() -> TestResult {
    let stage = Stage::new().await?;
    let session = stage.factory.session("alice").await?;
    let keys = stage.factory.keys(Arc::clone(&stage.store));
    let first = session.encrypt(b"tea").await?;
    assert_eq!(keys.revoke(first.parent_key()).await?, Revocation::Revoked);
    let second = session.encrypt(b"tea").await?;
    keys.rotate("alice").await?;
    stage.clock.advance(91 * DAY);
    session.encrypt(b"tea").await?;
    keys.shred("alice").await?;
    assert!(matches!(session.decrypt(&second).await, Err(Error::Shredded { .. })));
    let alice = stage.factory.tenant_hash("alice")?;
    assert_ne!(alice, stage.factory.tenant_hash("bob")?);

    let told: Vec<String> = stage
        .finish()
        .await?
        .iter()
        .map(|event| match event {
            AuditEvent::KeyCreated { key } | AuditEvent::KeyRevoked { key } => {
                assert_eq!(key.tenant.is_some(), key.kind == Some(KeyKind::Intermediate));
                assert!(key.tenant.is_none_or(|tenant| tenant == alice));
                format!("{} {}", event.name(), key.kind.expect("a kind"))
            }
            AuditEvent::KeyRotated { key, cause } => {
                format!("{} {} {cause}", event.name(), key.kind.expect("a kind"))
            }
            AuditEvent::KeyShredded { tenant, versions } => {
                assert_eq!(*tenant, alice);
                format!("{} {versions}", event.name())
            }
            AuditEvent::DecryptRefused { tenant, reason } => {
                assert_eq!(*tenant, alice);
                format!("{} {reason}", event.name())
            }
            other => other.name().to_owned(),
        })
        .collect();
    let expected = [
        "key_created system",
        "key_created intermediate",
        "key_revoked intermediate",
        "key_rotated intermediate revoked",
        "key_rotated intermediate requested",
        "key_rotated system expired",
        "key_rotated intermediate expired",
        "key_shredded 4",
        "decrypt_refused shredded",
    ];
    assert_eq!(told, expected);
    Ok(())
}

#[tokio::test]
async fn who_is_refused_is_told_by_hash_alone() -> TestResult {
    let stage = Stage::new().await?;
    let record = stage.factory.session("alice").await?.encrypt(b"tea").await?;
    let bob = stage.factory.session("bob").await?;
    assert!(matches!(bob.decrypt(&record).await, Err(Error::WrongPartition)));
    let changed = DataRowRecord::from_parts(
        0,
        record.encrypted_key().to_vec(),
        record.parent_key().clone(),
        flip(record.data(), 3),
    );
    let alice = stage.factory.session("alice").await?;
    assert!(matches!(alice.decrypt(&changed).await, Err(Error::Undecryptable)));
    let (hash_of_alice, hash_of_bob) = (stage.factory.tenant_hash("alice")?, stage.factory.tenant_hash("bob")?);
    let events = stage.finish().await?;
    let refused: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            AuditEvent::DecryptRefused { tenant, reason } => Some((*tenant, *reason)),
            _ => None,
        })
        .collect();
    assert_eq!(refused, [(hash_of_bob, "wrong_partition"), (hash_of_alice, "undecryptable")]);
    let text = format!("{events:?}");
    assert!(!text.contains("alice") && !text.contains("_IK_"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_sink_that_blocks_delays_nobody_and_what_it_misses_is_dropped() -> TestResult {
    let (store, clock) = (Arc::new(InMemoryMetastore::new()), Arc::new(ManualClock::at(at(START))));
    let (release, blocked) = mpsc::channel::<()>();
    let heard = Arc::new(Mutex::new(0_usize));
    let counted = Arc::clone(&heard);
    let sink = move |_: &AuditRecord| {
        // Until the test lets go of the other end.
        let _ = blocked.recv();
        *counted.lock().unwrap() += 1;
    };
    let settings = AuditSettings { sink: Some(Box::new(sink)), capacity: 4, ..AuditSettings::default() };
    let factory = build(&store, &clock, settings).await?;
    let record = factory.session("alice").await?.encrypt(b"tea").await?;
    let bob = factory.session("bob").await?;
    for _ in 0..1000 {
        assert!(bob.decrypt(&record).await.is_err());
    }
    drop(release);
    factory.close().await?;
    let heard = *heard.lock().unwrap();
    assert!((4..=6).contains(&heard), "{heard} of a thousand");
    Ok(())
}

#[tokio::test]
async fn a_sink_that_never_returns_does_not_keep_a_factory_from_closing() -> TestResult {
    let (store, clock) = (Arc::new(InMemoryMetastore::new()), Arc::new(ManualClock::at(at(START))));
    let (_release, blocked) = mpsc::channel::<()>();
    let sink = move |_: &AuditRecord| {
        let _ = blocked.recv();
    };
    let settings = AuditSettings { sink: Some(Box::new(sink)), ..AuditSettings::default() };
    let factory = build(&store, &clock, settings).await?;
    factory.session("alice").await?.encrypt(b"tea").await?;
    let closed = tokio::time::timeout(30 * SECOND, factory.close()).await?;
    assert!(closed.is_ok());
    Ok(())
}
