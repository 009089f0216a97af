//! `keyward keys rewrap`: records from one file to another, each under the newest key of its partition.
//!
//! `run.rs` goes through the lines; `judge.rs` says what becomes of a record, by looking or by doing; `lines.rs` reads, `sink.rs`
//! writes and finds out where an earlier run ended; `tally.rs` counts; `pace.rs` keeps to `--rate`.

mod judge;
mod lines;
mod pace;
mod run;
mod sink;
mod tally;

pub(in crate::cli) use judge::LineError;
pub(super) use run::run;
