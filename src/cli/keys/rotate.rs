//! `keyward keys rotate`

use std::time::SystemTime;

use keyward::KeyId;
use keyward::stores::KeyAdmin;

use super::options::Rotate;
use super::rows::{state, versions};
use crate::cli::config::Config;
use crate::cli::ending::Ending;
use crate::cli::error::Failure;
use crate::cli::open::{block_on, open_existing, require_store, with_factory};
use crate::cli::output::print;
use crate::cli::table::{State, printable};
use crate::cli::time::Time;

/// Makes a new key, or says that it would.
///
/// # Errors
/// [`Failure`].
pub(super) fn run(config: &Config, options: &Rotate, ending: &Ending) -> Result<(), Failure> {
    let present = block_on(async {
        let store = open_existing(&config.store).await?;
        let id = match &options.partition {
            Some(partition) => config.intermediate_key(partition, store.suffix())?,
            None => config.system_key(store.suffix()),
        };
        present(config, &*store.admin, &id).await
    })?;
    if !options.execute {
        return print(&format!("{present}A new one would be made.\n\nNothing was changed; --execute makes it.\n"));
    }
    require_store(&config.store)?;
    let key = with_factory(config, config.policy.clone(), ending, |factory, store| async move {
        let keys = factory.keys(store.admin);
        let made = match &options.partition {
            Some(partition) => keys.rotate(partition).await,
            None => keys.rotate_system_key().await,
        };
        made.map_err(Failure::Rotate)
    })?;
    let interval = humantime::format_duration(config.policy.revoke_check_interval);
    let (id, created) = (printable(key.id.as_str()), Time(key.created));
    print(&format!(
        "{present}The new one is {id} created {created}.\n\nRunning processes take it up when they check their keys: within \
         {interval}, if they have this command's --revoke-check.\nEverything under older keys still decrypts.\n",
    ))
}

/// Tells which key is the latest.
async fn present(config: &Config, store: &dyn KeyAdmin, id: &KeyId) -> Result<String, Failure> {
    let rows = versions(store, id).await?;
    let Some(latest) = rows.last() else { return Ok(format!("There is no key {} yet.\n", printable(id.as_str()))) };
    let state = state(store, latest, config.policy.expire_after, SystemTime::now()).await?;
    if state == State::Shredded {
        return Err(Failure::Shredded(id.clone()));
    }
    let (id, created) = (printable(id.as_str()), Time(latest.key.created));
    Ok(format!("The latest key is {id} created {created}, {}.\n", state.name()))
}
