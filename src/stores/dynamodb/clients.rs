//! Who sends the requests: one client per runtime that calls are made from.

use std::sync::{Mutex, PoisonError};

use aws_sdk_dynamodb::{Client, Config};
use tokio::runtime::{Handle, Id};

/// Runtimes whose clients are kept; a process has few, and only tests come and go through many.
const KEPT: usize = 8;

/// Clients that share everything but their connections.
///
/// A connection is driven by a task of the runtime that opened it. On a runtime that stands still, a program's first
/// `block_on` for instance, it answers nobody, so connections are not shared between runtimes.
pub(super) enum Clients {
    Ours {
        config: Config,
        by_runtime: Mutex<Vec<(Id, Client)>>,
    },
    /// The application's, with connections of its own.
    Given(Client),
}

impl Clients {
    pub(super) fn new(config: Config) -> Self {
        Self::Ours { config, by_runtime: Mutex::default() }
    }

    /// Returns the client of the runtime that this is called on; outside of any the SDK can send nothing.
    pub(super) fn get(&self) -> Client {
        let (config, by_runtime) = match self {
            Self::Ours { config, by_runtime } => (config, by_runtime),
            Self::Given(client) => return client.clone(),
        };
        let Ok(runtime) = Handle::try_current().map(|handle| handle.id()) else {
            return Client::from_conf(config.clone());
        };
        // A poisoned lock is taken all the same: the list is whole whoever panicked.
        let mut known = by_runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = known.iter().find(|(id, _)| *id == runtime) {
            return client.clone();
        }
        let client = Client::from_conf(config.clone());
        if known.len() == KEPT {
            known.remove(0);
        }
        known.push((runtime, client.clone()));
        client
    }
}
