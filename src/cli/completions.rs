//! `keyward completions`

use clap::CommandFactory;

use super::error::Failure;
use super::options::{Completions, Options};
use super::output::Output;

/// Prints the completion script of a shell.
///
/// # Errors
/// [`Failure::Write`].
pub(super) fn run(options: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Options::command(), "keyward", &mut script);
    Output::Standard.write(&script)
}
