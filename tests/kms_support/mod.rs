//! AWS KMS in several regions, as moto has it, each behind a proxy.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kms::{Client, Config};
use keyward::SessionFactory;
use keyward::kms::{AwsKms, AwsKmsOptions, KeyManagementService, KmsError, RegionMap, SystemKey};
use keyward::stores::InMemoryMetastore;
use secrecy::SecretSlice;
use serde_json::Value;

use crate::servers::{AwsProxy, DynamoDb, DynamoDbKind};

pub(crate) type TestResult<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The regions of most tests, in the order in which they are asked: the first is the preferred one, the others stand in the
/// order of the configuration, which is not that of the alphabet.
pub(crate) const ORDER: [&str; 3] = ["eu-west-1", "us-west-2", "ap-southeast-2"];

/// What the process should show nowhere.
pub(crate) const SECRET: &str = "hunter2";

/// Returns a client whose credentials nobody else has, and which sends each request once.
pub(crate) fn client(endpoint: &str, region: &str) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .credentials_provider(Credentials::new("AKIAEXAMPLE", SECRET, None, None, "test"))
        .endpoint_url(endpoint)
        .retry_config(RetryConfig::disabled());
    Client::from_conf(config.build())
}

/// A region.
pub(crate) struct Place {
    pub(crate) name: String,
    /// The ARN of its master key.
    pub(crate) arn: String,
    pub(crate) proxy: AwsProxy,
    /// By way of the proxy.
    pub(crate) client: Client,
    /// Past the proxy.
    pub(crate) direct: Client,
}

impl Place {
    pub(crate) async fn new(server: &DynamoDb, name: &str) -> TestResult<Self> {
        let direct = client(&server.endpoint(), name);
        let arn = new_key(&direct).await?;
        let proxy = AwsProxy::start(server.port)?;
        Ok(Self { name: name.to_owned(), arn, client: client(&proxy.endpoint(), name), proxy, direct })
    }

    /// Returns how many requests of each kind were read: GenerateDataKey, Encrypt, Decrypt.
    pub(crate) fn asked(&self) -> [usize; 3] {
        ["GenerateDataKey", "Encrypt", "Decrypt"].map(|operation| self.proxy.count(operation))
    }
}

/// Makes a master key and returns its ARN.
pub(crate) async fn new_key(client: &Client) -> TestResult<String> {
    let made = client.create_key().send().await?.key_metadata.ok_or("a key without metadata")?;
    Ok(made.arn.ok_or("a key without an ARN")?)
}

/// Some regions.
pub(crate) struct Stage {
    pub(crate) places: Vec<Place>,
}

impl Stage {
    /// Makes regions, each with a master key of its own; none where there is no moto.
    pub(crate) async fn new(names: &[&str]) -> TestResult<Option<Self>> {
        let Some(server) = DynamoDb::shared(DynamoDbKind::Moto)? else { return Ok(None) };
        let mut places = Vec::new();
        for name in names {
            places.push(Place::new(server, name).await?);
        }
        Ok(Some(Self { places }))
    }

    /// Returns options for the regions in this order, given in another one: the preferred one last.
    pub(crate) fn options(&self) -> TestResult<AwsKmsOptions> {
        let mut map = RegionMap::default();
        for place in self.places[1..].iter().chain(&self.places[..1]) {
            map.add(&place.name, &place.arn)?;
        }
        let mut options = AwsKmsOptions::new(map);
        options.preferred = Some(self.places[0].name.clone());
        Ok(options)
    }

    /// Returns the service, with its options changed.
    pub(crate) fn kms(&self, change: impl FnOnce(&mut AwsKmsOptions)) -> TestResult<AwsKms> {
        let mut options = self.options()?;
        change(&mut options);
        Ok(AwsKms::from_clients(self.places.iter().map(|place| place.client.clone()), options)?)
    }

    /// Returns the service that knows some of the regions alone, the first of them preferred.
    pub(crate) fn kms_of(&self, places: &[usize], change: impl FnOnce(&mut AwsKmsOptions)) -> TestResult<AwsKms> {
        let mut map = RegionMap::default();
        for &at in places {
            map.add(&self.places[at].name, &self.places[at].arn)?;
        }
        let mut options = AwsKmsOptions::new(map);
        options.preferred = Some(self.places[places[0]].name.clone());
        change(&mut options);
        Ok(AwsKms::from_clients(self.places.iter().map(|place| place.client.clone()), options)?)
    }

    pub(crate) fn forget(&self) {
        self.places.iter().for_each(|place| place.proxy.forget());
    }
}

/// A system key and what wrapping it came to.
pub(crate) struct Wrapped {
    pub(crate) key: [u8; 32],
    pub(crate) outcome: Result<Vec<u8>, KmsError>,
}

/// Stands between a factory, which alone has system keys, and a service, whose answers it keeps.
struct Between {
    kms: AwsKms,
    seen: Arc<Mutex<Option<Wrapped>>>,
}

#[async_trait]
impl KeyManagementService for Between {
    async fn encrypt_key(&self, key: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
        let outcome = self.kms.encrypt_key(key).await;
        let key = key.with_bytes(|key| *key)?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Wrapped { key, outcome });
        // The factory needs no key of it.
        Err(KmsError::undecryptable())
    }

    async fn decrypt_key(&self, _: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
        Err(KmsError::undecryptable())
    }

    fn repeats_calls(&self) -> bool {
        true
    }
}

/// Has the service wrap a new system key.
pub(crate) async fn wrap(kms: &AwsKms) -> TestResult<Wrapped> {
    let seen = Arc::new(Mutex::default());
    let between = Between { kms: kms.clone(), seen: Arc::clone(&seen) };
    let (metastore, minute) = (InMemoryMetastore::new(), Duration::from_secs(60));
    let builder = SessionFactory::builder("svc", "prod").metastore(metastore).kms(between).kms_timeout(minute);
    let factory = builder.operation_timeout(minute).build().await?;
    let encrypted = factory.session("alice").await?.encrypt(b"tea").await;
    factory.close().await?;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    seen.ok_or_else(|| format!("the service was not asked: {encrypted:?}").into())
}

/// An envelope, read as any program would.
pub(crate) fn envelope(wrapped: &[u8]) -> TestResult<Value> {
    Ok(serde_json::from_slice(wrapped)?)
}

/// Returns the regions that a wrapped key is for, in their order.
pub(crate) fn regions(wrapped: &[u8]) -> TestResult<Vec<String>> {
    let envelope = envelope(wrapped)?;
    let keks = envelope["kmsKeks"].as_array().ok_or("an envelope without a list")?;
    Ok(keks.iter().map(|kek| kek["region"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Returns an error and its causes in one line, which names no secret and no ARN.
pub(crate) fn text(error: &KmsError) -> String {
    let mut text = error.to_string();
    let mut cause = Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    for shown in [&text, &format!("{error:?}")] {
        assert!(!shown.contains(SECRET) && !shown.contains("arn:aws") && !shown.contains("key/"), "{shown}");
    }
    text
}
