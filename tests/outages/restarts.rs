//! Servers that are killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::stage::{Backend, Records, TestResult, World, encrypt, eventually};

const TASKS: usize = 20;

pub(crate) async fn a_server_that_is_killed_under_load_loses_and_doubles_no_key(backend: &Backend) -> TestResult {
    let backend = backend.alone().await?;
    let world = World::new(&backend, |setup| setup.retries.attempt_timeout = Duration::from_secs(1)).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let done: Arc<[AtomicUsize]> = (0..TASKS).map(|_| AtomicUsize::new(0)).collect();
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (factory, stop, done) = (world.factory.clone(), Arc::clone(&stop), Arc::clone(&done));
        tasks.spawn(async move {
            let mut records = Records::new();
            while !stop.load(Ordering::SeqCst) {
                let partition = format!("p{task}-{}", records.len());
                match encrypt(&factory, &partition).await {
                    Ok(record) => records.push((partition, record)),
                    Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(10)).await,
                    Err(error) => return Err(format!("{partition}: {error:?}").into()),
                }
                done[task].store(records.len(), Ordering::SeqCst);
            }
            TestResult::Ok(records)
        });
    }
    let counts = || done.iter().map(|done| done.load(Ordering::SeqCst)).collect::<Vec<_>>();
    eventually("everybody has begun", async || counts().iter().all(|count| *count >= 3)).await?;
    backend.kill()?;
    backend.start_again()?;
    let before = counts();
    let recovers = eventually("everybody goes on", async || {
        counts().iter().zip(&before).all(|(count, before)| *count >= before + 5)
    });
    let recovered = recovers.await;
    stop.store(true, Ordering::SeqCst);
    let mut records = Records::new();
    while let Some(task) = tasks.join_next().await {
        records.extend(task??);
    }
    recovered?;
    world.check(&records).await?;
    world.close().await
}
