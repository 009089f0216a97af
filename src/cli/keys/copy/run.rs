//! Goes through the rows.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyward::stores::KeyRow;
use keyward::{EnvelopeKeyRecord, KeyId, KeyKind, KeyMeta};
use tokio::runtime::Runtime;

use super::report::Tally;
use super::row::{Outcome, Row};
use super::survey::{Pages, Source, Target, source, target, tombstone};
use super::together::{Done, copy_all};
use crate::cli::config::{give_password, read_password};
use crate::cli::ending::{Ending, Steps};
use crate::cli::error::Failure;
use crate::cli::keys::options::Copy;
use crate::cli::open::{Store, has_table, require_store, runtime};
use crate::cli::output::print;
use crate::cli::progress::Progress;
use crate::cli::store_address::StoreAddress;
use crate::cli::table::chain;

/// How many rows a signal waits for: some hundred milliseconds on a slow disk.
const STEP: usize = 64;

/// Copies all keys, or says what would happen, and prints what became of them.
///
/// # Errors
/// [`Failure`], after what was done before it has been printed; copying again goes on.
pub(in crate::cli::keys) fn run(options: &Copy, ending: &Ending) -> Result<(), Failure> {
    let from = address(&options.from, options.from_password_file.as_deref())?;
    let to = address(&options.to, options.to_password_file.as_deref())?;
    if is_same(&from, &to) {
        let hint = "name the store that has the keys with --from, and the one that gets them with --to";
        return Err(Failure::Usage { fault: "--from and --to are the same store", hint });
    }
    let runtime = runtime()?;
    let (from_store, to_store, source, target) = runtime.block_on(begin(&from, &to, options.execute))?;
    let mut tally = Tally::new(from.to_string(), to.to_string(), options.execute);
    tally.is_new = to_store.is_none();
    tally.strangers = source.strangers;
    let steps = ending.steps();
    let done = Arc::new(AtomicUsize::new(0));
    if options.execute {
        let (done, total) = (Arc::clone(&done), source.keys);
        ending.tells(move || {
            format!("ended after {} of {total} keys; copying again goes on there", done.load(Ordering::Relaxed))
        });
    }
    let mut job = Job {
        runtime,
        from: from_store,
        to: to_store,
        progress: Progress::counting(if options.execute { "copying" } else { "comparing" }, source.keys),
        source,
        target,
        system_keys: HashSet::new(),
        unlike: HashSet::new(),
        steps,
        done,
        tally,
    };
    let stopped = job.go();
    job.progress.clear();
    let tally = job.tally;
    print(&if options.json { tally.to_json() } else { tally.to_text(stopped.is_ok()) })?;
    stopped?;
    tally.outcome()
}

/// Returns the address of a store, with its password.
fn address(given: &StoreAddress, password: Option<&Path>) -> Result<StoreAddress, Failure> {
    if matches!(given, StoreAddress::Memory) {
        let hint = "name another: sqlite:PATH, or one on a server";
        return Err(Failure::Usage { fault: "a store in memory ends with the command", hint });
    }
    let mut address = given.clone();
    if let Some(path) = password {
        give_password(&mut address, read_password(path)?)?;
    }
    Ok(address)
}

fn is_same(from: &StoreAddress, to: &StoreAddress) -> bool {
    let is_same_file = match (from, to) {
        (StoreAddress::Sqlite(from), StoreAddress::Sqlite(to)) => {
            from.canonicalize().is_ok_and(|from| to.canonicalize().is_ok_and(|to| from == to))
        }
        _ => false,
    };
    is_same_file || from.to_string() == to.to_string()
}

/// Opens both stores and looks through them; nothing is made but, to execute, what is copied to.
async fn begin(
    from: &StoreAddress,
    to: &StoreAddress,
    execute: bool,
) -> Result<(Store, Option<Store>, Source, Target), Failure> {
    require_store(from)?;
    if !has_table(from).await? {
        return Err(Failure::NoTable { store: from.to_string() });
    }
    let from = Store::open(from).await?;
    let to = if execute || has_table(to).await? { Some(Store::open(to).await?) } else { None };
    let source = source(&*from.admin).await?;
    let target = match &to {
        Some(to) => target(&*to.admin).await?,
        None => Target::default(),
    };
    Ok((from, to, source, target))
}

/// The work on all rows.
struct Job {
    runtime: Runtime,
    from: Store,
    /// `None` when it is not made yet.
    to: Option<Store>,
    source: Source,
    target: Target,
    /// System keys that were dealt with.
    system_keys: HashSet<KeyMeta>,
    /// System keys that are others in the store that is copied to.
    unlike: HashSet<KeyMeta>,
    steps: Steps,
    done: Arc<AtomicUsize>,
    progress: Progress,
    tally: Tally,
}

impl Job {
    /// Tombstones first, so that no key is copied that must not be, then system keys, then the keys that they wrap: every key that
    /// is there when this is interrupted can be used.
    fn go(&mut self) -> Result<(), Failure> {
        let mut tombstones: Vec<(KeyId, EnvelopeKeyRecord)> =
            self.source.tombstones.iter().map(|(id, tombstone)| (id.clone(), tombstone.clone())).collect();
        tombstones.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut versions: HashMap<KeyId, usize> = HashMap::new();
        for key in self.target.keys.iter().filter(|key| self.source.tombstones.contains_key(&key.id)) {
            *versions.entry(key.id.clone()).or_default() += 1;
        }
        for (id, tombstone) in tombstones {
            let there = versions.get(&id).copied().unwrap_or_default();
            self.bury(id, &tombstone, there)?;
        }
        let system_keys = std::mem::take(&mut self.source.system_keys);
        self.copy_system_keys(system_keys)?;
        let mut pages = Pages::default();
        loop {
            let page = self.runtime.block_on(pages.next(&*self.from.admin))?;
            if page.is_empty() {
                return Ok(());
            }
            self.copy_page(page)?;
        }
    }

    /// Copies what is not copied yet of a page.
    fn copy_page(&mut self, page: Vec<KeyRow>) -> Result<(), Failure> {
        let mut wrapped = Vec::new();
        let mut system_keys = Vec::new();
        for row in page {
            if let Some(tombstone) = tombstone(&row).cloned() {
                if !self.source.tombstones.contains_key(&row.key.id) {
                    let there = self.target.keys.iter().filter(|there| there.id == row.key.id).count();
                    self.bury(row.key.id.clone(), &tombstone, there)?;
                    self.source.tombstones.insert(row.key.id, tombstone);
                }
                continue;
            }
            match row.key.id.kind() {
                None => {}
                Some(KeyKind::System) => system_keys.push(row),
                Some(_) => wrapped.push(row),
            }
        }
        // Those that were made since the stores were looked through.
        let parents = wrapped.iter().filter_map(|row| row.record.as_ref().ok()?.parent_key.as_ref());
        let parents: HashSet<KeyMeta> = parents.filter(|parent| !self.system_keys.contains(parent)).cloned().collect();
        let ids: HashSet<&KeyId> = parents.iter().map(|parent| &parent.id).collect();
        for id in ids {
            let versions = self.runtime.block_on(self.from.admin.versions(id)).map_err(Failure::List)?;
            system_keys.extend(versions);
        }
        self.copy_system_keys(system_keys)?;
        // Those that are nowhere are not looked for again.
        self.system_keys.extend(parents);
        self.copy_rows(wrapped)
    }

    fn copy_system_keys(&mut self, rows: Vec<KeyRow>) -> Result<(), Failure> {
        let rows = rows.into_iter().filter(|row| self.system_keys.insert(row.key.clone())).collect();
        self.copy_rows(rows)
    }

    /// Copies rows, several at once; when this returns all of them are there.
    fn copy_rows(&mut self, rows: Vec<KeyRow>) -> Result<(), Failure> {
        let mut chosen = Vec::new();
        for row in rows {
            match self.choose(row) {
                Ok(row) => chosen.push(row),
                Err((key, outcome)) => self.count(key, outcome),
            }
        }
        while !chosen.is_empty() {
            let rest = chosen.split_off(STEP.min(chosen.len()));
            let rows = std::mem::replace(&mut chosen, rest);
            let Done { rows, stopped } = match &self.to {
                Some(to) => {
                    let executed = self.tally.executed;
                    self.steps.take(|| {
                        let done = self.runtime.block_on(copy_all(to, rows, executed));
                        self.done.fetch_add(done.rows.len(), Ordering::Relaxed);
                        done
                    })
                }
                None => Done { rows: rows.into_iter().map(|row| (row.key, Outcome::Copied)).collect(), stopped: None },
            };
            for (key, outcome) in rows {
                self.count(key, outcome);
            }
            if let Some((key, source)) = stopped {
                return Err(Failure::Copy { key, source });
            }
        }
        Ok(())
    }

    /// Tells whether a row may be copied, or what becomes of it otherwise.
    fn choose(&self, row: KeyRow) -> Result<Row, (KeyMeta, Outcome)> {
        let KeyRow { key, record } = row;
        if self.source.tombstones.contains_key(&key.id) {
            return Err((key, Outcome::Shredded));
        }
        if self.target.shredded.contains(&key.id) {
            return Err((key, Outcome::ShreddedThere));
        }
        match record {
            Err(error) => Err((key, Outcome::Corrupt(chain(&error)))),
            Ok(record) if record.parent_key.as_ref().is_some_and(|parent| self.unlike.contains(parent)) => {
                Err((key, Outcome::Unusable))
            }
            Ok(record) => Ok(Row { is_there: self.target.keys.contains(&key), key, record }),
        }
    }

    fn count(&mut self, key: KeyMeta, outcome: Outcome) {
        if matches!(outcome, Outcome::Different | Outcome::CorruptThere(_)) && key.id.kind() == Some(KeyKind::System) {
            self.unlike.insert(key.clone());
        }
        self.progress.add(1);
        self.tally.count(key, outcome);
    }

    /// Shreds an id that is shredded where it comes from; so many versions of it are known to be there.
    fn bury(&mut self, id: KeyId, tombstone: &EnvelopeKeyRecord, there: usize) -> Result<(), Failure> {
        if self.target.shredded.contains(&id) {
            self.tally.tombstones += 1;
            return Ok(());
        }
        let key = KeyMeta { created: tombstone.created, id };
        let destroyed = match &self.to {
            Some(to) if self.tally.executed => {
                let shred = || self.runtime.block_on(to.admin.shred(&key.id, tombstone));
                let destroyed = self.steps.take(shred);
                destroyed.map_err(|source| Failure::Copy { key: key.clone(), source })?.len()
            }
            _ => there,
        };
        self.target.shredded.insert(key.id.clone());
        self.tally.tombstones += 1;
        self.tally.note(key, Outcome::Buried(destroyed));
        Ok(())
    }
}
