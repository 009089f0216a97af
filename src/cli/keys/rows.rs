//! Reads key rows, page by page.

use std::time::{Duration, SystemTime};

use keyward::stores::{KeyAdmin, KeyRow};
use keyward::{KeyId, KeyKind, KeyMeta};

use crate::cli::error::Failure;
use crate::cli::table::State;

/// How many rows are asked for at a time.
const PAGE: usize = 500;

/// Returns every key of the store, in the order of ids and creation times; rows of a shared table that are no keys are
/// left out.
///
/// # Errors
/// [`Failure::List`].
pub(in crate::cli) async fn all_keys(store: &dyn KeyAdmin) -> Result<Vec<KeyRow>, Failure> {
    keys_of(store, |kind| kind.is_some()).await
}

/// Returns every system key of the store, as [`all_keys`] does.
///
/// # Errors
/// [`Failure::List`].
pub(in crate::cli) async fn system_keys(store: &dyn KeyAdmin) -> Result<Vec<KeyRow>, Failure> {
    keys_of(store, |kind| kind == Some(KeyKind::System)).await
}

async fn keys_of(store: &dyn KeyAdmin, wanted: impl Fn(Option<KeyKind>) -> bool) -> Result<Vec<KeyRow>, Failure> {
    let mut keys: Vec<KeyRow> = Vec::new();
    let mut after: Option<KeyMeta> = None;
    loop {
        let page = store.list(after.as_ref(), PAGE).await.map_err(Failure::List)?;
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        keys.extend(page.into_iter().filter(|row| wanted(row.key.id.kind())));
    }
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(keys)
}

/// Returns every version of one key, oldest first.
///
/// # Errors
/// [`Failure::List`].
pub(super) async fn versions(store: &dyn KeyAdmin, id: &KeyId) -> Result<Vec<KeyRow>, Failure> {
    store.versions(id).await.map_err(Failure::List)
}

/// Returns one version of a key.
///
/// # Errors
/// [`Failure::List`].
pub(super) async fn find(store: &dyn KeyAdmin, key: &KeyMeta) -> Result<Option<KeyRow>, Failure> {
    Ok(versions(store, &key.id).await?.into_iter().find(|row| row.key == *key))
}

/// Tells what state a key is in, by its own row and that of its system key.
///
/// # Errors
/// [`Failure::List`].
pub(super) async fn state(
    store: &dyn KeyAdmin,
    row: &KeyRow,
    expire_after: Duration,
    now: SystemTime,
) -> Result<State, Failure> {
    let parent = match row.record.as_ref().ok().and_then(|record| record.parent_key.as_ref()) {
        Some(parent) => find(store, parent).await?,
        None => None,
    };
    let parent = parent.map(|row| State::of(&row, None, expire_after, now));
    Ok(State::of(row, parent, expire_after, now))
}
