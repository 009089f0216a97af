//! `keyward kms audit`

use super::look::look_at_all;
use super::options::Audit;
use super::report::{judge, to_json, to_text};
use super::service::Service;
use super::verdict::{Outcome, Verdict};
use crate::cli::config::Config;
use crate::cli::error::Failure;
use crate::cli::keys::system_keys;
use crate::cli::open::{block_on, open_existing};
use crate::cli::output::print;

const REPAIR: &str = "`keyward kms repair` says what it would do, and does it with --execute";
const READ: &str = "give the --kms that they were made with, or take rows that are damaged from a backup of the store";
const CHECK: &str = "`keyward kms check` tries the key management service; run this again once it answers";

/// Prints which system keys in the store are not as they would be made now.
///
/// # Errors
/// [`Failure`]; [`Failure::SystemKeys`] after everything was printed.
pub(super) fn run(config: &Config, options: &Audit) -> Result<(), Failure> {
    let seen = block_on(async {
        let store = open_existing(&config.store).await?;
        let kms = Service::open(config).await?;
        Ok(look_at_all(&kms, system_keys(&*store.admin).await?).await)
    })?;
    let verdicts: Vec<Verdict> = seen.into_iter().map(|seen| seen.verdict).collect();
    print(&if options.json { to_json(&verdicts, None) } else { to_text(&verdicts) })?;
    let has = |outcomes: &[Outcome]| verdicts.iter().any(|verdict| outcomes.contains(&verdict.outcome));
    let hint = if has(&[Outcome::ToBeRepaired]) {
        REPAIR
    } else if has(&[Outcome::Foreign, Outcome::Corrupt]) {
        READ
    } else {
        CHECK
    };
    judge(&verdicts, hint)
}
