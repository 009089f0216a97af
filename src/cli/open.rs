//! From a configuration to a session factory.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use keyward::kms::{KeyManagementService, LocalKms, StaticKms};
use keyward::stores::{InMemoryMetastore, KeyAdmin, Metastore, SqliteMetastore};
use keyward::{CryptoPolicy, Session, SessionFactory};

use super::address::{KmsAddress, StoreAddress};
use super::config::Config;
use super::ending::Ending;
use super::error::Failure;

type Kms = Arc<dyn KeyManagementService>;

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
    work: impl FnOnce(SessionFactory, Arc<dyn KeyAdmin>) -> F,
) -> Result<R, Failure> {
    let kms = open_kms(config)?;
    block_on(async {
        let store = Store::open(&config.store).await?;
        let factory = SessionFactory::builder(&config.service, &config.product)
            .metastore(store.keys)
            .kms(kms)
            .policy(policy)
            .max_payload(config.max_payload)
            .build()
            .await?;
        ending.close_with(&factory);
        let result = work(factory.clone(), store.admin).await;
        let closed = factory.close().await;
        let result = result?;
        closed?;
        Ok(result)
    })
}

/// Opens the store to look at and to change keys in, never making one.
///
/// # Errors
/// [`Failure::NoStore`] when it does not exist, [`Failure::Store`] when it cannot be opened.
pub(super) async fn open_admin(address: &StoreAddress) -> Result<Arc<dyn KeyAdmin>, Failure> {
    require_store(address)?;
    Ok(Store::open(address).await?.admin)
}

/// One store, as those see it who encrypt and those who look after its keys.
struct Store {
    keys: Arc<dyn Metastore>,
    admin: Arc<dyn KeyAdmin>,
}

impl Store {
    async fn open(address: &StoreAddress) -> Result<Self, Failure> {
        Ok(match address {
            StoreAddress::Memory => Self::of(InMemoryMetastore::new()),
            StoreAddress::Sqlite(path) => Self::of(SqliteMetastore::open(path).await.map_err(Failure::Store)?),
        })
    }

    fn of(store: impl Metastore + KeyAdmin) -> Self {
        let store = Arc::new(store);
        Self { keys: store.clone(), admin: store }
    }
}

/// Runs async work to its end, in a runtime of this thread: the factory's actors have threads of their own.
///
/// # Errors
/// [`Failure::Runtime`], and those of the work.
pub(super) fn block_on<R>(work: impl Future<Output = Result<R, Failure>>) -> Result<R, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?.block_on(work)
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

/// Reads the key file, or takes the key: blocking.
///
/// A new master key is made for a new store alone: the keys of one that exists were wrapped under another.
fn open_kms(config: &Config) -> Result<Kms, Failure> {
    let store_is_new = require_store(&config.store).is_err() || matches!(config.store, StoreAddress::Memory);
    let kms: Kms = match &config.kms {
        KmsAddress::Local(path) if store_is_new => {
            Arc::new(LocalKms::open_or_create(path).map_err(Failure::MasterKey)?)
        }
        KmsAddress::Local(path) => Arc::new(LocalKms::open(path).map_err(Failure::MasterKey)?),
        KmsAddress::Static(key) => Arc::new(StaticKms::new(&**key).map_err(Failure::MasterKey)?),
    };
    Ok(kms)
}
