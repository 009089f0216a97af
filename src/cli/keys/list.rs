//! `keyward keys list`

use std::time::SystemTime;

use keyward::stores::KeyRow;

use super::options::List;
use super::rows::all_keys;
use crate::cli::config::Config;
use crate::cli::error::Failure;
use crate::cli::open::{block_on, open_existing};
use crate::cli::output::print;
use crate::cli::table::{Listing, to_json, to_table};

/// Prints the keys in the store.
///
/// # Errors
/// [`Failure`].
pub(super) fn run(config: &Config, options: &List) -> Result<(), Failure> {
    let (rows, ids) = block_on(async {
        let store = open_existing(&config.store).await?;
        let ids = options.partition.as_ref().map(|id| config.intermediate_keys(id, store.suffix())).transpose()?;
        Ok((all_keys(&*store.admin).await?, ids))
    })?;
    let wanted = |row: &KeyRow| {
        ids.as_ref().is_none_or(|ids| ids.contains(&row.key.id))
            && options.kind.is_none_or(|kind| kind.is_of(&row.key.id))
    };
    let listing = Listing::new(&rows, wanted, config.policy.expire_after, SystemTime::now());
    print(&if options.json { to_json(&listing) } else { to_table(&listing) })
}
