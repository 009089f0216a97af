//! The only road to a metastore: deadlines, a bound on calls at once, and a check of what comes back.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ArbiterHandle, Context, Handler, Message, ResponseFuture};

use super::{Mailbox, Outside};
use crate::error::{Error, StoreError};
use crate::ids::{KeyId, KeyMeta};
use crate::metrics::Meters;
use crate::record::EnvelopeKeyRecord;
use crate::stores::{Metastore, StoreOutcome};

/// Room for the loads that may be under way at once; more wait their turn.
const CAPACITY: usize = 256;

/// Calls to the store at once.
const CALLS_AT_ONCE: usize = 64;

/// The handle of the metastore writer.
#[derive(Clone)]
pub(super) struct MetastoreWriter {
    mailbox: Mailbox<MetastoreWriterActor>,
    outside: Outside,
}

impl MetastoreWriter {
    /// Starts a writer whose calls end after `timeout`.
    pub(super) fn start(
        arbiter: &ArbiterHandle,
        store: Arc<dyn Metastore>,
        timeout: Duration,
        meters: Arc<Meters>,
    ) -> Self {
        let outside = Outside::new(CALLS_AT_ONCE, timeout);
        let owned = outside.clone();
        let mailbox = Mailbox::start("metastore writer", arbiter, CAPACITY, move || MetastoreWriterActor {
            store: Arc::clone(&store),
            outside: owned.clone(),
            meters: Arc::clone(&meters),
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
    store: Arc<dyn Metastore>,
    outside: Outside,
    meters: Arc<Meters>,
}

/// A kind of call, as its durations are told apart.
#[derive(Clone, Copy)]
enum Call {
    Load,
    LoadLatest,
    Store,
}

impl MetastoreWriterActor {
    fn call<T, F>(
        &self,
        kind: Call,
        operation: &'static str,
        call: impl FnOnce(Arc<dyn Metastore>) -> F,
    ) -> ResponseFuture<Result<T, Error>>
    where
        T: 'static,
        F: Future<Output = Result<T, StoreError>> + 'static,
    {
        let (answer, meters) = (call(Arc::clone(&self.store)), Arc::clone(&self.meters));
        let place = self.store.place().to_owned();
        let late = move |after| StoreError::Timeout { operation, place, after }.into();
        self.outside.call(late, async move {
            let _timer = meters.metastore.time(kind as usize);
            Ok(answer.await?)
        })
    }
}

impl Actor for MetastoreWriterActor {
    type Context = Context<Self>;
}

impl Handler<Load> for MetastoreWriterActor {
    /// Interleaves: a slow row never delays another.
    type Result = ResponseFuture<Result<Option<EnvelopeKeyRecord>, Error>>;

    fn handle(&mut self, Load { key }: Load, _: &mut Self::Context) -> Self::Result {
        self.call(Call::Load, "load a key", |store| async move {
            match store.load(&key).await? {
                Some(record) if record.created != key.created => Err(StoreError::Corrupt {
                    id: key.id.to_string(),
                    created: Some(key.created),
                    source: format!("the record says it was created {}", record.created).into(),
                }),
                answer => Ok(answer),
            }
        })
    }
}

impl Handler<LoadLatest> for MetastoreWriterActor {
    /// Interleaves: a slow row never delays another.
    type Result = ResponseFuture<Result<Option<EnvelopeKeyRecord>, Error>>;

    fn handle(&mut self, LoadLatest { id }: LoadLatest, _: &mut Self::Context) -> Self::Result {
        self.call(Call::LoadLatest, "load the latest key", |store| async move { store.load_latest(&id).await })
    }
}

impl Handler<Store> for MetastoreWriterActor {
    /// Interleaves: creators of different keys do not wait for each other.
    type Result = ResponseFuture<Result<StoreOutcome, Error>>;

    fn handle(&mut self, Store { id, record }: Store, _: &mut Self::Context) -> Self::Result {
        self.call(Call::Store, "store a key", |store| async move { store.store(&id, &record).await })
    }
}
