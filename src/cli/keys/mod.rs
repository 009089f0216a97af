//! `keyward keys`: what operators do with keys, one file per subcommand.
//!
//! `options.rs` are their command lines, `run.rs` tells them apart, `rows.rs` reads key rows; `receipt.rs` is what is left of
//! a shredded key. All but `list` change nothing unless `--execute` is given.

mod copy;
mod list;
mod options;
mod receipt;
mod revoke;
mod rewrap;
mod rotate;
mod rows;
mod run;
mod shred;

pub(super) use options::Keys;
pub(super) use rewrap::LineError;
pub(super) use rows::{all_keys, system_keys};
pub(super) use run::run;
