//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::format::Format;
use super::keys::Keys;
use super::kms::Kms;
use super::settings::Settings;

const EXAMPLES: &str = "\
Examples:
  keyward demo                                             the whole story on one screen
  echo 'my secret' | keyward encrypt --partition alice     a record, on keyward.db and keyward.key
  keyward encrypt --partition alice --in a.pdf --out a.json
  keyward decrypt --partition alice --in a.json --out a.pdf
  keyward keys list                                        the keys in keyward.db
  keyward keys rotate --partition alice --execute          a new key for alice, now
  keyward kms check                                        whether the master key can be used
  keyward doctor                                           what protects keys in memory here

An option is taken from the command line, else from its environment variable, else from the
file that --config names, else it has its default. The file is TOML; its keys are the common
options, and paths in it are relative to the current folder:
  service = \"billing\"
  store = \"sqlite:/var/lib/billing/keys.db\"
  kms = \"local:/etc/billing/master.key\"
  expire-after = \"90d\"

Exit codes are those of sysexits.h: 64 usage, 65 bad record, 66 no input, 69 store or key service
refuses, 70 internal, 71 system, 73 cannot create, 74 input/output, 75 try again, 77 no permission,
78 configuration, or memory that cannot be protected; 128 and its number after a signal.";

/// Application-layer encryption: every tenant under keys of its own, data-compatible with Asherah.
#[derive(Parser)]
#[command(name = "keyward", version = env!("KEYWARD_VERSION"), after_help = EXAMPLES, max_term_width = 120)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every subcommand takes.
#[derive(Args)]
#[command(next_help_heading = "Common options")]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) settings: Settings,
    /// A TOML file with these options, named as here without the dashes
    #[arg(long, global = true, env = "KEYWARD_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Log more than --log says, to stderr: -v info, -vv debug, -vvv trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show what it does, on one screen: two tenants, a refused read, a rotation, the stored keys
    ///
    /// Works in a temporary folder with a store and a master key of its own, unless --store or --kms stand on the command line:
    /// then in that store, where it leaves a few keys of a service of its own.
    Demo(Demo),
    /// Encrypt a payload into a record
    Encrypt(Encrypt),
    /// Decrypt a record into its payload
    Decrypt(Decrypt),
    /// Look after the keys in the store: list, revoke, rotate, rewrap, shred, copy
    ///
    /// All but list are dry runs unless --execute is given: they say what they would do.
    #[command(subcommand)]
    Keys(Keys),
    /// Look after the key management service that holds the master key: check, audit, repair
    #[command(subcommand)]
    Kms(Kms),
    /// Show how the table in the store should be, and how it is; --apply makes it
    ///
    /// Prints the statements that make a new table, and each difference of one that is there, with whether it matters. Needs no
    /// master key. Ends with 69 when keys cannot be kept in the table that is there.
    #[command(after_help = MIGRATE)]
    Migrate(Migrate),
    /// Show what protects keys in memory on this machine, and what to change
    ///
    /// Needs no store and no master key. Ends with 78 when the strict memory policy would refuse to start.
    Doctor(Doctor),
    /// Print a completion script for a shell
    Completions(Completions),
}

const MIGRATE: &str = "\
Examples:
  keyward migrate --store postgres://keyward@db.example/keys              look, and change nothing
  keyward migrate --store postgres://keyward@db.example/keys --apply      make the table, or what is safe to change in it";

#[derive(Args)]
pub(super) struct Migrate {
    /// Make the table when there is none, and those changes that take little time, lock nobody out and lose nothing
    #[arg(long)]
    pub(super) apply: bool,
    /// Print one JSON object
    #[arg(long, env = "KEYWARD_JSON", value_parser = FalseyValueParser::new())]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct Doctor {
    /// Print one JSON object
    #[arg(long, env = "KEYWARD_JSON", value_parser = FalseyValueParser::new())]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct Demo {
    /// What to encrypt; README.md, or a built-in text where there is none
    pub(super) file: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Encrypt {
    #[command(flatten)]
    pub(super) place: Place,
    /// How to write the record
    #[arg(long, env = "KEYWARD_FORMAT", value_enum, default_value_t)]
    pub(super) format: Format,
}

#[derive(Args)]
pub(super) struct Decrypt {
    #[command(flatten)]
    pub(super) place: Place,
    /// How the record is written; found out when not given
    #[arg(long, env = "KEYWARD_FORMAT", value_enum)]
    pub(super) format: Option<Format>,
}

/// Whose payload, from where, to where.
#[derive(Args)]
pub(super) struct Place {
    /// The tenant: each partition has a key of its own
    #[arg(long, env = "KEYWARD_PARTITION", value_name = "ID")]
    pub(super) partition: String,
    /// Where to read; `-` is standard input
    #[arg(long = "in", env = "KEYWARD_IN", value_name = "FILE", default_value = "-")]
    pub(super) input: PathBuf,
    /// Where to write, replaced only when everything went well; `-` is standard output
    #[arg(long = "out", env = "KEYWARD_OUT", value_name = "FILE", default_value = "-")]
    pub(super) output: PathBuf,
}

#[derive(Args)]
pub(super) struct Completions {
    /// Which shell
    pub(super) shell: clap_complete::Shell,
}

/// Parses the command line and the environment.
///
/// # Errors
/// One that prints itself: what is wrong, or the help or version that was asked for.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, clap::Error> {
    let matches = Options::command().try_get_matches_from(arguments)?;
    let leaf = leaf(&matches);
    // Not every subcommand has every option.
    let is_visible = |option| {
        leaf.try_contains_id(option).unwrap_or(false) && leaf.value_source(option) == Some(ValueSource::CommandLine)
    };
    let visible = Visible {
        kms: is_visible("kms"),
        kms_secret: is_visible("kms_token") || is_visible("kms_secret_id") || is_visible("kms_passphrase"),
        store: is_visible("store"),
        store_password: is_visible("store_password"),
        read_replica: is_visible("read_replica"),
        from: is_visible("from"),
        to: is_visible("to"),
    };
    Ok(Parsed { options: Options::from_arg_matches(&matches)?, visible })
}

/// Options, and what is to be known about where they came from.
pub(super) struct Parsed {
    pub(super) options: Options,
    pub(super) visible: Visible,
}

/// Which options stand on the command line, which other users of the machine can read.
#[expect(clippy::struct_excessive_bools, reason = "one per option")]
pub(super) struct Visible {
    pub(super) kms: bool,
    pub(super) kms_secret: bool,
    pub(super) store: bool,
    pub(super) store_password: bool,
    pub(super) read_replica: bool,
    pub(super) from: bool,
    pub(super) to: bool,
}

/// Returns the matches of the innermost subcommand: it knows the source of the options that all share.
fn leaf(matches: &ArgMatches) -> &ArgMatches {
    match matches.subcommand() {
        Some((_, inner)) => leaf(inner),
        None => matches,
    }
}
