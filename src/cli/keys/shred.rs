//! `keyward keys shred`

use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};

use keyward::stores::{KeyAdmin, KeyRow};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};

use super::options::Shred;
use super::receipt::{BACKUPS, Receipt};
use super::rows::versions;
use crate::cli::config::Config;
use crate::cli::ending::Ending;
use crate::cli::error::Failure;
use crate::cli::input::is_standard;
use crate::cli::open::{Store, block_on, open_existing};
use crate::cli::output::{Access, Output, print};
use crate::cli::run::say_plainly;
use crate::cli::table::{columns, printable};
use crate::cli::time::Time;

/// Destroys the keys of a partition, or says which ones it would, and leaves a receipt.
///
/// # Errors
/// [`Failure`]; the keys may be destroyed or not when the store fails, and shredding again finds out.
pub(super) fn run(config: &Config, options: &Shred, ending: &Ending) -> Result<(), Failure> {
    // Before anything is opened: no partition may be called that.
    config.intermediate_key(&options.partition, None)?;
    let is_confirmed = options.confirm.is_some() || !options.execute;
    if options.confirm.as_ref().is_some_and(|again| *again != options.partition) {
        return Err(NOT_THE_SAME);
    }
    if !is_confirmed && !io::stdin().is_terminal() {
        let hint = "repeat the partition id with --confirm";
        return Err(Failure::Usage { fault: "shredding asks for the partition id twice", hint });
    }
    // A signal waits for the keys and their receipt, which belong together.
    let steps = ending.steps();
    let keys = block_on(async { Keys::find(config, &options.partition).await })?;
    if !options.execute {
        return print(&format!("{}\nNothing was changed; --execute destroys them.\n", would_destroy(&keys)));
    }
    if !is_confirmed {
        ask(&options.partition, &keys)?;
    }
    let path = options.receipt.clone().unwrap_or_else(unused_name);
    let output = Output::create_new(&path, Access::Private, ending)?;
    steps.take(|| destroy(config, &options.partition, &keys, &path, output))
}

const NOT_THE_SAME: Failure = Failure::Usage {
    fault: "the partition id and its confirmation differ",
    hint: "nothing was changed; give the same id twice",
};

/// The keys of a partition in a store.
struct Keys {
    store: Store,
    /// Its own first.
    ids: Vec<KeyId>,
    rows: Vec<KeyRow>,
}

impl Keys {
    async fn find(config: &Config, partition: &str) -> Result<Self, Failure> {
        let store = open_existing(&config.store).await?;
        let ids = config.intermediate_keys(partition, store.suffix())?;
        let mut rows = Vec::new();
        for id in &ids {
            rows.extend(versions(&*store.admin, id).await?);
        }
        Ok(Self { store, ids, rows })
    }

    fn own(&self) -> &KeyId {
        &self.ids[0]
    }
}

fn destroy(config: &Config, partition: &str, keys: &Keys, path: &Path, output: Output) -> Result<(), Failure> {
    let (id, tombstone) = (keys.own(), tombstone(config, keys));
    let mut shredded = Vec::new();
    let outcome = block_on(async {
        for id in &keys.ids {
            shredded.extend(keys.store.admin.shred(id, &tombstone).await.map_err(Failure::Shred)?);
        }
        Ok(())
    });
    if shredded.is_empty() && outcome.is_err() {
        return outcome;
    }
    // What was destroyed has its receipt, whatever became of the rest.
    tell(config, partition, id, &tombstone, &shredded, path, output).and(outcome)
}

/// Writes the receipt, and tells people.
fn tell(
    config: &Config,
    partition: &str,
    id: &KeyId,
    tombstone: &EnvelopeKeyRecord,
    shredded: &[KeyMeta],
    path: &Path,
    output: Output,
) -> Result<(), Failure> {
    let receipt = Receipt { config, partition, id, tombstone, destroyed: shredded }.to_json(Time::now());
    let text = has_destroyed(id, shredded);
    if is_standard(path) {
        say_plainly(&text);
        return output.write(receipt.as_bytes());
    }
    if let Err(failure) = output.write(receipt.as_bytes()) {
        // It is too late to do without: what was destroyed is told all the same.
        print(&receipt)?;
        return Err(failure);
    }
    print(&format!("{text}\nThe receipt is {}.\n", path.display()))
}

/// Returns the tombstone that is there, or else one with the parent of the newest version, or else of the system key.
fn tombstone(config: &Config, keys: &Keys) -> EnvelopeKeyRecord {
    let records = || keys.rows.iter().rev().filter_map(|row| row.record.as_ref().ok());
    if let Some(there) = records().find(|record| record.is_tombstone()) {
        return there.clone();
    }
    let parent = records().next().and_then(|record| record.parent_key.clone());
    EnvelopeKeyRecord::tombstone(Some(
        parent.unwrap_or_else(|| KeyMeta { id: config.system_key(keys.store.suffix()), created: 0 }),
    ))
}

/// Has somebody at the terminal type the partition id again.
fn ask(partition: &str, keys: &Keys) -> Result<(), Failure> {
    say_plainly(&would_destroy(keys));
    let mut terminal = io::stderr();
    // Nobody sees the question when this fails, and then nobody confirms it.
    let _ = write!(terminal, "\nType the partition id again to destroy its keys: ").and_then(|()| terminal.flush());
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|source| Failure::Read { name: "the confirmation".to_owned(), source })?;
    if answer.trim_end_matches(['\r', '\n']) == partition { Ok(()) } else { Err(NOT_THE_SAME) }
}

/// Returns the default name of a receipt, with a number when several are written in a second.
fn unused_name() -> PathBuf {
    let Time(now) = Time::now();
    let names = std::iter::once(format!("keyward-shred-{now}.json"))
        .chain((2..).map(|number: u32| format!("keyward-shred-{now}-{number}.json")));
    names.map(PathBuf::from).find(|name| !name.exists()).unwrap_or_else(|| "keyward-shred.json".into())
}

fn would_destroy(keys: &Keys) -> String {
    let (id, rows) = (keys.own(), &keys.rows[..]);
    let is_key = |row: &&KeyRow| !row.record.as_ref().is_ok_and(EnvelopeKeyRecord::is_tombstone);
    let keys: Vec<&KeyMeta> = rows.iter().filter(is_key).map(|row| &row.key).collect();
    let what = match (&keys[..], rows) {
        ([], []) => format!(
            "There is no key {id}. A tombstone would keep anybody from making one.\n",
            id = printable(id.as_str())
        ),
        ([], _) => format!("Key {} is shredded; nothing is left to destroy.\n", printable(id.as_str())),
        (keys, _) => table(keys, "would be destroyed"),
    };
    format!("{what}\n{BACKUPS}\n")
}

fn has_destroyed(id: &KeyId, keys: &[KeyMeta]) -> String {
    let what = if keys.is_empty() {
        format!(
            "There was no key {} to destroy; its tombstone keeps anybody from making one.\n",
            printable(id.as_str())
        )
    } else {
        table(&keys.iter().collect::<Vec<_>>(), "destroyed")
    };
    format!("{what}\n{PROCESSES}\n{BACKUPS}\n")
}

/// What shredding does not reach, beside what the receipt says.
const PROCESSES: &str = "\
Running processes that have loaded a key may encrypt under it until they check it again, and decrypt until they let go of
it: start them anew to be sure.";

fn table(keys: &[&KeyMeta], outcome: &str) -> String {
    columns(
        ["ID", "CREATED", "OUTCOME"],
        keys.iter().map(|key| [printable(key.id.as_str()), Time(key.created).to_string(), outcome.to_owned()]),
    )
}
