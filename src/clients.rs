//! Who sends requests: one client per runtime that calls are made from.

#[cfg(any(feature = "aws-kms", feature = "vault"))]
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Handle, Id};

/// Runtimes whose clients are kept; a process has few, and only tests come and go through many.
const KEPT: usize = 8;

/// Clients of a service that share everything but their connections.
///
/// A connection is driven by a task of the runtime that opened it. On a runtime that stands still, a program's first
/// `block_on` for instance, it answers nobody, so connections are not shared between runtimes.
pub(crate) enum Clients<C> {
    Ours {
        make: Box<dyn Fn() -> C + Send + Sync>,
        by_runtime: Mutex<Vec<(Id, C)>>,
    },
    /// The application's, with connections of its own.
    #[cfg(feature = "aws")]
    Given(C),
}

impl<C: Clone> Clients<C> {
    pub(crate) fn new(make: impl Fn() -> C + Send + Sync + 'static) -> Self {
        Self::Ours { make: Box::new(make), by_runtime: Mutex::default() }
    }

    /// Returns the client of the runtime that this is called on; outside of any nothing can be sent.
    pub(crate) fn get(&self) -> C {
        let (make, by_runtime) = match self {
            Self::Ours { make, by_runtime } => (make, by_runtime),
            #[cfg(feature = "aws")]
            Self::Given(client) => return client.clone(),
        };
        let Ok(runtime) = Handle::try_current().map(|handle| handle.id()) else { return make() };
        // A poisoned lock is taken all the same: the list is whole whoever panicked.
        let mut known = by_runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = known.iter().find(|(id, _)| *id == runtime) {
            return client.clone();
        }
        let client = make();
        if known.len() == KEPT {
            known.remove(0);
        }
        known.push((runtime, client.clone()));
        client
    }
}

/// Whether a host is this machine, so that what is sent there crosses no network.
#[cfg(any(feature = "aws-kms", feature = "vault"))]
pub(crate) fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
