//! The embedded store: one SQLite file, used by one thread, shared by any number of processes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::rows::{check_tombstone, check_wrapped_key, revoke, rewrap};
use super::sqlite_admin::{LISTING, REPLACING, REVOKING, SHREDDING};
use super::sqlite_table::{LOADING, OPENING, STORING, Table, in_file};
use super::{KeyAdmin, KeyRow, Metastore, Replacement, Revocation, StoreError, StoreOutcome};
use crate::ids::{KeyId, KeyMeta};
use crate::record::EnvelopeKeyRecord;

/// How long a call waits for another process's lock unless [`SqliteOptions`] say otherwise.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls that may queue for the thread; the next caller waits for a place. Keys are cached, so calls are rare: a full
/// queue means a slow disk, and a longer one would only hide it.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce(&mut Table) + Send>;

/// How a [`SqliteMetastore`] is opened.
///
/// # Defaults
/// * `busy_timeout`: [`BUSY_TIMEOUT`] (5 s); other processes hold the lock for one insert, some milliseconds.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// How long a call waits for the lock of another process before it fails as transient.
    pub busy_timeout: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { busy_timeout: BUSY_TIMEOUT }
    }
}

/// A metastore in a SQLite file; cloning shares it.
///
/// Works on every executor: the file is used by a thread of its own, named `keyward-sqlite`, which ends with the last
/// clone. Any number of processes of one machine may share the file. Each insert is one transaction, synced to the disk
/// before the call returns ([`synchronous = FULL`](https://sqlite.org/pragma.html#pragma_synchronous)). Files on
/// network file systems are not safe to share, see [SQLite over a network](https://sqlite.org/useovernet.html).
///
/// The file is never changed by reading: one that may not be written, or lies in such a folder, serves loads.
///
/// # Cancel safety
/// A call that is dropped has happened whole or not at all; one that was already queued is still executed.
///
/// # Security
/// Rows hold wrapped keys only. A new file is readable by its owner alone (mode 0600 on Unix); the mode of an existing
/// one is left as it is.
///
/// # Examples
/// ```
/// use keyward::stores::SqliteMetastore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("keys.db");
/// let store = SqliteMetastore::open(path).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SqliteMetastore {
    file: Arc<Path>,
    place: Arc<str>,
    jobs: mpsc::Sender<Job>,
}

impl SqliteMetastore {
    /// Opens the file with the default [`SqliteOptions`], creating it and the table when they are missing.
    ///
    /// `path` always names a file: `:memory:` and `file:` have no special meaning.
    ///
    /// # Errors
    /// [`StoreError::Permanent`] when the file is no database, cannot be created, or has no table and cannot be
    /// written; [`StoreError::Transient`] when another process keeps it locked.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, SqliteOptions::default()).await
    }

    /// Opens the file as [`open`](Self::open) does, with other options.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, StoreError> {
        Self::start(path.as_ref(), move |file| Table::open(file, options.busy_timeout)).await
    }

    /// Opens the file for [`SchemaAdmin`](super::SchemaAdmin) alone: one that is missing, and a table that is, are made by
    /// [`apply`](super::SchemaAdmin::apply).
    ///
    /// # Errors
    /// As [`open`](Self::open), but for what is missing.
    pub async fn connect_for_schema(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::start(path.as_ref(), |file| Table::look(file, BUSY_TIMEOUT)).await
    }

    /// Starts the thread, which opens the table.
    async fn start(
        path: &Path,
        open: impl FnOnce(&Path) -> Result<Table, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let file: Arc<Path> = std::path::absolute(path).map_err(cannot_start)?.into();
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (reply, opened) = oneshot::channel();
        let thread_file = Arc::clone(&file);
        thread::Builder::new()
            .name("keyward-sqlite".to_owned())
            .spawn(move || match open(&thread_file) {
                Ok(table) => {
                    // A caller that went away dropped `jobs` too, which ends `serve`.
                    let _ = reply.send(Ok(()));
                    serve(table, queue);
                }
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            })
            .map_err(cannot_start)?;
        opened.await.unwrap_or_else(|_| Err(thread_gone(OPENING)))?;
        Ok(Self { place: in_file(&file).into(), file, jobs })
    }

    /// Returns the absolute path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Has the thread do `work` and waits for its answer.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Table) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |table| {
            // Nobody waits any more when the call was dropped; the work is done all the same.
            let _ = reply.send(work(table));
        });
        self.jobs.send(job).await.map_err(|_| thread_gone(operation))?;
        answer.await.unwrap_or_else(|_| Err(thread_gone(operation)))
    }
}

#[async_trait]
impl Metastore for SqliteMetastore {
    async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        let key = key.clone();
        self.run(LOADING, move |table| table.load(&key)).await
    }

    async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        let id = id.clone();
        self.run(LOADING, move |table| table.load_latest(&id)).await
    }

    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        let key = KeyMeta { id: id.clone(), created: record.created };
        let text = record.to_json();
        self.run(STORING, move |table| table.store(&key, &text)).await
    }

    /// `sql`, as the metrics of other implementations have it for all SQL databases.
    fn kind(&self) -> &'static str {
        "sql"
    }

    fn place(&self) -> &str {
        &self.place
    }
}

/// Rows whose id is not text, or whose `created` is not stored as `YYYY-MM-DD HH:MM:SS`, have no [`KeyMeta`] and are
/// left out of listings. Shredding removes them.
///
/// Shredding also has SQLite write the file anew without what it deleted ([`VACUUM`](https://sqlite.org/lang_vacuum.html))
/// and empty the write-ahead log. That takes time and free disk space in proportion to the file; other processes can
/// read meanwhile, and wait to write. What a file system or a disk keeps of overwritten blocks is beyond it.
#[async_trait]
impl KeyAdmin for SqliteMetastore {
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        let after = after.cloned();
        self.run(LISTING, move |table| table.list(after.as_ref(), limit)).await
    }

    async fn versions(&self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
        let id = id.clone();
        self.run(LISTING, move |table| table.versions(&id)).await
    }

    async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, StoreError> {
        let key = key.clone();
        let edit = move |table: &mut Table| table.edit(REVOKING, &key, Revocation::NotFound, |text| revoke(&key, text));
        self.run(REVOKING, edit).await
    }

    async fn shred(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError> {
        check_tombstone(SHREDDING, tombstone)?;
        let (id, tombstone) = (id.clone(), tombstone.clone());
        self.run(SHREDDING, move |table| table.shred(&id, &tombstone)).await
    }

    async fn replace_wrapped_key(&self, key: &KeyMeta, old: &[u8], new: &[u8]) -> Result<Replacement, StoreError> {
        check_wrapped_key(REPLACING, new)?;
        let (key, old, new) = (key.clone(), old.to_vec(), new.to_vec());
        let edit = move |table: &mut Table| {
            table.edit(REPLACING, &key, Replacement::NotFound, |text| rewrap(&key, text, &old, &new))
        };
        self.run(REPLACING, edit).await
    }
}

/// Does the jobs in turn until the last handle is dropped.
fn serve(mut table: Table, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.blocking_recv() {
        job(&mut table);
    }
}

fn cannot_start(error: io::Error) -> StoreError {
    StoreError::Permanent { operation: OPENING, advice: None, source: error.into() }
}

fn thread_gone(operation: &'static str) -> StoreError {
    let advice = Some("open the store again");
    StoreError::Permanent { operation, advice, source: "the thread keyward-sqlite ended".into() }
}
