//! What becomes of a record: by looking at key rows, or by re-wrapping it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward::stores::KeyAdmin;
use keyward::{DataRowRecord, Error, KeyId, KeyMeta, RecordError, SessionFactory};
use tokio::time::sleep;

use crate::cli::error::Failure;
use crate::cli::keys::rows::{state, versions};
use crate::cli::table::State;
use crate::cli::time::Time;

/// Partitions whose key rows are remembered by a dry run.
const REMEMBERED: usize = 10_000;

/// How long to wait when a partition has asked for too many keys that do not exist.
const THROTTLED: Duration = Duration::from_millis(200);

/// What is wrong with a line; other lines may do.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum LineError {
    #[error("it is blank, and not at the end")]
    Blank,
    #[error("it has more than {0} bytes, the most that payloads of --max-payload can need")]
    TooLong(usize),
    #[error("it is no record")]
    Record(#[from] RecordError),
    #[error("key {0} is not that of a partition of --service and --product")]
    Foreign(KeyId),
    #[error("the record belongs to partition {0:?}")]
    OtherPartition(String),
    #[error("there is no key {} created {}", .0.id, Time(.0.created))]
    NoKey(KeyMeta),
    #[error("key {} created {} is corrupt", .0.id, Time(.0.created))]
    CorruptKey(KeyMeta),
    #[error("its key {0} was shredded")]
    Shredded(KeyId),
    #[error(transparent)]
    Refused(Error),
}

/// Why a record was not judged.
pub(super) enum Fault {
    /// The next one may be.
    Line(LineError),
    /// There is no point in going on.
    Stop(Failure),
}

impl From<LineError> for Fault {
    fn from(error: LineError) -> Self {
        Self::Line(error)
    }
}

/// What becomes of a record that nothing is wrong with.
pub(super) enum Verdict {
    Unchanged,
    /// Re-wrapped: the text of the new record, unless it is a dry run.
    Rewrapped(Option<Vec<u8>>),
}

/// Judges records.
pub(super) enum Judge {
    Looks(Looks),
    Rewraps(SessionFactory),
}

impl Judge {
    /// Judges a record of `partition`, which `text` holds.
    pub(super) async fn judge(
        &mut self,
        partition: &str,
        record: &DataRowRecord,
        text: &[u8],
    ) -> Result<Verdict, Fault> {
        match self {
            Self::Looks(looks) => looks.judge(record).await,
            Self::Rewraps(factory) => {
                let session = factory.session(partition).await.map_err(sorted)?;
                loop {
                    match session.rewrap_json(text).await {
                        // Records before this one named keys that do not exist; this one may be good.
                        Err(Error::Throttled { .. }) => sleep(THROTTLED).await,
                        Err(error) => return Err(sorted(error)),
                        Ok(None) => return Ok(Verdict::Unchanged),
                        Ok(Some(text)) => return Ok(Verdict::Rewrapped(Some(text))),
                    }
                }
            }
        }
    }
}

/// Tells errors about one record from those that the next one would meet too.
fn sorted(error: Error) -> Fault {
    match error {
        Error::Undecryptable
        | Error::WrongPartition
        | Error::Record(_)
        | Error::Partition(_)
        | Error::KeyNotFound { .. }
        | Error::KeyCorrupt { .. }
        | Error::Shredded { .. }
        | Error::TooLarge { .. } => Fault::Line(LineError::Refused(error)),
        other => Fault::Stop(Failure::Rewrap(other)),
    }
}

/// Looks at key rows alone.
pub(super) struct Looks {
    store: Arc<dyn KeyAdmin>,
    expire_after: Duration,
    now: SystemTime,
    keys: HashMap<KeyId, Vec<(i64, State)>>,
}

impl Looks {
    pub(super) fn new(store: Arc<dyn KeyAdmin>, expire_after: Duration) -> Self {
        Self { store, expire_after, now: SystemTime::now(), keys: HashMap::new() }
    }

    async fn judge(&mut self, record: &DataRowRecord) -> Result<Verdict, Fault> {
        let key = record.parent_key();
        if !self.keys.contains_key(&key.id) {
            if self.keys.len() >= REMEMBERED {
                self.keys.clear();
            }
            let rows = versions(&*self.store, &key.id).await.map_err(Fault::Stop)?;
            let mut states = Vec::new();
            for row in &rows {
                let state = state(&*self.store, row, self.expire_after, self.now).await.map_err(Fault::Stop)?;
                states.push((row.key.created, state));
            }
            self.keys.insert(key.id.clone(), states);
        }
        let versions = self.keys.get(&key.id).map_or(&[][..], Vec::as_slice);
        if let Some((_, State::Shredded)) = versions.last() {
            return Err(LineError::Shredded(key.id.clone()).into());
        }
        match versions.iter().find(|(created, _)| *created == key.created) {
            None => Err(LineError::NoKey(key.clone()).into()),
            Some((_, State::Corrupt)) => Err(LineError::CorruptKey(key.clone()).into()),
            Some(own) if versions.last() == Some(own) && own.1 == State::Valid => Ok(Verdict::Unchanged),
            Some(_) => Ok(Verdict::Rewrapped(None)),
        }
    }

    /// Says which version of a key is the newest, where that is remembered.
    pub(super) fn newest(&self, key: &KeyMeta) -> String {
        match self.keys.get(&key.id).and_then(|versions| versions.last()) {
            None => "-".to_owned(),
            Some((created, State::Valid)) if *created == key.created => "this one".to_owned(),
            Some((created, State::Valid)) => Time(*created).to_string(),
            Some((_, State::Shredded)) => "shredded".to_owned(),
            Some((_, State::Corrupt)) => "corrupt".to_owned(),
            Some((_, state)) => format!("{}; one would be made", state.name()),
        }
    }
}
