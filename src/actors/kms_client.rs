//! The only road to the master key: deadlines, and a bound on calls at once.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, ArbiterHandle, Context, Handler, Message, ResponseFuture};
use secrecy::ExposeSecret;
use tokio::sync::Semaphore;

use super::Mailbox;
use crate::error::{Error, KmsError};
use crate::kms::{KeyManagementService, SystemKey};
use crate::memory::{LockedKey, Reservation};

/// Room for the loads that may be under way at once; more wait their turn.
const CAPACITY: usize = 64;

/// Calls to the service at once; what waits for its turn waits within its deadline.
const CALLS_AT_ONCE: usize = 16;

/// The handle of the client.
#[derive(Clone)]
pub(super) struct KmsClient {
    mailbox: Mailbox<KmsClientActor>,
    calls: Arc<AtomicU64>,
}

impl KmsClient {
    /// Starts a client whose calls end after `timeout`.
    pub(super) fn start(arbiter: &ArbiterHandle, kms: Arc<dyn KeyManagementService>, timeout: Duration) -> Self {
        let calls = Arc::new(AtomicU64::new(0));
        let (counter, turns) = (Arc::clone(&calls), Arc::new(Semaphore::new(CALLS_AT_ONCE)));
        let mailbox = Mailbox::start("KMS client", arbiter, CAPACITY, move || KmsClientActor {
            kms: Arc::clone(&kms),
            timeout,
            turns: Arc::clone(&turns),
            calls: Arc::clone(&counter),
        });
        Self { mailbox, calls }
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
        self.calls.load(Ordering::Relaxed)
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
    timeout: Duration,
    turns: Arc<Semaphore>,
    calls: Arc<AtomicU64>,
}

impl KmsClientActor {
    /// Makes a call in its turn and within its deadline.
    fn call<T, F>(
        &self,
        operation: &'static str,
        call: impl FnOnce(Arc<dyn KeyManagementService>) -> F + 'static,
    ) -> ResponseFuture<Result<T, Error>>
    where
        T: 'static,
        F: Future<Output = Result<T, Error>>,
    {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (kms, turns, after) = (Arc::clone(&self.kms), Arc::clone(&self.turns), self.timeout);
        Box::pin(async move {
            let call = async {
                let _turn = turns.acquire().await;
                call(kms).await
            };
            let answer = tokio::time::timeout(after, call).await;
            answer.unwrap_or_else(|_| Err(KmsError::Timeout { operation, after }.into()))
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
        self.call("wrap a system key", |kms| async move { Ok(kms.encrypt_key(SystemKey::new(&key)).await?) })
    }
}

impl Handler<Unwrap> for KmsClientActor {
    /// Interleaves: calls of different keys do not wait for each other.
    type Result = ResponseFuture<Result<Arc<LockedKey>, Error>>;

    fn handle(&mut self, Unwrap { encrypted, label, place }: Unwrap, _: &mut Self::Context) -> Self::Result {
        self.call("unwrap a system key", |kms| async move {
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
