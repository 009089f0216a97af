//! From a configuration to a session factory.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyward::stores::{InMemoryMetastore, KeyAdmin, Metastore, SchemaAdmin, SqliteMetastore};
use keyward::{CryptoPolicy, Session, SessionFactory};
use tokio::runtime::Runtime;

use super::config::Config;
use super::ending::Ending;
use super::error::Failure;
use super::open_kms::Kms;
use super::run::warn;
use super::store_address::StoreAddress;
use super::timely::{Timely, within};

/// How long opening a store may take.
const OPENING: Duration = Duration::from_secs(30);

/// Opens a session of `partition`, has `work` done with it, and closes everything, whatever came of the work.
///
/// Blocks until that is done: it brings its own runtime.
///
/// # Errors
/// [`Failure`] of opening, of the work, or else of closing.
pub(super) fn with_session<R, F: Future<Output = Result<R, Failure>>>(
    config: &Config,
    ending: &Ending,
    partition: &str,
    refused: fn(keyward::Error) -> Failure,
    work: impl FnOnce(Session) -> F,
) -> Result<R, Failure> {
    with_factory(config, config.policy.clone(), ending, |factory, _| async move {
        work(factory.session(partition).await.map_err(refused)?).await
    })
}

/// Opens a session factory, has `work` done with it and the store, and closes everything, whatever came of the work.
///
/// Blocks until that is done: it brings its own runtime.
///
/// # Errors
/// [`Failure`] of opening, of the work, or else of closing.
pub(super) fn with_factory<R, F: Future<Output = Result<R, Failure>>>(
    config: &Config,
    policy: CryptoPolicy,
    ending: &Ending,
    work: impl FnOnce(SessionFactory, Store) -> F,
) -> Result<R, Failure> {
    block_on(async {
        let (store, kms) = open_both(config).await?;
        let mut builder = SessionFactory::builder(&config.service, &config.product)
            .metastore(Arc::clone(&store.keys))
            .kms(kms.keys)
            .policy(policy)
            .readable_region_suffixes(config.readable_suffixes.clone())
            .max_payload(config.max_payload);
        if let Some(replica) = &config.read_replica {
            // Nothing needs it: what it would answer is asked of the store.
            match Store::open(replica).await {
                Ok(replica) => builder = builder.read_replica(replica.keys),
                Err(failure) => warn(&format!("going on without the read replica: {}", failure.text())),
            }
        }
        let factory = builder.build().await?;
        ending.close_with(&factory);
        let result = work(factory.clone(), store).await;
        let closed = factory.close().await;
        let result = result?;
        closed?;
        Ok(result)
    })
}

/// Opens the store and the master key.
///
/// A new master key is made for a new store alone: the keys of one that exists were wrapped under another.
async fn open_both(config: &Config) -> Result<(Store, Kms), Failure> {
    if require_store(&config.store).is_err() {
        // Before the file is made: without a master key it would be of no use.
        let kms = Kms::open(&config.kms, true).await?;
        return Ok((Store::open(&config.store).await?, kms));
    }
    let store = Store::open(&config.store).await?;
    let is_new = match config.kms.file() {
        Some(path) if is_missing(path) => !has_keys(config, &store).await?,
        _ => false,
    };
    Ok((store, Kms::open(&config.kms, is_new).await?))
}

/// Tells whether a service and product have keys in the store; those of others are under master keys of theirs.
///
/// # Errors
/// [`Failure::List`].
async fn has_keys(config: &Config, store: &Store) -> Result<bool, Failure> {
    for suffix in [store.suffix(), None] {
        if !store.admin.versions(&config.system_key(suffix)).await.map_err(Failure::List)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Opens the store to look at and to change keys in, never making one.
///
/// # Errors
/// [`Failure::NoStore`] when it does not exist, [`Failure::Store`] when it cannot be opened.
pub(super) async fn open_existing(address: &StoreAddress) -> Result<Store, Failure> {
    require_store(address)?;
    Store::open(address).await
}

/// Opens the store to look at and to change its table, making nothing before it is changed.
///
/// # Errors
/// [`Failure::Store`], and [`Failure::Usage`] when the store has no table.
pub(super) async fn open_schema(address: &StoreAddress) -> Result<Arc<dyn SchemaAdmin>, Failure> {
    let opened = match address {
        StoreAddress::Memory => return Err(NO_SCHEMA),
        StoreAddress::Sqlite(path) => SqliteMetastore::connect_for_schema(path).await.map(schema_of),
        #[cfg(feature = "postgres")]
        StoreAddress::Postgres(options) => {
            keyward::stores::PostgresMetastore::connect_for_schema((**options).clone()).await.map(schema_of)
        }
        #[cfg(feature = "mysql")]
        StoreAddress::Mysql(options) => {
            keyward::stores::MysqlMetastore::connect_for_schema((**options).clone()).await.map(schema_of)
        }
        #[cfg(feature = "dynamodb")]
        StoreAddress::DynamoDb(options) => {
            keyward::stores::DynamoDbMetastore::connect_for_schema((**options).clone()).await.map(schema_of)
        }
    };
    opened.map_err(Failure::Store)
}

const NO_SCHEMA: Failure = Failure::Usage {
    fault: "a store in memory has no schema",
    hint: "name another with --store: sqlite:PATH, or one on a server",
};

fn schema_of(store: impl SchemaAdmin) -> Arc<dyn SchemaAdmin> {
    Arc::new(store)
}

/// Tells whether an embedded store has its table, making none; stores on servers say so themselves when they are opened.
///
/// # Errors
/// [`Failure::Store`], [`Failure::Inspect`].
pub(super) async fn has_table(address: &StoreAddress) -> Result<bool, Failure> {
    match address {
        StoreAddress::Sqlite(_) => {
            let report = open_schema(address).await?.inspect().await.map_err(Failure::Inspect)?;
            Ok(report.exists)
        }
        _ => Ok(true),
    }
}

/// One store, as those see it who encrypt and those who look after its keys; cloning shares it.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) keys: Arc<dyn Metastore>,
    pub(super) admin: Arc<dyn KeyAdmin>,
}

impl Store {
    /// Opens a store, making an embedded one that does not exist.
    ///
    /// # Errors
    /// [`Failure::Store`].
    pub(super) async fn open(address: &StoreAddress) -> Result<Self, Failure> {
        let open = async {
            match address {
                StoreAddress::Memory => Ok(Self::of(InMemoryMetastore::new())),
                StoreAddress::Sqlite(path) => SqliteMetastore::open(path).await.map(Self::of),
                #[cfg(feature = "postgres")]
                StoreAddress::Postgres(options) => {
                    keyward::stores::PostgresMetastore::connect((**options).clone()).await.map(Self::of)
                }
                #[cfg(feature = "mysql")]
                StoreAddress::Mysql(options) => {
                    keyward::stores::MysqlMetastore::connect((**options).clone()).await.map(Self::of)
                }
                #[cfg(feature = "dynamodb")]
                StoreAddress::DynamoDb(options) => {
                    keyward::stores::DynamoDbMetastore::connect((**options).clone()).await.map(Self::of)
                }
            }
        };
        let opened = within("open the store", &address.to_string(), OPENING, open).await;
        opened.map_err(Failure::Store)
    }

    /// Returns what ids of its keys end in.
    pub(super) fn suffix(&self) -> Option<&str> {
        self.keys.region_suffix()
    }

    fn of(store: impl Metastore + KeyAdmin) -> Self {
        let place = store.place().to_owned();
        let store = Arc::new(store);
        Self { keys: store.clone(), admin: Arc::new(Timely::new(store, place)) }
    }
}

/// Runs async work to its end, in a runtime of this thread: the factory's actors have threads of their own.
///
/// # Errors
/// [`Failure::Runtime`], and those of the work.
pub(super) fn block_on<R>(work: impl Future<Output = Result<R, Failure>>) -> Result<R, Failure> {
    runtime()?.block_on(work)
}

/// Makes the runtime of work that is not done in one go.
///
/// # Errors
/// [`Failure::Runtime`].
pub(super) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)
}

fn is_missing(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

/// Fails unless there is a store: what is to be decrypted must have left its keys in one.
///
/// # Errors
/// [`Failure::NoStore`].
pub(super) fn require_store(address: &StoreAddress) -> Result<(), Failure> {
    match address {
        StoreAddress::Sqlite(path) if is_missing(path) => Err(Failure::NoStore { path: path.clone() }),
        _ => Ok(()),
    }
}
