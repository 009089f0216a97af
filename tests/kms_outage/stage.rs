//! AWS KMS in several regions, each behind a proxy.

use std::time::{Duration, Instant};

use keyward::BreakerPolicy;
use keyward::kms::{AwsKms, AwsKmsOptions, RegionMap};

use crate::kms_support::{client, new_key};
use crate::servers::{DynamoDb, DynamoDbKind};
pub(crate) use crate::servers::{Fault, Proxy, TestResult};

/// Regions with a key each, the preferred one first.
pub(crate) struct Regions {
    pub(crate) proxies: Vec<Proxy>,
    names: Vec<String>,
    map: RegionMap,
}

impl Regions {
    /// Makes a key in each region; `None` where there is no moto.
    pub(crate) async fn new(names: &[&str]) -> TestResult<Option<Self>> {
        let Some(server) = DynamoDb::shared(DynamoDbKind::Moto)? else { return Ok(None) };
        let (mut proxies, mut map) = (Vec::new(), RegionMap::default());
        for name in names {
            map.add(name, &new_key(&client(&server.endpoint(), name)).await?)?;
            proxies.push(Proxy::start(server.port)?);
        }
        Ok(Some(Self { proxies, names: names.iter().map(|name| (*name).to_owned()).collect(), map }))
    }

    /// Returns a service of these regions, as a process of its own would have it.
    pub(crate) fn kms(&self, set: impl FnOnce(&mut AwsKmsOptions)) -> TestResult<AwsKms> {
        let mut options = AwsKmsOptions::new(self.map.clone());
        options.preferred = self.names.first().cloned();
        let pause = Duration::from_millis(100);
        let mut breaker = BreakerPolicy::default();
        (breaker.failures, breaker.first_pause, breaker.most_pause) = (5, pause, pause);
        options.retries.breaker = Some(breaker);
        options.retries.attempt_timeout = Duration::from_secs(1);
        set(&mut options);
        let clients = self.names.iter().zip(&self.proxies);
        let clients = clients.map(|(name, proxy)| client(&format!("http://127.0.0.1:{}", proxy.port()), name));
        Ok(AwsKms::from_clients(clients, options)?)
    }

    /// Changes what happens to connections to all regions, open ones too.
    pub(crate) fn set(&self, fault: Fault) {
        for proxy in &self.proxies {
            proxy.set(fault);
            proxy.cut_all();
        }
    }
}

/// Waits until something is so that takes time of its own.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) -> TestResult {
    let began = Instant::now();
    while !is_so().await {
        if began.elapsed() > Duration::from_secs(60) {
            return Err(format!("{what} took too long").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
