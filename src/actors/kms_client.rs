//! The only road to the master key: what a call is, within what time it ends, and that the same is asked once at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, ArbiterHandle, Context, Handler, Message, ResponseActFuture, ResponseFuture, WrapFuture,
};
use secrecy::ExposeSecret;
use tokio::sync::oneshot;

use super::kms_calls::{Call, KmsCalls};
use super::{Mailbox, Outside};
use crate::error::{Error, KmsError};
use crate::kms::KmsHealth;
use crate::memory::{LockedKey, Reservation};

/// Room for the loads that may be under way at once; more wait their turn.
const CAPACITY: usize = 64;

/// The handle of the client.
#[derive(Clone)]
pub(super) struct KmsClient {
    mailbox: Mailbox<KmsClientActor>,
    outside: Outside,
    calls: Arc<KmsCalls>,
}

impl KmsClient {
    /// Starts a client whose calls end after `timeout`, repetitions included.
    pub(super) fn start(arbiter: &ArbiterHandle, calls: Arc<KmsCalls>, timeout: Duration) -> Self {
        let outside = Outside::new(timeout);
        let (owned, shared) = (outside.clone(), Arc::clone(&calls));
        let mailbox = Mailbox::start("KMS client", arbiter, CAPACITY, move || KmsClientActor {
            calls: Arc::clone(&shared),
            outside: owned.clone(),
            under_way: HashMap::new(),
        });
        Self { mailbox, outside, calls }
    }

    /// Wraps a system key under the master key.
    pub(super) async fn wrap(&self, key: Arc<LockedKey>) -> Result<Vec<u8>, Error> {
        self.mailbox.ask(Wrap { key }).await?
    }

    /// Unwraps a system key into the place reserved for it, or gives the place back where somebody else has the same key
    /// unwrapped at this moment, and returns that.
    pub(super) async fn unwrap(
        &self,
        encrypted: Vec<u8>,
        label: Vec<u8>,
        place: Reservation,
    ) -> Result<Arc<LockedKey>, Error> {
        self.mailbox.ask(Unwrap { what: Wrapped { encrypted, label }, place }).await?
    }

    pub(super) fn close(&self) {
        self.mailbox.close();
    }

    /// Returns how many calls the service was asked for.
    pub(super) fn calls(&self) -> u64 {
        self.outside.made()
    }

    /// Returns how each place that keeps the master key has answered lately.
    pub(super) fn health(&self) -> Vec<KmsHealth> {
        self.calls.health()
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
    what: Wrapped,
    place: Reservation,
}

type Unwrapped = Result<Arc<LockedKey>, Error>;

/// A wrapped system key, and what its sealed copy is to be bound to.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Wrapped {
    encrypted: Vec<u8>,
    label: Vec<u8>,
}

impl Message for Unwrap {
    type Result = Unwrapped;
}

struct KmsClientActor {
    calls: Arc<KmsCalls>,
    outside: Outside,
    /// Keys that are being unwrapped, with those who want them too.
    under_way: HashMap<Wrapped, Vec<oneshot::Sender<Unwrapped>>>,
}

impl KmsClientActor {
    /// Has `work` done with the service, repetitions included, within the deadline of a call.
    fn call<T, F>(&self, call: Call, work: impl FnOnce(Arc<KmsCalls>) -> F) -> ResponseFuture<Result<T, Error>>
    where
        T: 'static,
        F: Future<Output = Result<T, Error>> + 'static,
    {
        let late = move |after| KmsError::Timeout { operation: call.operation(), after }.into();
        self.outside.within(late, work(Arc::clone(&self.calls)))
    }
}

impl Actor for KmsClientActor {
    type Context = Context<Self>;
}

impl Handler<Wrap> for KmsClientActor {
    /// Interleaves: calls of different keys do not wait for each other.
    type Result = ResponseFuture<Result<Vec<u8>, Error>>;

    fn handle(&mut self, Wrap { key }: Wrap, _: &mut Self::Context) -> Self::Result {
        self.call(Call::Wrap, |calls| async move { Ok(calls.wrap(&key).await?) })
    }
}

impl Handler<Unwrap> for KmsClientActor {
    /// Interleaves: calls of different keys do not wait for each other.
    type Result = ResponseActFuture<Self, Result<Arc<LockedKey>, Error>>;

    fn handle(&mut self, Unwrap { what, place }: Unwrap, _: &mut Self::Context) -> Self::Result {
        if let Some(waiting) = self.under_way.get_mut(&what) {
            let (done, answer) = oneshot::channel();
            waiting.push(done);
            let answer = async move { answer.await.unwrap_or(Err(Error::Restarted { component: "KMS client" })) };
            return Box::pin(answer.into_actor(self));
        }
        self.under_way.insert(what.clone(), Vec::new());
        let Wrapped { encrypted, label } = what.clone();
        let unwrapping = self.call(Call::Unwrap, |calls| async move {
            let secret = calls.unwrap(&encrypted).await?;
            place.fill(&label, |key| {
                let bytes = secret.expose_secret();
                if bytes.len() != key.len() {
                    return Err(KmsError::undecryptable().into());
                }
                key.copy_from_slice(bytes);
                Ok(())
            })
        });
        Box::pin(unwrapping.into_actor(self).map(move |outcome, actor, _| {
            for waiting in actor.under_way.remove(&what).unwrap_or_default() {
                // Whoever asked may be gone.
                let _ = waiting.send(outcome.clone());
            }
            outcome
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use actix::Arbiter;
    use async_trait::async_trait;
    use secrecy::SecretSlice;
    use tokio::sync::Semaphore;
    use tokio::task::yield_now;

    use super::*;
    use crate::actors::Guard;
    use crate::crypto::system_random;
    use crate::kms::{KeyManagementService, SystemKey};
    use crate::memory::Vault;
    use crate::metrics::Meters;
    use crate::retry::RetryPolicy;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A service that answers when it is told to.
    struct Told {
        asked: AtomicUsize,
        answers: Semaphore,
    }

    #[async_trait]
    impl KeyManagementService for Told {
        async fn encrypt_key(&self, _: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
            Err(KmsError::undecryptable())
        }

        async fn decrypt_key(&self, _: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.answers.acquire().await.unwrap().forget();
            Ok(vec![7; 32].into())
        }
    }

    struct Stage {
        told: Arc<Told>,
        guard: Guard,
        client: KmsClient,
    }

    impl Stage {
        fn new() -> Self {
            let arbiter = Arbiter::current();
            let told = Arc::new(Told { asked: AtomicUsize::new(0), answers: Semaphore::new(0) });
            let meters = Meters::new("memory", "told", &[], &[]);
            let policy = RetryPolicy::none();
            let calls = KmsCalls::new(
                Arc::clone(&told) as Arc<dyn KeyManagementService>,
                policy,
                MINUTE,
                meters.kms.clone(),
                system_random(),
            );
            let guard = Guard::start(&arbiter, Vault::with_random(system_random()).unwrap());
            Self { told, guard, client: KmsClient::start(&arbiter, Arc::new(calls), MINUTE) }
        }

        /// Has each of these unwrapped, all at once.
        fn unwrap(&self, wrapped: impl Iterator<Item = u8>) -> Vec<tokio::task::JoinHandle<Unwrapped>> {
            let unwrap = |wrapped| {
                let (client, guard) = (self.client.clone(), self.guard.clone());
                let unwrap =
                    async move { client.unwrap(vec![wrapped], b"label".to_vec(), guard.reserve().await?).await };
                tokio::task::spawn_local(unwrap)
            };
            wrapped.map(unwrap).collect()
        }

        /// Waits until as many calls have reached the service as will.
        async fn asked(&self) -> usize {
            for _ in 0..10_000 {
                yield_now().await;
            }
            self.told.asked.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn the_same_is_asked_once_at_a_time_and_everybody_gets_the_answer() {
        actix::System::new().block_on(ask_for_the_same());
    }

    async fn ask_for_the_same() {
        let stage = Stage::new();
        let waiting = stage.unwrap((0..30).map(|_| 1));
        assert_eq!(stage.asked().await, 1);
        stage.told.answers.add_permits(1);
        let mut keys = Vec::new();
        for answer in waiting {
            keys.push(answer.await.unwrap().unwrap());
        }
        assert!(keys.iter().all(|key| Arc::ptr_eq(key, &keys[0])));
        assert_eq!(stage.guard.vault().live(), 1, "the places of the others are given back");
        // Afterwards it is asked again.
        stage.told.answers.add_permits(1);
        stage.unwrap([1].into_iter()).remove(0).await.unwrap().unwrap();
        assert_eq!(stage.asked().await, 2);
    }

    #[test]
    fn sixteen_are_asked_at_once_and_more_wait_their_turn() {
        actix::System::new().block_on(ask_for_many());
    }

    async fn ask_for_many() {
        let stage = Stage::new();
        let waiting = stage.unwrap(0..40);
        assert_eq!(stage.asked().await, 16);
        stage.told.answers.add_permits(4);
        assert_eq!(stage.asked().await, 20);
        stage.told.answers.add_permits(36);
        for answer in waiting {
            answer.await.unwrap().unwrap();
        }
        assert_eq!(stage.asked().await, 40);
    }
}
