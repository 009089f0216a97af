//! The service: system keys wrapped in every region, and opened in the first that answers.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_config::Region as AwsRegion;
use aws_config::sts::AssumeRoleProvider;
use aws_sdk_kms::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kms::error::BoxError;
use aws_sdk_kms::{Client, Config};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use secrecy::SecretSlice;
use tokio::time::timeout_at;

use super::arn::KeyArn;
use super::data_key::{self, DataKey};
use super::envelope::{Envelope, Kek};
use super::options::AwsKmsOptions;
use super::race::{Deadline, Place, Rounds};
use super::region::Region;
use crate::aws::{Plaintext, is_private, surroundings};
use crate::clients::Clients;
use crate::crypto::system_random;
use crate::error::{KmsError, KmsFailure, KmsFailureKind};
use crate::kms::{Gate, KeyManagementService, KmsHealth, SystemKey};

const WRAPPING: &str = "wrapping a system key with AWS KMS";
const WRAPPING_FOR_ENOUGH: &str = "wrapping a system key for as many regions of AWS KMS as `min_regions` asks for";
const OPENING: &str = "opening a system key with AWS KMS";

const STRANGE_KEY: &str = "it is wrapped under a master key that is not configured: name that one in `former`; `keyward kms audit` \
    shows the end of its ARN";

/// A key management service whose master keys live in AWS KMS, in one region or several.
///
/// A system key is wrapped under a data key, and that under the master key of every region, in parallel; any of them opens
/// it again. The preferred region is asked first, then the others in the order in which they were given. Each region that keeps
/// failing is left alone for a while. What is stored is the same as that of all implementations.
///
/// Needs a tokio runtime. Wrapping costs a request to each region; opening one. The rights that it needs are
/// `kms:GenerateDataKey`, `kms:Encrypt` and `kms:Decrypt` on each key.
///
/// # Cancel safety
/// A call that is dropped has changed nothing.
///
/// # Security
/// Data keys are wiped on every path, and so is every buffer of ours that they pass through; those of TLS and HTTP, which
/// hold what was received until they are used again, cannot be. Requests to open a key name the master key that is
/// configured, so that a row that somebody wrapped under a key of theirs does not open. ARNs appear in the log at debug level
/// alone.
///
/// # Examples
/// ```no_run
/// use keyward::kms::AwsKms;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let address = "aws:us-west-2=arn:aws:kms:us-west-2:111122223333:key/1234,\
///     us-east-1=arn:aws:kms:us-east-1:111122223333:key/5678;preferred=us-west-2";
/// let kms = AwsKms::connect(address.parse()?).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AwsKms {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    /// In the order in which they are asked.
    pub(super) regions: Vec<Region>,
    pub(super) former: Vec<KeyArn>,
    least: usize,
    options: AwsKmsOptions,
    rounds: Rounds,
}

impl AwsKms {
    /// Finds out where credentials come from. Sends nothing to AWS KMS: one that is away keeps no program from starting.
    ///
    /// # Errors
    /// [`KmsError::Settings`] when the options cannot work.
    pub async fn connect(options: AwsKmsOptions) -> Result<Self, KmsError> {
        let keys = options.check()?;
        // Credentials of a role come from STS in a region: that which is near, and known without a look at the machine's own.
        let near = keys.first().map(|key| AwsRegion::new(key.region().to_owned()));
        let found = surroundings(near, options.profile.as_deref()).await;
        let mut shared =
            Config::from(&found).to_builder().retry_config(RetryConfig::disabled()).timeout_config(options.timeouts());
        if let Some(role) = &options.role {
            let mut provider = AssumeRoleProvider::builder(role).session_name("keyward").configure(&found);
            if let Some(id) = &options.external_id {
                provider = provider.external_id(id);
            }
            shared.set_credentials_provider(Some(aws_sdk_kms::config::SharedCredentialsProvider::new(
                provider.build().await,
            )));
        }
        if !options.allow_plaintext {
            shared = shared.interceptor(NoPlaintext);
        }
        let shared = shared.build();
        let clients = |key: &KeyArn| {
            let mut config = shared.to_builder().region(AwsRegion::new(key.region().to_owned()));
            if let Some(endpoint) = options.endpoint_of(key.region()) {
                config = config.endpoint_url(endpoint);
            }
            let config = config.build();
            Clients::new(move || Client::from_conf(config.clone()))
        };
        Ok(Self::new(keys.iter().map(|key| (key.clone(), clients(key))).collect(), options))
    }

    /// Uses clients that the application has set up: one for each region of the map, found by its own region.
    ///
    /// Endpoints, credentials and time limits are the clients'. Those that repeat requests themselves are to have that off.
    ///
    /// # Errors
    /// [`KmsError::Settings`] when the options cannot work, or a region has no client.
    pub fn from_clients(clients: impl IntoIterator<Item = Client>, options: AwsKmsOptions) -> Result<Self, KmsError> {
        let clients: Vec<Client> = clients.into_iter().collect();
        let of = |key: KeyArn| {
            let is_its = |client: &&Client| client.config().region().is_some_and(|own| own.as_ref() == key.region());
            match clients.iter().find(is_its) {
                Some(client) => Ok((key, Clients::Given(client.clone()))),
                None => Err(KmsError::Settings {
                    what: format!("no client is given for the region {}", key.region()),
                    advice: "give one that has this region",
                }),
            }
        };
        let regions: Result<Vec<_>, KmsError> = options.check()?.into_iter().map(of).collect();
        Ok(Self::new(regions?, options))
    }

    fn new(regions: Vec<(KeyArn, Clients<Client>)>, options: AwsKmsOptions) -> Self {
        let region = |(key, clients): (KeyArn, Clients<Client>)| {
            let gate = Gate::new(key.region(), options.retries.breaker.clone());
            Region::new(key, clients, gate, options.retries.attempt_timeout, options.hedge)
        };
        let regions: Vec<Region> = regions.into_iter().map(region).collect();
        let inner = Inner {
            former: options.former.clone(),
            least: options.min_regions.unwrap_or(regions.len()),
            rounds: Rounds::new(options.retries.clone(), system_random()),
            regions,
            options,
        };
        Self { inner: Arc::new(inner) }
    }
}

/// Sends nothing over the network that is not encrypted. Endpoints come from the surroundings too.
#[derive(Debug)]
struct NoPlaintext;

impl Intercept for NoPlaintext {
    fn name(&self) -> &'static str {
        "NoPlaintext"
    }

    fn read_before_signing(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if is_private(context.request().uri()) { Ok(()) } else { Err(Plaintext.into()) }
    }
}

/// A data key that is wrapped for a region.
#[derive(Clone, Copy)]
struct Wrapped<'a> {
    region: &'a Region,
    kek: &'a Kek,
}

impl PartialEq for Wrapped<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.kek, other.kek)
    }
}

impl Place for Wrapped<'_> {
    fn name(&self) -> &str {
        self.region.name()
    }
}

impl Place for &Region {
    fn name(&self) -> &str {
        Region::name(self)
    }
}

impl Inner {
    /// Returns when an operation that begins now is over.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.options.operation_timeout)
    }

    /// Has the data key wrapped in each of these regions, in parallel, and returns what came of it. Once `enough` have done so,
    /// the others have the time of one request left.
    pub(super) async fn wrap_everywhere<'a>(
        &self,
        regions: impl Iterator<Item = &'a Region>,
        key: &DataKey,
        enough: usize,
        deadline: Deadline,
    ) -> (Vec<Kek>, Vec<KmsFailure>) {
        let wrap = |region: &'a Region| async move {
            let encrypted = self.rounds.of_one(region, deadline, |region| region.encrypt(key)).await;
            (region, encrypted.map(|encrypted| kek(region, encrypted)))
        };
        let mut slow: Vec<&Region> = regions.collect();
        let mut wraps: FuturesUnordered<_> = slow.iter().copied().map(wrap).collect();
        let (mut keks, mut failures, mut until) = (Vec::new(), Vec::new(), None);
        loop {
            if keks.len() >= enough && until.is_none() {
                until = Some(deadline.or_after(self.options.request_timeout));
            }
            let outcome = match until {
                Some(until) => timeout_at(until, wraps.next()).await.unwrap_or_default(),
                None => wraps.next().await,
            };
            let Some((region, outcome)) = outcome else { break };
            slow.retain(|other| other.name() != region.name());
            match outcome {
                Ok(kek) => keks.push(kek),
                Err(failure) => failures.push(failure),
            }
        }
        failures.extend(slow.into_iter().map(|region| {
            KmsFailure::new(
                region.name(),
                KmsFailureKind::Timeout,
                "not waited for: enough regions have wrapped the key",
            )
        }));
        failures.sort_by_key(|failure| self.place_of(&failure.place));
        (keks, failures)
    }

    /// Returns the place of a region in the order in which they are asked.
    fn place_of(&self, region: &str) -> Option<usize> {
        self.regions.iter().position(|known| known.name() == region)
    }

    /// Whether a data key is wrapped for a region, under the key that is configured or a former one.
    pub(super) fn opens(&self, region: &Region, kek: &Kek) -> bool {
        let mut keys = self.former.iter().chain([region.key()]);
        kek.region.eq_ignore_ascii_case(region.name()) && keys.any(|key| key.as_str() == kek.arn)
    }

    /// Has the data key of an envelope unwrapped where that is possible, and returns what `open` makes of it.
    pub(super) async fn open<T>(
        &self,
        operation: &'static str,
        envelope: &Envelope,
        deadline: Deadline,
        open: impl Fn(&DataKey) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let mut places: Vec<Wrapped<'_>> = Vec::new();
        for region in &self.regions {
            let first = places.len();
            places.extend(envelope.of_region(region.name()).map(|kek| Wrapped { region, kek }));
            // Those of strange keys last: other names of the configured one, or nothing that it opens.
            places[first..]
                .sort_by_key(|Wrapped { kek, .. }| (kek.arn != region.key().as_str(), !self.opens(region, kek)));
        }
        if places.is_empty() {
            let missing = |region: &Region| {
                KmsFailure::new(region.name(), KmsFailureKind::NotWrapped, "the key is not wrapped for this region")
                    .advise("configure a region that it is wrapped for; `keyward kms audit` shows them")
            };
            return Err(KmsError::Failed { operation, failures: self.regions.iter().map(missing).collect() });
        }
        let patience = |wrapped: Wrapped<'_>| wrapped.region.patience();
        let ask = |Wrapped { region, kek }| {
            let open = &open;
            async move {
                let key = region.decrypt(kek, &self.former).await.map_err(|failure| {
                    let may_be_for_that =
                        matches!(failure.kind, KmsFailureKind::AccessDenied | KmsFailureKind::Tampered);
                    let is_strange = may_be_for_that && !self.opens(region, kek);
                    if is_strange { failure.advise(STRANGE_KEY) } else { failure }
                })?;
                match open(&key) {
                    // A data key of another envelope opens nothing; another region's may.
                    Err(KmsError::Undecryptable { .. }) => Err(KmsFailure::new(
                        region.name(),
                        KmsFailureKind::Tampered,
                        "its data key does not open the system key",
                    )),
                    // What is wrong here is no fault of the region's.
                    opened => Ok(opened),
                }
            }
        };
        self.rounds.until_one_answers(&places, deadline, patience, ask).await.unwrap_or_else(|failures| {
            let is_about_bytes = |failure: &KmsFailure| failure.kind == KmsFailureKind::Tampered;
            if failures.iter().all(is_about_bytes) {
                Err(KmsError::Undecryptable { failures })
            } else {
                Err(KmsError::Failed { operation, failures })
            }
        })
    }
}

pub(super) fn kek(region: &Region, encrypted: Vec<u8>) -> Kek {
    Kek::new(region.name(), region.key().as_str(), encrypted)
}

#[async_trait]
impl KeyManagementService for AwsKms {
    async fn encrypt_key(&self, key: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
        let (inner, deadline) = (&self.inner, self.inner.deadline());
        let all: Vec<&Region> = inner.regions.iter().collect();
        // Whoever has half its time behind it may not answer at all; that the next is asked costs a data key at most.
        let patience = |_| Some(inner.options.request_timeout / 2);
        let generated = inner.rounds.until_one_answers(&all, deadline, patience, Region::generate_there).await;
        let (made, (under, encrypted)) =
            generated.map_err(|failures| KmsError::Failed { operation: WRAPPING, failures })?;
        let others = all.into_iter().filter(|region| *region != made);
        let (mut keks, failures) = inner.wrap_everywhere(others, &under, inner.least - 1, deadline).await;
        keks.push(kek(made, encrypted));
        if keks.len() < inner.least {
            return Err(KmsError::Failed { operation: WRAPPING_FOR_ENOUGH, failures });
        }
        keks.sort_by_key(|kek| inner.place_of(&kek.region));
        for failure in &failures {
            let region = failure.place.as_str();
            let advice = "`keyward kms repair` adds it";
            tracing::warn!(region, kind = %failure.kind, advice, "a system key is stored that this region cannot open");
            if let Some(at) = inner.place_of(region) {
                inner.regions[at].gate().missed_wrap();
            }
        }
        let encrypted_key = data_key::wrap(&under, key)?;
        Ok(Envelope::new(encrypted_key, keks).to_json())
    }

    async fn decrypt_key(&self, encrypted: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
        let envelope = Envelope::parse(encrypted)?;
        let open = |key: &DataKey| data_key::open(key, &envelope.encrypted_key);
        self.inner.open(OPENING, &envelope, self.inner.deadline(), open).await
    }

    fn kind(&self) -> &'static str {
        "aws"
    }

    fn health(&self) -> Vec<KmsHealth> {
        self.inner.regions.iter().map(|region| region.gate().health()).collect()
    }

    fn repeats_calls(&self) -> bool {
        true
    }

    /// Makes the request again that failed last, in each region where one did.
    async fn probe(&self) -> Option<Result<(), KmsError>> {
        let failing = self.inner.regions.iter().filter(|region| !region.gate().health().state.is_usable());
        join_all(failing.map(|region| region.probe(&self.inner.former))).await;
        None
    }
}

impl fmt::Debug for AwsKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let regions: Vec<&str> = self.inner.regions.iter().map(Region::name).collect();
        f.debug_struct("AwsKms").field("regions", &regions).finish_non_exhaustive()
    }
}
