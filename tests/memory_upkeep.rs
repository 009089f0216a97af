//! A session factory looks after secret memory by itself, and its numbers can be scraped.

mod support;

use std::time::Duration;

use keyward::memory::{ArenaSettings, Backend, Vault, init};
use metrics_exporter_prometheus::PrometheusBuilder;
use support::{TestResult, World};

/// One test, since the arena belongs to the whole process.
#[tokio::test]
async fn the_sealing_key_is_exchanged_under_load_and_the_numbers_say_what_happened() -> TestResult {
    let recorder = PrometheusBuilder::new().install_recorder()?;
    let settings = ArenaSettings {
        bytes: 1,
        scratch_slots: 4,
        audit_interval: Duration::from_millis(1),
        sealing_key_lifetime: Duration::from_millis(1),
        ..ArenaSettings::default()
    };
    let arena = init(&settings)?;
    assert!(!arena.is_degraded() && arena.slots < 64, "{arena:?}");
    let world = World::new().await?;
    let partitions = arena.slots * 3;
    let mut records = Vec::new();
    for partition in 0..partitions {
        let session = world.session(&format!("partition-{partition}")).await?;
        records.push((session.encrypt(b"tea").await?, session));
    }
    let exchanged = async {
        for (record, session) in records.iter().cycle() {
            assert_eq!(session.decrypt(record).await?, b"tea");
            if world.factory.status().memory.exchanges >= 20 {
                break;
            }
            tokio::task::yield_now().await;
        }
        TestResult::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(60), exchanged).await??;
    let status = world.factory.status();
    status.memory.publish();
    let scrape = recorder.render();
    let number = |name: &str| -> usize {
        let line = scrape.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {scrape}")).parse().unwrap()
    };
    let memory = &status.memory;
    assert_eq!(number("secret_inuse"), memory.slots_in_use);
    assert_eq!(number("secret_locked_bytes"), memory.locked_bytes);
    assert_eq!(number("secret_hot") + number("secret_cold"), status.live_keys);
    assert!(number("secret_cold") >= partitions - memory.slots, "{scrape}");
    assert!(number("secret_demotions_total") > 0 && number("secret_sealing_key_exchanges_total") >= 20);
    assert!(number("secret_allocated") >= partitions);
    for zero in
        ["secret_exhausted_total", "secret_forced_wipes_total", "secret_canary_failures_total", "secret_degraded"]
    {
        assert_eq!(number(zero), 0, "{zero}");
    }
    world.factory.close().await?;
    let vault = Vault::open(&settings)?;
    let after = vault.status();
    assert_eq!((after.hot, after.cold), (0, 0), "closing leaves no key");
    assert!(matches!(after.backend, Backend::MemfdSecret | Backend::Mlock));
    Ok(())
}
