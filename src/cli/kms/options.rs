//! The command lines of `keyward kms`.

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};

#[derive(Subcommand)]
pub(in crate::cli) enum Kms {
    /// Try what encrypting and decrypting will ask of the key management service; needs no store
    ///
    /// Has each place that keeps the master key, a region, a server or a file, wrap a key made for this and open it again, and
    /// prints how long each step took, or what it failed with and what to do about it.
    #[command(after_help = CHECK)]
    Check(Check),
    /// Show which system keys cannot be opened everywhere; changes nothing
    ///
    /// Looks at all versions of the system keys of every service and product in the store, revoked ones too: they decrypt for
    /// ever. Tombstones are left out.
    #[command(after_help = AUDIT)]
    Audit(Audit),
    /// Wrap system keys for the places that cannot open them, or under the latest version of the master key
    ///
    /// What is there stays: whoever can open a key now can do so afterwards. Each key that was stored is read back and looked at
    /// again. Running it again is harmless, and so is running it while others use the keys.
    #[command(after_help = REPAIR)]
    Repair(Repair),
}

const CHECK: &str = "\
Examples:
  keyward kms check --kms 'aws:us-west-2=ARN,eu-west-1=ARN;preferred=us-west-2'
  keyward kms check --kms vault:https://vault.example:8200/keyward --json
  keyward kms check                                 the file keyward.key

Rights that only `audit` and `repair` take, and master keys in `former`, are not tried.

Ends with 69 when a place does not do what is asked of it, and with 75 when all that failed may pass by itself.";

#[derive(Args)]
pub(in crate::cli) struct Check {
    /// Print one JSON object
    #[arg(long, env = "KEYWARD_JSON", value_parser = FalseyValueParser::new())]
    pub(super) json: bool,
}

const AUDIT: &str = "\
Examples:
  keyward kms audit --store postgres://keyward@db.example/keys --kms 'aws:us-west-2=ARN,eu-west-1=ARN;preferred=us-west-2'
  keyward kms audit --json                                  for a timer: the exit code tells whether to look closer

Of keys in AWS KMS it asks nothing of the service, but reads what stands in the rows; of keys in Vault it asks for the latest
version of the master key.

Ends with 0 when every configured place can open every system key, if also others can; with 69 when something is to be repaired,
is no key record, or was not wrapped by this service; with 75 when all that is wrong may pass by itself.";

#[derive(Args)]
pub(in crate::cli) struct Audit {
    /// Print one JSON object
    #[arg(long, env = "KEYWARD_JSON", value_parser = FalseyValueParser::new())]
    pub(super) json: bool,
}

const REPAIR: &str = "\
Examples:
  keyward kms repair --store postgres://keyward@db.example/keys --kms 'aws:us-west-2=ARN,eu-west-1=ARN;preferred=us-west-2'
  keyward kms repair --store postgres://keyward@db.example/keys --kms vault:https://vault.example:8200/keyward --execute

A key that cannot be repaired is left as it is, and the others are gone on with. Needs the right to update rows of the store.

Ends with 0 when nothing is left to repair, or to say what would be done; with 69 when something is left, is no key record, or
was not wrapped by this service; with 75 when all that is wrong may pass by itself: run it again.";

#[derive(Args)]
pub(in crate::cli) struct Repair {
    /// Repair them; without this, say what would happen
    #[arg(long)]
    pub(super) execute: bool,
    /// Print one JSON object
    #[arg(long, env = "KEYWARD_JSON", value_parser = FalseyValueParser::new())]
    pub(super) json: bool,
}
