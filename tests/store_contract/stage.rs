//! A fresh store, and a way to write rows behind its back where it has one.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use keyward::stores::{KeyAdmin, Metastore, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};

pub(crate) type TestResult<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub(crate) trait Store: Metastore + KeyAdmin {}
impl<S: Metastore + KeyAdmin> Store for S {}

/// The way that other implementations go to the rows of a store.
#[async_trait]
pub(crate) trait Behind: Send + Sync {
    /// Writes the text of a row; `false` where the store can hold no such text.
    async fn write(&self, id: &str, created: i64, text: &str) -> TestResult<bool>;

    /// Reads the text of a row.
    async fn text(&self, id: &str, created: i64) -> TestResult<String>;
}

/// A fresh store.
pub(crate) struct Stage {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) behind: Option<Box<dyn Behind>>,
    /// The first and the last creation time that it holds.
    pub(crate) times: (i64, i64),
    /// Whether it lists rows in the order of their keys.
    pub(crate) is_ordered: bool,
    /// Whether ids may hold any text; else ASCII.
    pub(crate) is_unicode: bool,
    /// Whether rows of ids that look alike, as `alice` and `Alice`, may share a creation time.
    pub(crate) is_exact: bool,
}

impl Stage {
    /// Describes a store that holds everything, in order.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        // From 0001-01-01 00:00:00 to 9999-12-31 23:59:59.
        let times = (-62_135_596_800, 253_402_300_799);
        Self { store, behind: None, times, is_ordered: true, is_unicode: true, is_exact: true }
    }

    pub(crate) async fn load(&self, id: &str, created: i64) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.store.load(&key(id, created)).await
    }

    pub(crate) async fn latest(&self, id: &str) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.store.load_latest(&KeyId::new(id)).await
    }

    pub(crate) async fn store(&self, id: &str, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        self.store.store(&KeyId::new(id), record).await
    }

    /// Stores a new row.
    pub(crate) async fn put(&self, id: &str, record: &EnvelopeKeyRecord) -> TestResult {
        assert_eq!(self.store(id, record).await?, StoreOutcome::Stored);
        Ok(())
    }

    /// Returns every row of exactly this id.
    pub(crate) async fn rows_of(&self, id: &str) -> TestResult<Vec<EnvelopeKeyRecord>> {
        let rows = self.store.list(None, 10_000).await?;
        Ok(rows.into_iter().filter(|row| row.key.id.as_str() == id).map(|row| row.record).collect::<Result<_, _>>()?)
    }

    /// Of these ids, those that the store can hold.
    pub(crate) fn ids<const N: usize>(&self, ids: [&'static str; N]) -> Vec<&'static str> {
        ids.into_iter().filter(|id| self.is_unicode || id.is_ascii()).collect()
    }

    /// Returns what to add to the creation time of the `number`th of ids that look alike.
    pub(crate) fn apart(&self, number: usize) -> i64 {
        if self.is_exact { 0 } else { number.try_into().expect("a few ids") }
    }

    /// Writes a row as a program does that knows no tombstones; `false` where only the store itself can write.
    pub(crate) async fn force(&self, id: &str, record: &EnvelopeKeyRecord) -> TestResult<bool> {
        match &self.behind {
            Some(behind) => behind.write(id, record.created, &record.to_json()).await,
            None => Ok(false),
        }
    }

    /// Writes the text of a row as another implementation would; where only the store itself can write, it reads the text
    /// first. `false` where the store can hold no such text.
    pub(crate) async fn write(&self, id: &str, created: i64, text: &str) -> TestResult<bool> {
        if let Some(behind) = &self.behind {
            return behind.write(id, created, text).await;
        }
        match EnvelopeKeyRecord::from_json(text.as_bytes()) {
            Ok(record) if record.created == created => {
                self.put(id, &record).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Reads the text of a row that was written behind the store's back.
    pub(crate) async fn text(&self, id: &str, created: i64) -> TestResult<String> {
        self.behind.as_ref().ok_or("a store without text")?.text(id, created).await
    }
}

pub(crate) fn key(id: &str, created: i64) -> KeyMeta {
    KeyMeta { id: KeyId::new(id), created }
}

pub(crate) fn record(created: i64, encrypted_key: &[u8]) -> EnvelopeKeyRecord {
    EnvelopeKeyRecord { created, encrypted_key: encrypted_key.to_vec(), parent_key: None, revoked: false }
}

pub(crate) fn tombstone() -> EnvelopeKeyRecord {
    EnvelopeKeyRecord::tombstone(Some(key("_SK_svc_prod", 60)))
}

/// Starts a call and drops it.
pub(crate) async fn poll_once(call: impl Future) {
    let mut call = pin!(call);
    poll_fn(|context| {
        let _ = call.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}
