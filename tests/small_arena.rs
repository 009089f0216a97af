//! More keys than locked memory: everything works, at the cost of unsealing. A binary of its own, as the arena is the
//! process's.

mod support;

use keyward::memory::{ArenaSettings, init};
use keyward::{DataRowRecord, Error, Session};
use support::{Calls, TestResult, World};

/// Tries again when all scratch slots were in use at that moment, which the error calls transient.
macro_rules! patiently {
    ($operation:expr) => {
        loop {
            match $operation.await {
                Err(error @ Error::Memory(_)) => {
                    assert!(error.is_transient(), "{error:?}");
                    tokio::task::yield_now().await;
                }
                other => break other,
            }
        }
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_more_partitions_than_slots_work() -> TestResult {
    let settings = ArenaSettings { bytes: 1, scratch_slots: 4, ..ArenaSettings::default() };
    let arena = init(&settings)?;
    assert!(arena.slots <= 64, "{} slots", arena.slots);
    let world = World::new().await?;
    let partitions = arena.slots * 10;
    let mut records: Vec<(Session, DataRowRecord)> = Vec::new();
    for number in 0..partitions {
        let session = world.session(&format!("p{number}")).await?;
        let record = session.encrypt(&number.to_le_bytes()).await?;
        records.push((session, record));
    }
    assert_eq!(world.factory.status().cached_keys, partitions + 1);
    let before = world.calls();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let records: Vec<_> = records.iter().map(|(session, record)| (session.clone(), record.clone())).collect();
            tokio::spawn(async move {
                for (number, (session, record)) in records.iter().enumerate() {
                    let payload = patiently!(session.decrypt(record))?;
                    assert_eq!(payload, number.to_le_bytes(), "task {task}");
                    let again = patiently!(session.encrypt(b"tea"))?;
                    assert_eq!(patiently!(session.decrypt(&again))?, b"tea");
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    assert_eq!(world.calls() - before, Calls::NONE, "what is not resident is unsealed, not loaded");
    assert_eq!(world.factory.status().memory.locked_bytes, arena.locked_bytes);
    drop(records);
    world.close().await
}
