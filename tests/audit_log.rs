//! Audit events as `tracing` events: in a program of its own, as the subscriber belongs to the process.
#![cfg(feature = "cli")]

mod support;

use std::io;
use std::sync::{Arc, Mutex};

use keyward::{AUDIT_TARGET, Error};
use support::{TestResult, World};

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().map_or(Ok(0), |mut log| log.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn audit_events_are_log_lines_on_a_target_of_their_own() -> TestResult {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber)?;
    let world = World::new().await?;
    let record = world.encrypt("alice", b"tea").await?;
    assert!(matches!(world.decrypt("bob", &record).await, Err(Error::WrongPartition)));
    let (alice, bob) = (world.factory.tenant_hash("alice")?, world.factory.tenant_hash("bob")?);
    world.close().await?;

    let log = String::from_utf8(log.0.lock().map_err(|_| "a writer panicked")?.clone())?;
    let audit: Vec<&str> = log.lines().filter(|line| line.contains(AUDIT_TARGET)).collect();
    let has = |parts: &[&str]| audit.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&["event=\"key_created\"", "kind=system"]), "{log}");
    assert!(has(&["event=\"key_created\"", "kind=intermediate", &format!("tenant={alice}")]), "{log}");
    assert!(has(&["event=\"decrypt_refused\"", &format!("tenant={bob}"), "wrong_partition"]), "{log}");
    assert!(!log.contains("alice") && !log.contains("bob"), "{log}");
    Ok(())
}
