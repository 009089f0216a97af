//! The guard of secret memory: hands out places, makes keys resident, wipes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ArbiterHandle, AsyncContext, Context, Handler, Message, ResponseFuture};

use super::Mailbox;
use crate::error::{Error, MemoryError};
use crate::memory::{LockedKey, Reservation, Vault, WipeReport};

/// Room for the loads that may be under way at once; more wait their turn.
const CAPACITY: usize = 256;

/// How often a closing guard looks whether the last operation has ended.
const DRAIN_POLL: Duration = Duration::from_micros(200);

/// How soon the guard goes on with maintenance that it does in parts, so that others have their turn in between.
const NEXT_PART: Duration = Duration::from_millis(1);

/// The handle of the guard.
#[derive(Clone)]
pub(super) struct Guard {
    mailbox: Mailbox<GuardActor>,
    vault: Vault,
}

impl Guard {
    /// Starts the guard of `vault`. All its state is in the vault, so a guard that dies is replaced without loss.
    pub(super) fn start(arbiter: &ArbiterHandle, vault: Vault) -> Self {
        let owned = vault.clone();
        let mailbox = Mailbox::start("guard", arbiter, CAPACITY, move || GuardActor { vault: owned.clone() });
        Self { mailbox, vault }
    }

    /// Sets a place for one key aside, at the expense of a key that was not used lately if need be.
    pub(super) async fn reserve(&self) -> Result<Reservation, Error> {
        Ok(self.mailbox.ask(Reserve).await??)
    }

    /// Asks for a key to be made resident, without waiting; when the guard is busy the next use asks again.
    pub(super) fn promote(&self, key: Arc<LockedKey>) {
        self.mailbox.post(Promote { key });
    }

    /// Wipes everything and returns what was done, after at most `drain` for operations under way.
    pub(super) async fn close(&self, drain: Duration) -> Result<WipeReport, Error> {
        let report = self.mailbox.ask(Close { drain }).await;
        self.mailbox.close();
        report
    }

    /// Wipes everything from any thread, without the actor: for when it cannot be reached.
    pub(super) fn close_now(&self) -> WipeReport {
        self.vault.close_now(Duration::ZERO)
    }

    pub(super) fn vault(&self) -> &Vault {
        &self.vault
    }

    pub(super) fn sent(&self) -> u64 {
        self.mailbox.sent()
    }
}

struct Reserve;

impl Message for Reserve {
    type Result = Result<Reservation, MemoryError>;
}

struct Promote {
    key: Arc<LockedKey>,
}

impl Message for Promote {
    type Result = ();
}

struct Close {
    drain: Duration,
}

impl Message for Close {
    type Result = WipeReport;
}

/// Serialises everything that changes which key stands in which slot, and looks after the arena between messages.
struct GuardActor {
    vault: Vault,
}

impl Actor for GuardActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_later(self.vault.maintenance_interval(), Self::maintain);
    }
}

impl GuardActor {
    /// Audits the arena, exchanges the sealing key when it is due, and publishes the numbers.
    fn maintain(&mut self, context: &mut Context<Self>) {
        self.vault.status().publish();
        let next = match self.vault.maintain(Instant::now()) {
            Ok(true) => self.vault.maintenance_interval(),
            Ok(false) => NEXT_PART,
            // Closed, or wiped with everything else.
            Err(MemoryError::Closed | MemoryError::Damaged { .. } | MemoryError::DamagedCopy) => return,
            Err(error) => {
                tracing::warn!(%error, "secret memory could not be maintained; it is tried again");
                self.vault.maintenance_interval()
            }
        };
        context.run_later(next, Self::maintain);
    }
}

impl Handler<Reserve> for GuardActor {
    type Result = Result<Reservation, MemoryError>;

    fn handle(&mut self, _: Reserve, _: &mut Self::Context) -> Self::Result {
        self.vault.reserve()
    }
}

impl Handler<Promote> for GuardActor {
    type Result = ();

    fn handle(&mut self, Promote { key }: Promote, _: &mut Self::Context) {
        if let Err(error) = self.vault.promote(&key) {
            tracing::warn!(%error, "a key could not be made resident");
        }
    }
}

impl Handler<Close> for GuardActor {
    /// Interleaves: while it waits for readers, reservations are answered, with a refusal.
    type Result = ResponseFuture<WipeReport>;

    fn handle(&mut self, Close { drain }: Close, _: &mut Self::Context) -> Self::Result {
        let vault = self.vault.clone();
        vault.begin_close();
        Box::pin(async move {
            let drained = async {
                while !vault.is_drained() {
                    tokio::time::sleep(DRAIN_POLL).await;
                }
            };
            // Past the deadline whatever still computes has its output discarded.
            let _ = tokio::time::timeout(drain, drained).await;
            vault.finish_close()
        })
    }
}
