//! From the command line to the exit code.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use keyward::memory::{harden, init, report};

use super::config::Config;
use super::ending::Ending;
use super::error::{Exit, Failure};
use super::keys::Keys;
use super::kms_address::KmsAddress;
use super::options::{Command, Parsed, Visible, parse};
use super::store_address::StoreAddress;
use super::{completions, decrypt, demo, doctor, encrypt, keys, kms, migrate};

/// Runs the command of this process.
pub(crate) fn run() -> ExitCode {
    // First of all, while there is no other thread.
    let ending = match Ending::install() {
        Ok(ending) => ending,
        Err(error) => {
            say(&format!("cannot take over signals: {error}"));
            return Exit::System.into();
        }
    };
    let code = run_until(&ending);
    ending.takes_over();
    code
}

fn run_until(ending: &Ending) -> ExitCode {
    let parsed = match parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => return explain(&error),
    };
    match dispatch(parsed, ending) {
        Ok(()) => ExitCode::SUCCESS,
        // What a signal cut off is no failure to tell of.
        Err(_) if ending.has_begun() => ExitCode::FAILURE,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure.text());
            if let Some(hint) = failure.hint() {
                say(&format!("hint: {hint}"));
            }
            failure.exit().into()
        }
    }
}

/// Warns on stderr.
pub(super) fn warn(text: &str) {
    say(&format!("warning: {text}"));
}

fn dispatch(parsed: Parsed, ending: &Ending) -> Result<(), Failure> {
    let Parsed { options, visible } = parsed;
    if let Command::Completions(options) = &options.command {
        return completions::run(options);
    }
    let config = Config::load(options.common)?;
    log_to_stderr(&config);
    warn_of_secrets(&config, &options.command, &visible);
    match &options.command {
        Command::Demo(options) => protect(&config).and_then(|()| demo::run(&config, options, &visible, ending)),
        Command::Encrypt(options) => protect(&config).and_then(|()| encrypt::run(&config, options, ending)),
        Command::Decrypt(options) => protect(&config).and_then(|()| decrypt::run(&config, options, ending)),
        Command::Keys(options) => {
            if options.uses_keys() {
                protect(&config)?;
            }
            keys::run(&config, options, ending)
        }
        Command::Kms(options) => protect(&config).and_then(|()| kms::run(&config, options)),
        Command::Migrate(options) => migrate::run(&config, options),
        Command::Doctor(options) => doctor::run(&config, options),
        Command::Completions(options) => completions::run(options),
    }
}

/// Tells whoever gave a secret on the command line how else to give it.
fn warn_of_secrets(config: &Config, command: &Command, visible: &Visible) {
    if visible.kms && matches!(config.kms, KmsAddress::Static(_)) {
        warn("other users of this machine can see a key on the command line; KEYWARD_KMS or --config hide it");
    }
    if visible.kms_secret {
        warn(
            "other users of this machine can see a secret on the command line; KEYWARD_KMS_TOKEN, KEYWARD_KMS_SECRET_ID, \
             KEYWARD_KMS_PASSPHRASE, the options that name a file, or --config hide it",
        );
    }
    let in_replica = visible.read_replica && config.read_replica.as_ref().is_some_and(StoreAddress::has_password);
    if visible.store_password || visible.store && config.password_in_address || in_replica {
        warn(
            "other users of this machine can see a password on the command line; KEYWARD_STORE, KEYWARD_STORE_PASSWORD, \
             --store-password-file or --config hide it",
        );
    }
    if let Command::Keys(Keys::Copy(copy)) = command
        && (visible.from && copy.from.has_password() || visible.to && copy.to.has_password())
    {
        warn(
            "other users of this machine can see a password on the command line; KEYWARD_FROM, KEYWARD_TO, \
             --from-password-file and --to-password-file hide it",
        );
    }
}

/// Protects the memory of this process, before a command reads keys.
fn protect(config: &Config) -> Result<(), Failure> {
    harden(config.memory.policy).and_then(|_| init(&config.memory)).map_err(Failure::Memory)?;
    tracing::info!("{}", report());
    Ok(())
}

/// Prints help where it was asked for, and else what is wrong with the command line.
fn explain(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when this fails.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS }
}

fn log_to_stderr(config: &Config) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber =
        tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(colour).with_max_level(config.log).finish();
    // Only a second subscriber of this process would be refused, and there is none.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Prints text on stderr, for people, where standard output is for something else.
pub(super) fn say_plainly(text: &str) {
    // Nobody is left to tell when this fails.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn say(text: &str) {
    // Nobody is left to tell when this fails.
    let _ = writeln!(io::stderr(), "keyward: {text}");
}
