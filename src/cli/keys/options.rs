//! The command lines of `keyward keys`.
//!
//! Which keys a command changes is never taken from the environment, where it could be left over from another day.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use keyward::{KeyId, KeyKind};

use crate::cli::quiet::Quiet;
use crate::cli::store_address::StoreAddress;
use crate::cli::time::Time;

#[derive(Subcommand)]
pub(in crate::cli) enum Keys {
    /// List the keys; needs no master key and creates nothing
    List(List),
    /// Mark keys as revoked: they decrypt for ever and encrypt no more; needs no master key
    #[command(after_help = REVOKE)]
    Revoke(Revoke),
    /// Make a new key now, instead of when the present one expires
    #[command(after_help = ROTATE)]
    Rotate(Rotate),
    /// Put records under the newest keys, without touching their payloads
    ///
    /// Reads a file of records, one line of JSON each, and writes the same records in the same order, those that are under
    /// an older key under the newest. Old keys can be shredded or deleted once nothing is under them any more.
    #[command(after_help = REWRAP)]
    Rewrap(Rewrap),
    /// Destroy all keys of a partition, and with them everything that is encrypted under them; needs no master key
    ///
    /// What is left is a tombstone, so that nobody makes the partition a new key.
    #[command(after_help = SHRED)]
    Shred(Shred),
    /// Copy all keys from one store to another; needs no master key
    ///
    /// Keys that are there are left as they are, and passed over when an interrupted copy is begun again. Each key that was
    /// stored is read back and compared. Revocations and tombstones are carried over, but nothing else of a record that
    /// Keyward does not know.
    #[command(after_help = COPY)]
    Copy(Copy),
}

impl Keys {
    /// Whether it has keys in the clear in memory.
    pub(in crate::cli) fn uses_keys(&self) -> bool {
        match self {
            Self::List(_) | Self::Revoke(_) | Self::Shred(_) | Self::Copy(_) => false,
            Self::Rotate(options) => options.execute,
            Self::Rewrap(options) => options.execute,
        }
    }
}

#[derive(Args)]
pub(in crate::cli) struct List {
    /// Only the key of this partition of --service and --product
    #[arg(long, env = "KEYWARD_PARTITION", value_name = "ID")]
    pub(super) partition: Option<String>,
    /// Only keys of this kind
    #[arg(long, env = "KEYWARD_KIND", value_enum)]
    pub(super) kind: Option<Kind>,
    /// Print one JSON array
    #[arg(long, env = "KEYWARD_JSON", value_parser = FalseyValueParser::new())]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Kind {
    /// One per service and product; wraps intermediate keys
    System,
    /// One per partition; wraps the keys of records
    Intermediate,
}

impl Kind {
    pub(super) fn is_of(self, id: &KeyId) -> bool {
        matches!(
            (self, id.kind()),
            (Self::System, Some(KeyKind::System)) | (Self::Intermediate, Some(KeyKind::Intermediate))
        )
    }
}

const REVOKE: &str = "\
Examples:
  keyward keys revoke --id _IK_alice_app_eu --created 2026-01-31T12:00:00Z              one key: what would happen
  keyward keys revoke --id _IK_alice_app_eu --created 1769860800 --execute              one key
  keyward keys revoke --kind intermediate --created-before 2026-01-31 --execute         all of a kind, made before a day";

#[derive(Args)]
#[command(group(ArgGroup::new("which").required(true)))]
pub(in crate::cli) struct Revoke {
    /// Id of the key, as `keyward keys list` shows it
    #[arg(long, value_name = "KEYID", group = "which", requires = "created")]
    pub(super) id: Option<String>,
    /// When the key was created: RFC 3339 or Unix seconds
    #[arg(long, value_name = "TIME", requires = "id", allow_hyphen_values = true)]
    pub(super) created: Option<Time>,
    /// All keys of this kind, of every service and product, that were created before --created-before
    #[arg(long, value_enum, group = "which", requires = "created_before")]
    pub(super) kind: Option<Kind>,
    /// A day, RFC 3339 or Unix seconds
    #[arg(long, value_name = "TIME", requires = "kind", allow_hyphen_values = true)]
    pub(super) created_before: Option<Time>,
    /// Revoke them; without this, say what would happen
    #[arg(long)]
    pub(super) execute: bool,
    /// Print one JSON object
    #[arg(long, env = "KEYWARD_JSON", value_parser = FalseyValueParser::new())]
    pub(super) json: bool,
}

const ROTATE: &str = "\
Examples:
  keyward keys rotate --partition alice                  what would happen
  keyward keys rotate --partition alice --execute        a new key for a partition
  keyward keys rotate --kind system --execute            a new system key

New keys of partitions are made under a new system key; those that exist stay in use until they expire, unless the old
system key is revoked.";

#[derive(Args)]
#[command(group(ArgGroup::new("which").required(true)))]
pub(in crate::cli) struct Rotate {
    /// The partition of --service and --product that gets a new key
    #[arg(long, value_name = "ID", group = "which")]
    pub(super) partition: Option<String>,
    /// The system key of --service and --product
    #[arg(long, value_enum, group = "which")]
    pub(super) kind: Option<SystemKind>,
    /// Make the key; without this, say what would happen
    #[arg(long)]
    pub(super) execute: bool,
}

/// What can be rotated by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum SystemKind {
    /// One per service and product; wraps intermediate keys
    System,
}

const REWRAP: &str = "\
Examples:
  keyward keys rewrap --in records.jsonl                                               count what is under which key
  keyward keys rewrap --in records.jsonl --out new.jsonl --execute
  keyward keys rewrap --in records.jsonl --out new.jsonl --execute --rate 500          at most 500 records a second
  keyward keys rewrap --in records.jsonl --out new.jsonl --execute --resume            go on after an interruption
  psql -Atc 'SELECT record FROM t' | keyward keys rewrap --execute > new.jsonl";

#[derive(Args)]
pub(in crate::cli) struct Rewrap {
    /// Where to read records, one line of JSON each; `-` is standard input
    #[arg(long = "in", env = "KEYWARD_IN", value_name = "FILE", default_value = "-")]
    pub(super) input: PathBuf,
    /// Where to write them, line by line; `-` is standard output
    #[arg(long = "out", env = "KEYWARD_OUT", value_name = "FILE", default_value = "-")]
    pub(super) output: PathBuf,
    /// Refuse records of other partitions; without this, each belongs to the partition that its key id names
    #[arg(long, env = "KEYWARD_PARTITION", value_name = "ID")]
    pub(super) partition: Option<String>,
    /// At most so many records a second
    #[arg(long, env = "KEYWARD_RATE", value_name = "N")]
    pub(super) rate: Option<NonZeroU32>,
    /// Go on where --out ends
    #[arg(long)]
    pub(super) resume: bool,
    /// Copy lines that cannot be re-wrapped as they are, and end with 65 after the rest
    #[arg(long, env = "KEYWARD_KEEP_GOING", value_parser = FalseyValueParser::new())]
    pub(super) keep_going: bool,
    /// Write --out; without this, say what would happen, for which no master key is needed
    #[arg(long)]
    pub(super) execute: bool,
}

const SHRED: &str = "\
Examples:
  keyward keys shred --partition alice                              what would be destroyed
  keyward keys shred --partition alice --execute                    asks for the id again, on a terminal
  keyward keys shred --partition alice --execute --confirm alice --receipt alice.json";

#[derive(Args)]
pub(in crate::cli) struct Shred {
    /// The partition of --service and --product whose keys are destroyed
    #[arg(long, value_name = "ID")]
    pub(super) partition: String,
    /// Destroy them; without this, say what would happen
    #[arg(long)]
    pub(super) execute: bool,
    /// The partition id again
    #[arg(long, value_name = "ID", requires = "execute")]
    pub(super) confirm: Option<String>,
    /// Where to write what was destroyed; must not exist [default: keyward-shred-<unix seconds>.json]
    #[arg(long, env = "KEYWARD_RECEIPT", value_name = "FILE")]
    pub(super) receipt: Option<PathBuf>,
}

const COPY: &str = "\
Examples:
  keyward keys copy --from sqlite:keyward.db --to postgres://keyward@db.example/keys       what is there, what is missing
  keyward keys copy --from sqlite:keyward.db --to postgres://keyward@db.example/keys --to-password-file pw --execute
  keyward keys copy --from mysql://keyward@db.example/keys --to 'dynamodb:EncryptionKey?region=eu-west-1' --execute

To change over, make the table (`keyward migrate --store TO --apply`), copy, have all applications use the new store, and copy
again: until the last one has changed over, they may make keys in the old one. Copying again, also after an interruption, goes
on where it ended. System keys come before the keys that they wrap, so that every key in a half copy can be used.

Ends with 65 when a key is another one in --to, and with 69 when a row of --from is no key record.";

#[derive(Args)]
pub(in crate::cli) struct Copy {
    /// The store that has the keys, as in --store; it is not changed
    #[arg(long, env = "KEYWARD_FROM", value_name = "STORE", hide_env_values = true,
        value_parser = Quiet::<StoreAddress>::new())]
    pub(in crate::cli) from: StoreAddress,
    /// The store that gets them, as in --store
    #[arg(long, env = "KEYWARD_TO", value_name = "STORE", hide_env_values = true,
        value_parser = Quiet::<StoreAddress>::new())]
    pub(in crate::cli) to: StoreAddress,
    /// A file that holds the password of --from
    #[arg(long, env = "KEYWARD_FROM_PASSWORD_FILE", value_name = "FILE")]
    pub(super) from_password_file: Option<PathBuf>,
    /// A file that holds the password of --to
    #[arg(long, env = "KEYWARD_TO_PASSWORD_FILE", value_name = "FILE")]
    pub(super) to_password_file: Option<PathBuf>,
    /// Copy them; without this, say what would happen
    #[arg(long)]
    pub(super) execute: bool,
    /// Print one JSON object
    #[arg(long, env = "KEYWARD_JSON", value_parser = FalseyValueParser::new())]
    pub(super) json: bool,
}
