//! `keyward keys copy`: all keys of one store into another.
//!
//! `run.rs` goes through the rows: tombstones first, then system keys, then the keys that they wrap. `survey.rs` is what it
//! knows beforehand, `row.rs` copies one row and judges it, `together.rs` has several of them on their way at once; `report.rs`
//! counts and prints.

mod report;
mod row;
mod run;
mod survey;
mod together;

pub(super) use run::run;
