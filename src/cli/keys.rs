//! `keyward keys list`

use std::time::SystemTime;

use keyward::stores::{KeyAdmin, KeyRow};
use keyward::{KeyKind, KeyMeta};

use super::config::Config;
use super::error::Failure;
use super::open::{block_on, open_admin};
use super::options::{Keys, Kind, List};
use super::output::print;
use super::table::{Listing, to_json, to_table};

/// How many rows are asked for at a time.
const PAGE: usize = 500;

/// Prints the keys in the store.
///
/// # Errors
/// [`Failure`].
pub(super) fn run(config: &Config, options: &Keys) -> Result<(), Failure> {
    match options {
        Keys::List(options) => list(config, options),
    }
}

fn list(config: &Config, options: &List) -> Result<(), Failure> {
    let id = options.partition.as_ref().map(|id| format!("_IK_{id}_{}_{}", config.service, config.product));
    let wanted = |row: &KeyRow| {
        id.as_ref().is_none_or(|id| id == row.key.id.as_str())
            && matches!(
                (options.kind, row.key.id.kind()),
                (None, _)
                    | (Some(Kind::System), Some(KeyKind::System))
                    | (Some(Kind::Intermediate), Some(KeyKind::Intermediate))
            )
    };
    let mut rows = block_on(async { all_keys(&*open_admin(&config.store).await?).await })?;
    rows.retain(wanted);
    let listing = Listing::new(&rows, config.policy.expire_after, SystemTime::now());
    print(&if options.json { to_json(&listing) } else { to_table(&listing) })
}

/// Returns every key of the store, in the order of ids and creation times; rows of a shared table that are no keys are
/// left out.
///
/// # Errors
/// [`Failure::List`].
pub(super) async fn all_keys(store: &dyn KeyAdmin) -> Result<Vec<KeyRow>, Failure> {
    let mut keys: Vec<KeyRow> = Vec::new();
    let mut after: Option<KeyMeta> = None;
    loop {
        let page = store.list(after.as_ref(), PAGE).await.map_err(Failure::List)?;
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        keys.extend(page.into_iter().filter(|row| row.key.id.kind().is_some()));
    }
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(keys)
}
