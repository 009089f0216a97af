//! Mass eviction of sessions: in a program of its own, as it counts the threads of the process.

mod support;

use keyward::EvictionPolicy;
use support::{TestResult, World, eventually};

const POLICIES: [EvictionPolicy; 5] =
    [EvictionPolicy::Lru, EvictionPolicy::Lfu, EvictionPolicy::Slru, EvictionPolicy::TinyLfu, EvictionPolicy::S3Fifo];

/// Threads of this process, where the system tells.
fn threads() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok())
}

#[tokio::test]
async fn fifty_thousand_sessions_come_and_go_and_those_in_use_stay() -> TestResult {
    for policy in POLICIES {
        let world = World::with_policy(|crypto| {
            crypto.cache_sessions = true;
            crypto.session_cache_size = 100;
            crypto.session_cache_eviction = policy;
        })
        .await?;
        let count = if policy == EvictionPolicy::Lru { 50_000 } else { 2_000 };
        let mut held = Vec::new();
        world.encrypt("first", b"tea").await?;
        let before = threads();
        for number in 0..count {
            let session = world.session(&format!("tenant {number}")).await?;
            if number % 100 == 0 {
                held.push(session);
            }
        }
        assert_eq!(threads(), before, "{policy:?}");
        let open = world.factory.status().open_sessions;
        assert!((held.len()..=held.len() + 100).contains(&open), "{policy:?}: {open}");
        for session in held.iter().step_by(50) {
            let record = session.encrypt(b"tea").await?;
            assert_eq!(world.decrypt(session.partition(), &record).await?, b"tea");
        }
        drop(held);
        eventually("sessions that nobody holds or keeps are gone", || world.factory.status().open_sessions <= 100)
            .await;
        world.close().await?;
        assert_eq!(world.factory.status().open_sessions, 0);
    }
    Ok(())
}
