//! What a warm session costs: encrypt and decrypt, as a record and as JSON text.
//!
//! The runtime is entered once per sample, so that the numbers are those of the operations.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use keyward::{CryptoPolicy, Error, Session, SessionFactory, kms::StaticKms, stores::InMemoryMetastore};
use tokio::runtime::{Builder, Runtime};

type BenchResult<T> = Result<T, Box<dyn std::error::Error>>;

const PAYLOADS: [(&str, usize); 4] = [("64 B", 64), ("1 KiB", 1 << 10), ("16 KiB", 16 << 10), ("1 MiB", 1 << 20)];

fn main() -> BenchResult<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (factory, session) = runtime.block_on(open())?;
    let mut criterion = Criterion::default().configure_from_args();

    let plain = |payload: &[u8]| Ok(payload.to_vec());
    let record = |payload: &[u8]| runtime.block_on(session.encrypt(payload));
    let json = |payload: &[u8]| runtime.block_on(session.encrypt_json(payload));
    measure(&mut criterion, &runtime, "encrypt/struct", plain, &async |payload| session.encrypt(payload).await)?;
    measure(&mut criterion, &runtime, "encrypt/json", plain, &async |payload| session.encrypt_json(payload).await)?;
    measure(&mut criterion, &runtime, "decrypt/struct", record, &async |record| session.decrypt(record).await)?;
    measure(&mut criterion, &runtime, "decrypt/json", json, &async |json| session.decrypt_json(json).await)?;

    criterion.final_summary();
    runtime.block_on(async {
        session.close().await?;
        factory.close().await?;
        Ok(())
    })
}

async fn open() -> BenchResult<(SessionFactory, Session)> {
    let factory = SessionFactory::builder("my-service", "my-product")
        .metastore(InMemoryMetastore::new())
        .kms(StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?)
        .policy(CryptoPolicy::default())
        .build()
        .await?;
    let session = factory.session("partition-1").await?;
    Ok((factory, session))
}

/// Benchmarks `operation` on what `prepare` makes of each payload; throughput counts bytes of payload.
fn measure<Input, Output>(
    criterion: &mut Criterion,
    runtime: &Runtime,
    group: &str,
    prepare: impl Fn(&[u8]) -> Result<Input, Error>,
    operation: &impl AsyncFn(&Input) -> Result<Output, Error>,
) -> BenchResult<()> {
    let mut group = criterion.benchmark_group(group);
    for (label, size) in PAYLOADS {
        let payload: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
        let input = prepare(&payload)?;
        runtime.block_on(operation(&input))?;
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(label), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(async {
                    let start = Instant::now();
                    for _ in 0..iterations {
                        black_box(operation(black_box(&input)).await.expect("what worked once works again"));
                    }
                    start.elapsed()
                })
            });
        });
    }
    group.finish();
    Ok(())
}
