//! Several rows on their way at once.

use keyward::KeyMeta;
use keyward::stores::StoreError;
use tokio::task::JoinSet;

use super::row::{Outcome, Row, copy};
use crate::cli::open::Store;

/// How many rows are on their way at once: as many as a pool has connections, or more.
const IN_FLIGHT: usize = 16;

/// What became of rows.
#[derive(Default)]
pub(super) struct Done {
    pub(super) rows: Vec<(KeyMeta, Outcome)>,
    /// What stopped it; rows that were on their way came to their end.
    pub(super) stopped: Option<(KeyMeta, StoreError)>,
}

/// Copies rows, in any order, until the store fails.
pub(super) async fn copy_all(to: &Store, rows: Vec<Row>, execute: bool) -> Done {
    let mut rows = rows.into_iter();
    let mut on_their_way = JoinSet::new();
    let mut done = Done::default();
    loop {
        while done.stopped.is_none() && on_their_way.len() < IN_FLIGHT {
            let Some(row) = rows.next() else { break };
            let to = to.clone();
            on_their_way.spawn(async move {
                let outcome = copy(&to, &row, execute).await;
                (row.key, outcome)
            });
        }
        match on_their_way.join_next().await {
            None => return done,
            Some(Ok((key, Ok(outcome)))) => done.rows.push((key, outcome)),
            Some(Ok((key, Err(error)))) => {
                done.stopped.get_or_insert((key, error));
            }
            Some(Err(error)) => {
                // Nobody aborts them.
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
}
