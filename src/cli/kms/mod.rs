//! `keyward kms`: what operators do with the key management service, one file per subcommand.
//!
//! `options.rs` are their command lines, `run.rs` tells them apart; `service.rs` is the service, whose calls end. `look.rs` has it
//! look at each system key, `verdict.rs` is what came of that, `report.rs` prints it. Only `repair` changes anything, and that
//! unless `--execute` is given nothing either.

mod audit;
mod check;
mod look;
mod options;
mod repair;
mod report;
mod run;
mod service;
mod verdict;

pub(super) use options::Kms;
pub(super) use run::run;
