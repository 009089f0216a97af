//! The only road to a metastore, and to a replica of it: what a call is, and within what time it ends.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ArbiterHandle, Context, Handler, Message, ResponseFuture};

use super::StoreCalls;
use super::store_calls::Call;
use super::{Mailbox, Outside};
use crate::error::{Error, StoreError};
use crate::ids::{KeyId, KeyMeta};
use crate::memory::RandomFill;
use crate::metrics::{Meters, StoreMeters};
use crate::record::EnvelopeKeyRecord;
use crate::retry::RetryPolicy;
use crate::stores::{Metastore, StoreOutcome};

/// Room for the loads that may be under way at once; more wait their turn.
const CAPACITY: usize = 256;

/// The handle of the metastore writer.
#[derive(Clone)]
pub(super) struct MetastoreWriter {
    mailbox: Mailbox<MetastoreWriterActor>,
    outside: Outside,
}

/// The stores of a factory.
pub(super) struct Stores {
    primary: Arc<StoreCalls>,
    /// Asked first for keys by their exact id.
    replica: Option<Arc<StoreCalls>>,
}

impl Stores {
    pub(super) fn new(
        primary: Arc<dyn Metastore>,
        replica: Option<Arc<dyn Metastore>>,
        retries: &RetryPolicy,
        meters: &Meters,
        random: &RandomFill,
    ) -> Self {
        let calls = |store: Arc<dyn Metastore>, own: &StoreMeters| {
            Arc::new(StoreCalls::new(store, retries.clone(), meters.metastore.clone(), own.clone(), Arc::clone(random)))
        };
        Self { primary: calls(primary, &meters.primary), replica: replica.map(|store| calls(store, &meters.replica)) }
    }
}

impl MetastoreWriter {
    /// Starts a writer whose calls end after `timeout`, repetitions included.
    pub(super) fn start(arbiter: &ArbiterHandle, stores: Stores, timeout: Duration) -> Self {
        let outside = Outside::new(timeout);
        let owned = outside.clone();
        let Stores { primary, replica } = stores;
        let mailbox = Mailbox::start("metastore writer", arbiter, CAPACITY, move || MetastoreWriterActor {
            primary: Arc::clone(&primary),
            replica: replica.clone(),
            outside: owned.clone(),
        });
        Self { mailbox, outside }
    }

    /// Loads one version of a key.
    pub(super) async fn load(&self, key: KeyMeta) -> Result<Option<EnvelopeKeyRecord>, Error> {
        self.mailbox.ask(Load { key }).await?
    }

    /// Loads the latest version of a key, valid or not.
    pub(super) async fn load_latest(&self, id: KeyId) -> Result<Option<EnvelopeKeyRecord>, Error> {
        self.mailbox.ask(LoadLatest { id }).await?
    }

    /// Inserts a version of a key unless it exists.
    pub(super) async fn store(&self, id: KeyId, record: EnvelopeKeyRecord) -> Result<StoreOutcome, Error> {
        self.mailbox.ask(Store { id, record }).await?
    }

    pub(super) fn close(&self) {
        self.mailbox.close();
    }

    /// Returns how many calls the store was asked for.
    pub(super) fn calls(&self) -> u64 {
        self.outside.made()
    }

    pub(super) fn sent(&self) -> u64 {
        self.mailbox.sent()
    }
}

struct Load {
    key: KeyMeta,
}

impl Message for Load {
    type Result = Result<Option<EnvelopeKeyRecord>, Error>;
}

struct LoadLatest {
    id: KeyId,
}

impl Message for LoadLatest {
    type Result = Result<Option<EnvelopeKeyRecord>, Error>;
}

struct Store {
    id: KeyId,
    record: EnvelopeKeyRecord,
}

impl Message for Store {
    type Result = Result<StoreOutcome, Error>;
}

struct MetastoreWriterActor {
    primary: Arc<StoreCalls>,
    replica: Option<Arc<StoreCalls>>,
    outside: Outside,
}

impl MetastoreWriterActor {
    /// Has `work` done with the store, repetitions included, within the deadline of a call.
    fn call<T, F>(&self, call: Call, work: impl FnOnce(Arc<StoreCalls>) -> F) -> ResponseFuture<Result<T, Error>>
    where
        T: 'static,
        F: Future<Output = Result<T, StoreError>> + 'static,
    {
        let place = self.primary.place().to_owned();
        let late = move |after| StoreError::Timeout { operation: call.operation(), place, after }.into();
        let work = work(Arc::clone(&self.primary));
        self.outside.within(late, async move { Ok(work.await?) })
    }
}

impl Actor for MetastoreWriterActor {
    type Context = Context<Self>;
}

impl Handler<Load> for MetastoreWriterActor {
    /// Interleaves: a slow row never delays another.
    type Result = ResponseFuture<Result<Option<EnvelopeKeyRecord>, Error>>;

    fn handle(&mut self, Load { key }: Load, _: &mut Self::Context) -> Self::Result {
        let replica = self.replica.clone();
        self.call(Call::Load, |primary| async move {
            // A replica that lags lacks rows: only what it has counts.
            if let Some(replica) = replica
                && let Ok(Some(record)) = replica.load_once(&key).await
            {
                return Ok(Some(record));
            }
            primary.load(&key).await
        })
    }
}

impl Handler<LoadLatest> for MetastoreWriterActor {
    /// Interleaves: a slow row never delays another.
    type Result = ResponseFuture<Result<Option<EnvelopeKeyRecord>, Error>>;

    fn handle(&mut self, LoadLatest { id }: LoadLatest, _: &mut Self::Context) -> Self::Result {
        self.call(Call::LoadLatest, |primary| async move { primary.load_latest(&id).await })
    }
}

impl Handler<Store> for MetastoreWriterActor {
    /// Interleaves: creators of different keys do not wait for each other.
    type Result = ResponseFuture<Result<StoreOutcome, Error>>;

    fn handle(&mut self, Store { id, record }: Store, _: &mut Self::Context) -> Self::Result {
        self.call(Call::Store, |primary| async move { primary.store(&id, &record).await })
    }
}
