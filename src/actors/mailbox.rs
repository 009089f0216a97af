//! The way to an actor: bounded, counted, and good for another life of the actor.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, ArbiterHandle, Context, Handler, MailboxError, Message};
use arc_swap::ArcSwap;
use metrics::Gauge;

use crate::error::{Error, MemoryError};
use crate::metrics::mailbox_pending;

/// Sends messages to one actor and starts another when it has died of a panic.
///
/// Cloning shares it. The actor ends when the last clone is dropped.
pub(super) struct Mailbox<A: Actor> {
    inner: Arc<Inner<A>>,
}

struct Inner<A: Actor> {
    name: &'static str,
    address: ArcSwap<Addr<A>>,
    start: Box<dyn Fn() -> Addr<A> + Send + Sync>,
    starting: Mutex<()>,
    closed: AtomicBool,
    sent: AtomicU64,
    pending: Gauge,
    process: u32,
}

/// Counts a message as pending for as long as it is.
struct Pending<'a>(&'a Gauge);

impl<'a> Pending<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

impl<A: Actor<Context = Context<A>>> Mailbox<A> {
    /// Starts an actor on `arbiter`, made by `make`, which is called again for each later life.
    ///
    /// At most `capacity` messages wait; who sends one more waits with it.
    pub(super) fn start(
        name: &'static str,
        arbiter: &ArbiterHandle,
        capacity: usize,
        make: impl Fn() -> A + Send + Sync + Clone + 'static,
    ) -> Self {
        let arbiter = arbiter.clone();
        let start = move || {
            let make = make.clone();
            A::start_in_arbiter(&arbiter, move |context| {
                context.set_mailbox_capacity(capacity);
                make()
            })
        };
        let inner = Inner {
            name,
            address: ArcSwap::from_pointee(start()),
            start: Box::new(start),
            starting: Mutex::new(()),
            closed: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            pending: mailbox_pending(name),
            process: std::process::id(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Sends a message and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Restarted`] when the actor died over it, [`Error::Closed`] after [`close`](Self::close).
    pub(super) async fn ask<M>(&self, message: M) -> Result<M::Result, Error>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        self.inner.sent.fetch_add(1, Ordering::Relaxed);
        let address = self.address()?;
        let _pending = Pending::new(&self.inner.pending);
        address.send(message).await.map_err(|error| match error {
            MailboxError::Closed | MailboxError::Timeout if self.is_closed() => Error::Closed,
            MailboxError::Closed | MailboxError::Timeout => {
                tracing::error!(component = self.inner.name, "a component failed while it worked on a request");
                Error::Restarted { component: self.inner.name }
            }
        })
    }

    /// Sends a message that nobody waits for; `false` when the mailbox is full or closed and it was not sent.
    pub(super) fn post<M>(&self, message: M) -> bool
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        self.inner.sent.fetch_add(1, Ordering::Relaxed);
        self.address().is_ok_and(|address| address.try_send(message).is_ok())
    }

    /// Returns how many messages were sent.
    pub(super) fn sent(&self) -> u64 {
        self.inner.sent.load(Ordering::Relaxed)
    }

    /// Refuses further messages and lets nobody start another actor.
    pub(super) fn close(&self) {
        self.inner.closed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::SeqCst)
    }

    /// Tells whether this is a fork of the process that the actor's thread is in: nobody would answer.
    pub(super) fn is_forked(&self) -> bool {
        self.inner.process != std::process::id()
    }

    /// Returns the living actor's address, starting one if there is none.
    fn address(&self) -> Result<Arc<Addr<A>>, Error> {
        if self.is_forked() {
            return Err(MemoryError::Forked.into());
        }
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let address = self.inner.address.load_full();
        if address.connected() {
            return Ok(address);
        }
        let _one_at_a_time = self.inner.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let address = self.inner.address.load_full();
        if address.connected() {
            return Ok(address);
        }
        tracing::error!(component = self.inner.name, "starting a component again");
        let address = Arc::new((self.inner.start)());
        self.inner.address.store(Arc::clone(&address));
        Ok(address)
    }
}

impl<A: Actor> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Fragile;

    impl Actor for Fragile {
        type Context = Context<Self>;
    }

    struct Double(u32);

    impl Message for Double {
        type Result = u32;
    }

    impl Handler<Double> for Fragile {
        type Result = u32;

        fn handle(&mut self, Double(number): Double, _: &mut Self::Context) -> u32 {
            number.checked_mul(2).expect("told to fail")
        }
    }

    #[test]
    fn an_actor_that_panics_is_replaced_and_only_its_caller_hears_of_it() {
        actix::System::new().block_on(async {
            let mailbox = Mailbox::start("fragile", &actix::Arbiter::current(), 4, Fragile::default);
            assert_eq!(mailbox.ask(Double(2)).await.unwrap(), 4);
            let failed = mailbox.ask(Double(u32::MAX)).await;
            assert!(matches!(failed, Err(Error::Restarted { component: "fragile" })));
            assert_eq!(mailbox.ask(Double(3)).await.unwrap(), 6);
            mailbox.close();
            assert!(matches!(mailbox.ask(Double(3)).await, Err(Error::Closed)));
        });
    }
}
