//! The command: one file per subcommand, and what they share. It knows the library by its public API alone.
//!
//! * `run.rs` is the way from the command line to the exit code; `options.rs` is the command line.
//! * `demo.rs`, `encrypt.rs`, `decrypt.rs`, `keys/`, `kms/`, `migrate.rs`, `doctor.rs`, `completions.rs` are the subcommands; `ending.rs` is what
//!   they do when a signal ends them.
//! * `settings.rs` are the options that all share, in their text forms; `store_address.rs` and `kms_address.rs`
//!   are what `--store` and `--kms` name, `kms_secrets.rs` what a service takes as a login; parsed by a `quiet.rs` that repeats no secret;   `config.rs` settles flags, environment, file and defaults; `open.rs` makes a session factory of that.
//! * `timely.rs` ends calls of operators that a server does not.
//! * `format.rs` is how records look outside; `input.rs` and `output.rs` read and write files and pipes, with a
//!   `progress.rs`; `table.rs` lists keys; `time.rs` is how instants look.
//! * `error.rs` says what failed, what to do, and with which exit code.
//!
//! Files are read and written in the main thread: while no async code runs, or, in `keys/rewrap/`, between the calls of the
//! one task of a runtime that nobody else uses.

mod completions;
mod config;
mod decrypt;
mod demo;
mod doctor;
mod encrypt;
mod ending;
mod error;
mod format;
mod input;
mod keys;
mod kms;
mod kms_address;
mod kms_secrets;
mod migrate;
mod open;
mod open_kms;
mod options;
mod output;
mod progress;
mod quiet;
mod run;
mod settings;
mod store_address;
mod table;
mod time;
mod timely;

pub(crate) use run::run;
