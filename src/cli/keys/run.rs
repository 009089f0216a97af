//! Which subcommand it is.

use super::options::Keys;
use super::{copy, list, revoke, rewrap, rotate, shred};
use crate::cli::config::Config;
use crate::cli::ending::Ending;
use crate::cli::error::Failure;

/// Runs a subcommand of `keyward keys`.
///
/// # Errors
/// [`Failure`].
pub(in crate::cli) fn run(config: &Config, options: &Keys, ending: &Ending) -> Result<(), Failure> {
    match options {
        Keys::List(options) => list::run(config, options),
        Keys::Revoke(options) => revoke::run(config, options),
        Keys::Rotate(options) => rotate::run(config, options, ending),
        Keys::Rewrap(options) => rewrap::run(config, options, ending),
        Keys::Shred(options) => shred::run(config, options, ending),
        Keys::Copy(options) => copy::run(options, ending),
    }
}
