//! System keys under AWS KMS in two regions, on PostgreSQL.
//!
//! One moto serves everybody: those that take an endpoint by way of a proxy that stands for both regions, the one in Go, which
//! takes none, as what is behind HTTPS_PROXY.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use keyward::kms::{AwsKms, AwsKmsOptions, KeyManagementService, RegionMap};
use keyward::stores::{Metastore, PostgresMetastore};
use serde_json::{Value, json};

use crate::kms_support::{self, client, new_key};
use crate::peers::{Kind, TestResult};
use crate::servers::{AwsFault, AwsProxy, MotoProxy, Postgres, PostgresSetup, Proxy};
use crate::world::{KEYWARD, Side, Table, World, migrate, orders};

/// The first is the preferred one.
const REGIONS: [&str; 2] = ["us-west-2", "eu-west-1"];

/// Two regions with a key each.
struct Regions {
    _moto: MotoProxy,
    /// For those that take an endpoint.
    proxy: AwsProxy,
    /// For the others.
    tunnel: Proxy,
    keys: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
}

impl Regions {
    async fn new() -> TestResult<Option<Self>> {
        let Some(moto) = MotoProxy::start()? else { return Ok(None) };
        let (proxy, tunnel) = (AwsProxy::start_to_hosts(moto.port)?, Proxy::start(moto.port)?);
        let mut keys = Vec::new();
        for region in REGIONS {
            keys.push(new_key(&client(&proxy.endpoint(), region)).await?);
        }
        let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
        let environment = vec![
            ("TZ", "UTC"),
            ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_REGION", REGIONS[0]),
            ("AWS_ENDPOINT_URL", leak(proxy.endpoint())),
            ("HTTPS_PROXY", leak(format!("http://127.0.0.1:{}", tunnel.port()))),
            ("AWS_CA_BUNDLE", leak(moto.authority.display().to_string())),
        ];
        Ok(Some(Self { _moto: moto, proxy, tunnel, keys, environment }))
    }

    /// Cuts a region off, or none.
    fn cut(&self, region: Option<&'static str>) {
        self.proxy.set(AwsFault::None);
        if let Some(region) = region {
            self.proxy.set_for(region, AwsFault::Cut);
        }
        let host = region.map(|region| format!("CONNECT kms.{region}."));
        self.tunnel.cut_before(usize::MAX, move |request| {
            host.as_ref().is_some_and(|host| request.starts_with(host.as_bytes()))
        });
        self.tunnel.cut_all();
    }
}

struct OnAws<'a> {
    regions: &'a Regions,
    server: &'a Postgres,
    database: String,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn system_keys_that_two_regions_wrap_are_for_all() -> TestResult {
    let Some(regions) = Regions::new().await? else { return Ok(()) };
    let Some(server) = Postgres::start(&PostgresSetup::default())? else { return Ok(()) };
    for sides in orders() {
        let table = OnAws::new(&regions, &server)?;
        World::new(&table, sides).await?.cross().await?;
    }
    Ok(())
}

/// Whoever made the system key, each of its regions opens it for everybody.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn either_region_may_be_cut_off() -> TestResult {
    let Some(regions) = Regions::new().await? else { return Ok(()) };
    let Some(server) = Postgres::start(&PostgresSetup::default())? else { return Ok(()) };
    for sides in orders().into_iter().filter(|sides| sides.contains(&KEYWARD)) {
        let table = OnAws::new(&regions, &server)?;
        let mut records = Vec::new();
        {
            regions.cut(None);
            let mut world = World::new(&table, sides).await?;
            for &writer in sides {
                let partition = format!("{writer:?}");
                records.push((writer, world.encrypt(writer, &partition, b"tea").await?, partition));
            }
        }
        assert_eq!(table.regions_of_system_key()?, REGIONS.len());
        for region in REGIONS {
            regions.cut(Some(region));
            regions.proxy.forget();
            let before = regions.tunnel.cuts();
            let mut world = World::new(&table, sides).await?;
            for (writer, record, partition) in &records {
                world.assert_all_read(*writer, partition, b"tea", record).await?;
            }
            // This library at least was cut off from the region that it prefers, and so was the one in Go.
            let was_cut = regions.proxy.seen().iter().any(|exchange| exchange.answer.is_empty());
            assert!(region != REGIONS[0] || was_cut, "nobody was cut off");
            let has_go = sides.contains(&Side::Peer(Kind::Go));
            assert!(region != REGIONS[0] || !has_go || regions.tunnel.cuts() > before, "nobody was cut off");
        }
    }
    Ok(())
}

impl<'a> OnAws<'a> {
    fn new(regions: &'a Regions, server: &'a Postgres) -> TestResult<Self> {
        let database = server.database("")?;
        migrate(&server.url(&database), &[])?;
        Ok(Self { regions, server, database })
    }

    /// Returns how many regions the system key is wrapped for.
    fn regions_of_system_key(&self) -> TestResult<usize> {
        let sql = "SELECT key_record::json->>'Key' FROM encryption_key WHERE id LIKE '\\_SK\\_%'";
        let wrapped = BASE64.decode(self.server.sql(&self.database, sql)?.trim())?;
        Ok(kms_support::regions(&wrapped)?.len())
    }
}

#[async_trait]
impl Table for OnAws<'_> {
    fn config(&self, peer: Kind) -> Value {
        let address = match peer {
            Kind::Rust => self.server.url(&self.database),
            Kind::Go => {
                let (port, database) = (self.server.port, &self.database);
                format!("host=127.0.0.1 port={port} user=postgres dbname={database} sslmode=disable")
            }
        };
        let map: serde_json::Map<String, Value> =
            REGIONS.iter().zip(&self.regions.keys).map(|(region, key)| ((*region).to_owned(), json!(key))).collect();
        json!({
            "Metastore": "rdbms", "SQLMetastoreDBType": "postgres", "ConnectionString": address,
            "KMS": "aws", "RegionMap": map, "PreferredRegion": REGIONS[0],
        })
    }

    fn environment(&self) -> &[(&str, &str)] {
        &self.regions.environment
    }

    async fn store(&self) -> TestResult<Arc<dyn Metastore>> {
        Ok(Arc::new(PostgresMetastore::connect(self.server.url(&self.database).parse()?).await?))
    }

    async fn rows(&self) -> TestResult<Vec<(String, i64)>> {
        let sql = "SELECT json_build_array(id, extract(epoch FROM created)::int8) FROM encryption_key";
        let rows = self.server.sql(&self.database, sql)?;
        Ok(rows.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }

    async fn kms(&self) -> TestResult<Arc<dyn KeyManagementService>> {
        let mut map = RegionMap::default();
        for (region, key) in REGIONS.iter().zip(&self.regions.keys) {
            map.add(region, key)?;
        }
        let mut options = AwsKmsOptions::new(map);
        options.preferred = Some(REGIONS[0].to_owned());
        let clients = REGIONS.map(|region| client(&self.regions.proxy.endpoint(), region));
        Ok(Arc::new(AwsKms::from_clients(clients, options)?))
    }
}
