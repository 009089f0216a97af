//! The only road to the master key: deadlines, and a bound on calls at once.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ArbiterHandle, Context, Handler, Message, ResponseFuture};
use secrecy::ExposeSecret;

use super::{Mailbox, Outside};
use crate::error::{Error, KmsError};
use crate::kms::{KeyManagementService, SystemKey};
use crate::memory::{LockedKey, Reservation};
use crate::metrics::Meters;

/// Room for the loads that may be under way at once; more wait their turn.
const CAPACITY: usize = 64;

/// Calls to the service at once.
const CALLS_AT_ONCE: usize = 16;

/// The handle of the client.
#[derive(Clone)]
pub(super) struct KmsClient {
    mailbox: Mailbox<KmsClientActor>,
    outside: Outside,
}

impl KmsClient {
    /// Starts a client whose calls end after `timeout`.
    pub(super) fn start(
        arbiter: &ArbiterHandle,
        kms: Arc<dyn KeyManagementService>,
        timeout: Duration,
        meters: Arc<Meters>,
    ) -> Self {
        let outside = Outside::new(CALLS_AT_ONCE, timeout);
        let owned = outside.clone();
        let mailbox = Mailbox::start("KMS client", arbiter, CAPACITY, move || KmsClientActor {
            kms: Arc::clone(&kms),
            outside: owned.clone(),
            meters: Arc::clone(&meters),
        });
        Self { mailbox, outside }
    }

    /// Wraps a system key under the master key.
    pub(super) async fn wrap(&self, key: Arc<LockedKey>) -> Result<Vec<u8>, Error> {
        self.mailbox.ask(Wrap { key }).await?
    }

    /// Unwraps a system key into the place reserved for it.
    pub(super) async fn unwrap(
        &self,
        encrypted: Vec<u8>,
        label: Vec<u8>,
        place: Reservation,
    ) -> Result<Arc<LockedKey>, Error> {
        self.mailbox.ask(Unwrap { encrypted, label, place }).await?
    }

    pub(super) fn close(&self) {
        self.mailbox.close();
    }

    /// Returns how many calls the service was asked for.
    pub(super) fn calls(&self) -> u64 {
        self.outside.made()
    }

    pub(super) fn sent(&self) -> u64 {
        self.mailbox.sent()
    }
}

struct Wrap {
    key: Arc<LockedKey>,
}

impl Message for Wrap {
    type Result = Result<Vec<u8>, Error>;
}

struct Unwrap {
    encrypted: Vec<u8>,
    label: Vec<u8>,
    place: Reservation,
}

impl Message for Unwrap {
    type Result = Result<Arc<LockedKey>, Error>;
}

struct KmsClientActor {
    kms: Arc<dyn KeyManagementService>,
    outside: Outside,
    meters: Arc<Meters>,
}

/// A kind of call, as its durations are told apart.
#[derive(Clone, Copy)]
enum Call {
    Wrap,
    Unwrap,
}

impl KmsClientActor {
    fn call<T, F>(
        &self,
        kind: Call,
        operation: &'static str,
        call: impl FnOnce(Arc<dyn KeyManagementService>) -> F,
    ) -> ResponseFuture<Result<T, Error>>
    where
        T: 'static,
        F: Future<Output = Result<T, Error>> + 'static,
    {
        let late = move |after| KmsError::Timeout { operation, after }.into();
        let (answer, meters) = (call(Arc::clone(&self.kms)), Arc::clone(&self.meters));
        self.outside.call(late, async move {
            let _timer = meters.kms.time(kind as usize);
            answer.await
        })
    }
}

impl Actor for KmsClientActor {
    type Context = Context<Self>;
}

impl Handler<Wrap> for KmsClientActor {
    /// Interleaves: calls of different keys do not wait for each other.
    type Result = ResponseFuture<Result<Vec<u8>, Error>>;

    fn handle(&mut self, Wrap { key }: Wrap, _: &mut Self::Context) -> Self::Result {
        self.call(
            Call::Wrap,
            "wrap a system key",
            |kms| async move { Ok(kms.encrypt_key(SystemKey::new(&key)).await?) },
        )
    }
}

impl Handler<Unwrap> for KmsClientActor {
    /// Interleaves: calls of different keys do not wait for each other.
    type Result = ResponseFuture<Result<Arc<LockedKey>, Error>>;

    fn handle(&mut self, Unwrap { encrypted, label, place }: Unwrap, _: &mut Self::Context) -> Self::Result {
        self.call(Call::Unwrap, "unwrap a system key", |kms| async move {
            let secret = kms.decrypt_key(&encrypted).await?;
            place.fill(&label, |key| {
                let bytes = secret.expose_secret();
                if bytes.len() != key.len() {
                    return Err(KmsError::Undecryptable.into());
                }
                key.copy_from_slice(bytes);
                Ok(())
            })
        })
    }
}
