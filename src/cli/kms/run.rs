//! Which subcommand it is.

use super::options::Kms;
use super::{audit, check, repair};
use crate::cli::config::Config;
use crate::cli::error::Failure;

/// Runs a subcommand of `keyward kms`.
///
/// # Errors
/// [`Failure`].
pub(in crate::cli) fn run(config: &Config, options: &Kms) -> Result<(), Failure> {
    match options {
        Kms::Check(options) => check::run(config, options),
        Kms::Audit(options) => audit::run(config, options),
        Kms::Repair(options) => repair::run(config, options),
    }
}
