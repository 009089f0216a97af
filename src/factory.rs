//! The session factory: configuration in, sessions out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::actors::{Parts, Repairs, Status, System, Timeouts};
use crate::audit::{Audit, AuditSettings, TenantHash};
use crate::clock::{Clock, SystemClock};
use crate::crypto::{Aead, Aes256Gcm, system_random};
use crate::envelope::Envelope;
use crate::error::{BuildError, CloseError, Error};
use crate::ids::Realm;
use crate::keys::Keys;
use crate::kms::{KeyManagementService, KmsAdmin};
use crate::metrics::Meters;
use crate::policy::{CryptoPolicy, RotationCause};
use crate::retry::RetryPolicy;
use crate::session::{Session, Shared};
use crate::stores::{KeyAdmin, Metastore};

/// Opens sessions of one service and product over one metastore and one key management service.
///
/// Cloning shares it. When the last clone and the last session are dropped, everything stops and all keys are wiped;
/// [`close`](Self::close) does the same and tells how it went.
#[derive(Clone)]
pub struct SessionFactory {
    shared: Arc<Shared>,
}

impl SessionFactory {
    /// Begins the configuration of a factory for `service` and `product`, as they stand in the ids of its keys.
    #[must_use]
    pub fn builder(service: &str, product: &str) -> SessionFactoryBuilder {
        SessionFactoryBuilder {
            service: service.to_owned(),
            product: product.to_owned(),
            metastore: None,
            replica: None,
            retries: RetryPolicy::default(),
            kms: None,
            kms_retries: RetryPolicy { attempt_timeout: Duration::from_secs(4), ..RetryPolicy::default() },
            repairs: None,
            repair_interval: Duration::from_secs(60),
            policy: CryptoPolicy::default(),
            readable_suffixes: Vec::new(),
            aead: Arc::new(Aes256Gcm),
            clock: Arc::new(SystemClock),
            timeouts: Timeouts {
                operation: Duration::from_secs(30),
                metastore: Duration::from_secs(10),
                kms: Duration::from_secs(10),
                drain: Duration::from_secs(2),
            },
            max_payload: 256 * 1024 * 1024,
            audit: AuditSettings::default(),
        }
    }

    /// Opens a session of a partition.
    ///
    /// Loads nothing: the first encrypt or decrypt does.
    ///
    /// # Errors
    /// [`Error::Partition`] when the id is not usable, [`Error::Closed`] after [`close`](Self::close).
    pub async fn session(&self, partition: &str) -> Result<Session, Error> {
        if self.shared.system.is_closing() {
            return Err(Error::Closed);
        }
        let core = match self.shared.system.sessions.find(partition) {
            Some(core) => core,
            None => self.shared.system.sessions.open(self.shared.realm.partition(partition)?).await?,
        };
        Ok(Session::new(core, Arc::clone(&self.shared)))
    }

    /// Returns what operators do with keys; `store` is the one that the factory was built with.
    ///
    /// Encrypting and decrypting never change or delete a key, so the factory itself does not ask for a store that can.
    #[must_use]
    pub fn keys(&self, store: impl KeyAdmin) -> Keys {
        Keys::new(Arc::clone(&self.shared), Arc::new(store))
    }

    /// Returns what stands for a partition in audit events.
    ///
    /// # Errors
    /// [`Error::Partition`] when the id is not usable.
    pub fn tenant_hash(&self, partition: &str) -> Result<TenantHash, Error> {
        let partition = self.shared.realm.partition(partition)?;
        Ok(self.shared.audit.tenant(partition.intermediate_key()))
    }

    /// Refuses new operations, lets those under way finish, wipes all keys and returns when that is done.
    ///
    /// Operations that outlast the drain time are cut off: they end in [`Error::Closed`] and their output is discarded.
    /// Closing again, from any clone, returns the same outcome.
    ///
    /// # Errors
    /// [`CloseError`] names everything that did not close cleanly; everything else is closed and wiped all the same.
    ///
    /// # Cancel safety
    /// Closing goes on when the future is dropped.
    pub async fn close(&self) -> Result<(), CloseError> {
        self.shared.system.close().await
    }

    /// Returns counts and sizes at this moment; reads atomics, sends no message.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.system.status()
    }
}

impl fmt::Debug for SessionFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionFactory").field("realm", &self.shared.realm).finish_non_exhaustive()
    }
}

/// The configuration of a [`SessionFactory`].
///
/// # Defaults
/// * metastore and key management service: none; both must be given, so that nobody encrypts with a test set-up unawares.
/// * read replica: none.
/// * `metastore_retries`: [`RetryPolicy::default`]; `kms_retries` too, but with 4 s for an attempt: what may take less, as a
///   request to Vault may, says by itself who did not answer.
/// * repairs of system keys: none; `repair_interval` 1 minute.
/// * policy: [`CryptoPolicy::default`].
/// * `operation_timeout` 30 s, `metastore_timeout` and `kms_timeout` 10 s each: a cold operation makes a handful of calls.
/// * `drain_timeout` 2 s: warm operations end within microseconds.
/// * `max_payload` 256 MiB: bounds what one forged record can make the process allocate.
/// * readable region suffixes: none.
/// * audit events: [`AuditSettings::default`].
pub struct SessionFactoryBuilder {
    service: String,
    product: String,
    metastore: Option<Arc<dyn Metastore>>,
    replica: Option<Arc<dyn Metastore>>,
    retries: RetryPolicy,
    kms: Option<Arc<dyn KeyManagementService>>,
    kms_retries: RetryPolicy,
    repairs: Option<(Arc<dyn KmsAdmin>, Arc<dyn KeyAdmin>)>,
    repair_interval: Duration,
    policy: CryptoPolicy,
    readable_suffixes: Vec<String>,
    aead: Arc<dyn Aead>,
    clock: Arc<dyn Clock>,
    timeouts: Timeouts,
    max_payload: usize,
    audit: AuditSettings,
}

impl SessionFactoryBuilder {
    /// Sets where keys are stored.
    #[must_use]
    pub fn metastore(mut self, metastore: impl Metastore) -> Self {
        self.metastore = Some(Arc::new(metastore));
        self
    }

    /// Sets a copy of the metastore that is near, or takes load off it: keys that are loaded by their exact id are looked for
    /// there first. What it lacks, and what it fails to answer, is asked of the metastore.
    ///
    /// As far as the copy lags, revocations are noticed later. New and latest keys are asked of the metastore alone.
    #[must_use]
    pub fn read_replica(mut self, replica: impl Metastore) -> Self {
        self.replica = Some(Arc::new(replica));
        self
    }

    /// Sets how calls to the metastore are repeated.
    #[must_use]
    pub fn metastore_retries(mut self, retries: RetryPolicy) -> Self {
        self.retries = retries;
        self
    }

    /// Sets who holds the master key.
    #[must_use]
    pub fn kms(mut self, kms: impl KeyManagementService) -> Self {
        self.kms = Some(Arc::new(kms));
        self
    }

    /// Sets how calls to the key management service are repeated; one that repeats them itself, as
    /// [`AwsKms`](crate::kms::AwsKms) does, has its own policy.
    #[must_use]
    pub fn kms_retries(mut self, retries: RetryPolicy) -> Self {
        self.kms_retries = retries;
        self
    }

    /// Has system keys that lack a place of the key management service, such as a region that was away when they were made,
    /// wrapped for it once it is back; `kms` and `store` are those that the factory is built with.
    ///
    /// So are those that are under a former master key alone, or an older version of it. Looked for when the factory starts, after
    /// a key was made without some place, and every hour. Needs the right to update rows, which encrypting does not. Without this, `keyward kms repair` does the same when it is run.
    #[must_use]
    pub fn repair_system_keys(mut self, kms: impl KmsAdmin, store: impl KeyAdmin) -> Self {
        self.repairs = Some((Arc::new(kms), Arc::new(store)));
        self
    }

    /// Sets how soon after a key was made without some place the first repair is tried: once or twice this time. Others follow
    /// after twice that time, up to sixty times.
    #[must_use]
    pub fn repair_interval(mut self, interval: Duration) -> Self {
        self.repair_interval = interval;
        self
    }

    /// Sets how long keys live and what is cached.
    #[must_use]
    pub fn policy(mut self, policy: CryptoPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Allows records to be read whose key id carries one of these region suffixes, beside the factory's own ids and
    /// those without a suffix.
    #[must_use]
    pub fn readable_region_suffixes<S: Into<String>>(mut self, suffixes: impl IntoIterator<Item = S>) -> Self {
        self.readable_suffixes = suffixes.into_iter().map(Into::into).collect();
        self
    }

    /// Replaces the cipher of payloads.
    #[must_use]
    pub fn aead(mut self, aead: impl Aead) -> Self {
        self.aead = Arc::new(aead);
        self
    }

    /// Replaces the clock by which keys age.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets how long an operation waits for a key that is not loaded.
    #[must_use]
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.operation = timeout;
        self
    }

    /// Sets how long one call to the metastore may take, its repetitions included.
    #[must_use]
    pub fn metastore_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.metastore = timeout;
        self
    }

    /// Sets how long one call to the key management service may take, its repetitions included.
    #[must_use]
    pub fn kms_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.kms = timeout;
        self
    }

    /// Sets how long closing waits for operations under way.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.drain = timeout;
        self
    }

    /// Sets the largest payload in bytes, for encrypting and decrypting.
    #[must_use]
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// Sets who is told what happens to keys, beside `tracing`.
    #[must_use]
    pub fn audit(mut self, settings: AuditSettings) -> Self {
        self.audit = settings;
        self
    }

    /// Checks the configuration and starts the factory's actors on threads of their own.
    ///
    /// Metrics go to the recorder that is installed by then.
    ///
    /// Works in any executor, or none: a multi-thread or current-thread tokio runtime, actix, or a plain `block_on`.
    ///
    /// # Errors
    /// [`BuildError`] when something is missing or not usable, or locked memory is not to be had.
    pub async fn build(self) -> Result<SessionFactory, BuildError> {
        self.policy.validate()?;
        let metastore = self.metastore.ok_or(BuildError::Missing("metastore"))?;
        let kms = self.kms.ok_or(BuildError::Missing("key management service"))?;
        let realm = Realm::new(&self.service, &self.product, metastore.region_suffix(), &self.readable_suffixes)?;
        let (policy, random) = (Arc::new(self.policy), system_random());
        let causes = RotationCause::ALL.map(RotationCause::as_str);
        let meters = Arc::new(Meters::new(metastore.kind(), kms.kind(), &causes, &Error::CLASSES));
        let dropped = meters.audit_dropped.clone();
        let audit = Arc::new(Audit::start(self.audit, Arc::clone(&self.clock), &random, dropped)?);
        let system = System::start(Parts {
            metastore,
            replica: self.replica,
            retries: self.retries,
            kms,
            kms_retries: self.kms_retries,
            repairs: self.repairs.map(|(kms, store)| Repairs { kms, store, interval: self.repair_interval }),
            realm: realm.clone(),
            policy: Arc::clone(&policy),
            clock: Arc::clone(&self.clock),
            random: Arc::clone(&random),
            meters: Arc::clone(&meters),
            audit: Arc::clone(&audit),
            timeouts: self.timeouts,
        })
        .await?;
        let envelope = Envelope { aead: self.aead, random };
        let (clock, max_payload) = (self.clock, self.max_payload);
        let shared = Shared { system, realm, policy, clock, envelope, max_payload, meters, audit };
        Ok(SessionFactory { shared: Arc::new(shared) })
    }
}

impl fmt::Debug for SessionFactoryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionFactoryBuilder")
            .field("service", &self.service)
            .field("product", &self.product)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
