//! What a system key costs to make and to open with AWS KMS, in one region and in three, beside the bare SDK.
//!
//! `cargo bench --bench kms`. Regions are moto behind proxies that hold back what passes them, so that a request takes as long as
//! one over a network, and several at once take no longer than one. Sides take turns; medians and their ratios are printed.

#[path = "../../tests/servers/mod.rs"]
mod servers;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use aws_sdk_kms::{Client, Config};
use futures_util::future::try_join_all;
use keyward::kms::{AwsKms, AwsKmsOptions, KeyManagementService, RegionMap};
use keyward::stores::{InMemoryMetastore, Metastore};
use keyward::{KeyId, Keys, ManualClock, SessionFactory};

use servers::{DynamoDb, DynamoDbKind, Fault, Proxy};

type BenchResult<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long each direction of a connection takes.
const HALF_TRIP: Duration = Duration::from_millis(10);

const ROUNDS: usize = 40;

fn main() -> BenchResult {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure())
}

async fn measure() -> BenchResult {
    let Some(server) = DynamoDb::start(DynamoDbKind::Moto)? else { return Ok(()) };
    let (one, three) = (
        Side::new(&server, &["eu-central-1"]).await?,
        Side::new(&server, &["us-west-2", "us-east-1", "eu-west-1"]).await?,
    );
    let mut times: [Vec<Duration>; 8] = Default::default();
    for round in 0..=ROUNDS {
        let round_times = [
            one.bare_make().await?,
            one.make().await?,
            three.bare_make().await?,
            three.make().await?,
            one.bare_open().await?,
            one.open().await?,
            three.bare_open().await?,
            three.open().await?,
        ];
        // The first one opens connections.
        if round > 0 {
            for (times, time) in times.iter_mut().zip(round_times) {
                times.push(time);
            }
        }
    }
    let median = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    println!("A request takes {} ms and what moto needs; medians of {ROUNDS}", 2 * HALF_TRIP.as_millis());
    println!("{:<28} {:>9} {:>9} {:>8}", "", "bare SDK", "keyward", "ratio");
    let names = ["make, one region", "make, three regions", "open, one region", "open, the first of three"];
    for (name, pair) in names.iter().zip(median.chunks_exact(2)) {
        println!("{name:<28} {:>6.1} ms {:>6.1} ms {:>8.2}", pair[0], pair[1], pair[1] / pair[0]);
    }
    println!(
        "three regions over one: make {:.2}, open {:.2}   (target: 1.3)",
        median[3] / median[1],
        median[7] / median[5]
    );
    println!(
        "making takes two requests in a row where there are several regions: over two requests of one region {:.2}",
        median[3] / (median[1] + median[5])
    );
    for side in [one, three] {
        side.factory.close().await?;
    }
    Ok(())
}

/// Some regions, and who uses them.
struct Side {
    kms: Arc<AwsKms>,
    factory: SessionFactory,
    keys: Keys,
    clock: Arc<ManualClock>,
    store: Arc<InMemoryMetastore>,
    /// With its key, each.
    clients: Vec<(Client, String)>,
    _proxies: Vec<Proxy>,
}

impl Side {
    async fn new(server: &DynamoDb, names: &[&str]) -> BenchResult<Self> {
        let (mut map, mut clients, mut proxies) = (RegionMap::default(), Vec::new(), Vec::new());
        for name in names {
            let key = client(&server.endpoint(), name).create_key().send().await?;
            let arn = key.key_metadata.and_then(|key| key.arn).ok_or("a key has an ARN")?;
            map.add(name, &arn)?;
            let proxy = Proxy::start(server.port)?;
            proxy.set(Fault::Delay(HALF_TRIP));
            clients.push((client(&format!("http://127.0.0.1:{}", proxy.port()), name), arn));
            proxies.push(proxy);
        }
        let mut options = AwsKmsOptions::new(map);
        options.preferred = names.first().map(|name| (*name).to_owned());
        let kms = Arc::new(AwsKms::from_clients(clients.iter().map(|(client, _)| client.clone()), options)?);
        let (store, clock) = (Arc::new(InMemoryMetastore::new()), Arc::new(ManualClock::at(SystemTime::now())));
        let factory = SessionFactory::builder("svc", "prod")
            .metastore(Arc::clone(&store))
            .kms(Arc::clone(&kms))
            .clock(Arc::clone(&clock))
            .build()
            .await?;
        let keys = factory.keys(Arc::clone(&store));
        Ok(Self { kms, factory, keys, clock, store, clients, _proxies: proxies })
    }

    /// Has a system key made.
    async fn make(&self) -> BenchResult<Duration> {
        self.clock.advance(Duration::from_secs(60));
        let began = Instant::now();
        self.keys.rotate_system_key().await?;
        Ok(began.elapsed())
    }

    /// Makes the requests that this takes.
    async fn bare_make(&self) -> BenchResult<Duration> {
        let began = Instant::now();
        let (first, arn) = &self.clients[0];
        let key = first.generate_data_key().key_id(arn).key_spec(DataKeySpec::Aes256).send().await?;
        let plain = key.plaintext.ok_or("a data key")?;
        let others = self.clients[1..].iter();
        try_join_all(others.map(|(client, arn)| client.encrypt().key_id(arn).plaintext(plain.clone()).send())).await?;
        Ok(began.elapsed())
    }

    /// Has a system key opened.
    async fn open(&self) -> BenchResult<Duration> {
        let row = self.store.load_latest(&KeyId::new("_SK_svc_prod")).await?.ok_or("a system key")?;
        let began = Instant::now();
        self.kms.decrypt_key(&row.encrypted_key).await?;
        Ok(began.elapsed())
    }

    /// Makes the request that this takes.
    async fn bare_open(&self) -> BenchResult<Duration> {
        let (first, arn) = &self.clients[0];
        let wrapped = first.encrypt().key_id(arn).plaintext(Blob::new([7; 32])).send().await?;
        let wrapped = wrapped.ciphertext_blob.ok_or("a wrapped key")?;
        let began = Instant::now();
        first.decrypt().key_id(arn).ciphertext_blob(wrapped).send().await?;
        Ok(began.elapsed())
    }
}

fn client(endpoint: &str, region: &str) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .credentials_provider(Credentials::new("AKIAEXAMPLE", "hunter2", None, None, "bench"))
        .endpoint_url(endpoint)
        .retry_config(RetryConfig::disabled());
    Client::from_conf(config.build())
}
