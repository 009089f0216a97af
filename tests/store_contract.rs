//! What every metastore must do, told once and run against each of them.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use keyward::stores::{InMemoryMetastore, KeyAdmin, Metastore, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// One test per story, each on a fresh store.
macro_rules! run_against {
    ($store:ident: $($story:ident)*) => {
        mod $store {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $story() -> super::TestResult {
                    super::$story(super::Stage::$store().await?).await
                }
            )*
        }
    };
}

macro_rules! contract {
    ($store:ident $($extra:ident)*) => {
        run_against! { $store:
            what_was_never_stored_is_none
            a_stored_key_is_loaded_exactly_and_as_the_latest
            a_duplicate_leaves_the_first_row_as_it_is
            the_latest_is_the_one_created_last_not_stored_last
            any_time_before_and_after_1970_is_a_creation_time
            ids_are_compared_byte_by_byte
            one_of_many_creators_wins_and_all_see_its_row
            the_latest_can_always_be_loaded_by_its_exact_key
            odd_but_legal_records_are_read
            a_listing_pages_through_everything_in_order
            a_listing_goes_on_after_a_key_that_is_not_there
            a_dropped_call_leaves_a_whole_store
            ids_of_255_bytes_fit
            records_of_64_kib_fit
            $($extra)*
        }
    };
}

contract!(memory);
#[cfg(feature = "sqlite")]
contract!(sqlite a_corrupt_row_is_never_absent a_corrupt_row_does_not_end_a_listing);

async fn what_was_never_stored_is_none(stage: Stage) -> TestResult {
    stage.put("other", &record(5, b"k")).await?;
    assert_eq!(stage.load("alice", 5).await?, None);
    assert_eq!(stage.load("other", 6).await?, None);
    assert_eq!(stage.load("other", i64::MAX).await?, None);
    assert_eq!(stage.latest("alice").await?, None);
    Ok(())
}

async fn a_stored_key_is_loaded_exactly_and_as_the_latest(stage: Stage) -> TestResult {
    let parent_key = Some(KeyMeta { id: KeyId::new("_SK_\"svc\"_é"), created: 0 });
    let stored = EnvelopeKeyRecord { parent_key, revoked: true, ..record(1_700_000_000, b"wrapped") };
    assert_eq!(stage.store("alice", &stored).await?, StoreOutcome::Stored);
    assert_eq!(stage.load("alice", 1_700_000_000).await?.as_ref(), Some(&stored));
    assert_eq!(stage.latest("alice").await?, Some(stored));
    Ok(())
}

async fn a_duplicate_leaves_the_first_row_as_it_is(stage: Stage) -> TestResult {
    let (first, second) = (record(5, b"first"), record(5, b"second"));
    assert_eq!(stage.store("alice", &first).await?, StoreOutcome::Stored);
    assert_eq!(stage.store("alice", &second).await?, StoreOutcome::Duplicate);
    assert_eq!(stage.load("alice", 5).await?, Some(first));
    Ok(())
}

async fn the_latest_is_the_one_created_last_not_stored_last(stage: Stage) -> TestResult {
    for created in [100, 300, 200] {
        stage.put("alice", &record(created, b"k")).await?;
    }
    assert_eq!(stage.latest("alice").await?, Some(record(300, b"k")));
    Ok(())
}

async fn any_time_before_and_after_1970_is_a_creation_time(stage: Stage) -> TestResult {
    // From 0001-01-01 00:00:00 to 9999-12-31 23:59:59.
    for created in [-62_135_596_800, -1, 0, 1, 253_402_300_799] {
        assert_eq!(stage.store("alice", &record(created, b"k")).await?, StoreOutcome::Stored);
        assert_eq!(stage.load("alice", created).await?, Some(record(created, b"k")));
        assert_eq!(stage.latest("alice").await?, Some(record(created, b"k")));
    }
    Ok(())
}

async fn ids_are_compared_byte_by_byte(stage: Stage) -> TestResult {
    let ids =
        ["alice", "Alice", "alice ", " alice", "\u{e9}", "e\u{301}", "a%", "a_", "ab", "%", "_", "a\\", "1", "01"];
    for id in ids {
        assert_eq!(stage.latest(id).await?, None, "{id:?}");
        assert_eq!(stage.store(id, &record(5, id.as_bytes())).await?, StoreOutcome::Stored, "{id:?}");
    }
    for id in ids {
        assert_eq!(stage.load(id, 5).await?, Some(record(5, id.as_bytes())), "{id:?}");
        assert_eq!(stage.latest(id).await?, Some(record(5, id.as_bytes())), "{id:?}");
    }
    Ok(())
}

async fn one_of_many_creators_wins_and_all_see_its_row(stage: Stage) -> TestResult {
    let stage = Arc::new(stage);
    let creators: Vec<_> = (0..16_u8)
        .map(|creator| {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move {
                let outcome = stage.store("alice", &record(5, &[creator])).await?;
                TestResult::Ok((creator, outcome, stage.latest("alice").await?))
            })
        })
        .collect();
    let mut winners = Vec::new();
    let mut seen = Vec::new();
    for creator in creators {
        let (creator, outcome, row) = creator.await??;
        winners.extend((outcome == StoreOutcome::Stored).then_some(creator));
        seen.push(row);
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(seen, vec![Some(record(5, &winners)); 16]);
    Ok(())
}

async fn the_latest_can_always_be_loaded_by_its_exact_key(stage: Stage) -> TestResult {
    const WRITERS: u8 = 8;
    let stage = Arc::new(stage);
    let writing = Arc::new(AtomicUsize::new(WRITERS.into()));
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let (stage, writing) = (Arc::clone(&stage), Arc::clone(&writing));
        tasks.push(tokio::spawn(async move {
            for round in 0..20 {
                let _ = stage.store("alice", &record(round, &[writer])).await?;
            }
            writing.fetch_sub(1, Ordering::SeqCst);
            TestResult::Ok(())
        }));
    }
    for _reader in 0..4 {
        let (stage, writing) = (Arc::clone(&stage), Arc::clone(&writing));
        tasks.push(tokio::spawn(async move {
            let mut newest = i64::MIN;
            while writing.load(Ordering::SeqCst) > 0 {
                let Some(latest) = stage.latest("alice").await? else { continue };
                assert!(latest.created >= newest, "{} after {newest}", latest.created);
                newest = latest.created;
                assert_eq!(stage.load("alice", newest).await?, Some(latest));
            }
            Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn odd_but_legal_records_are_read(stage: Stage) -> TestResult {
    let parent_key = Some(KeyMeta { id: KeyId::new("_SK_a&é"), created: 3 });
    let expected = EnvelopeKeyRecord { parent_key, ..record(5, &[0, 1, 2]) };
    let shapes = [
        " {\n\t\"Created\" : 5 , \"Key\" : \"AAEC\", \"ParentKeyMeta\":{\"KeyId\":\"_SK_a&é\",\"Created\":3} } ",
        r#"{"ParentKeyMeta":{"Created":3,"KeyId":"_SK_a&é"},"Key":"AAEC","Created":5}"#,
        r#"{"New":[{"x":1}],"Created":5,"Key":"AAEC","ParentKeyMeta":{"KeyId":"_SK_a&é","Created":3,"Y":null}}"#,
        r#"{"Revoked":null,"Created":5,"Key":"AAEC","ParentKeyMeta":{"KeyId":"_SK_a&é","Created":3}}"#,
        r#"{"Revoked":false,"Created":5,"Key":"AAEC","ParentKeyMeta":{"KeyId":"_SK_a\u0026\u00e9","Created":3}}"#,
    ];
    for (number, text) in shapes.iter().enumerate() {
        let id = format!("odd {number}");
        stage.write(&id, 5, text).await?;
        assert_eq!(stage.load(&id, 5).await?.as_ref(), Some(&expected), "{text}");
        assert_eq!(stage.latest(&id).await?.as_ref(), Some(&expected), "{text}");
    }
    Ok(())
}

#[cfg(feature = "sqlite")]
async fn a_corrupt_row_is_never_absent(stage: Stage) -> TestResult {
    for (id, text) in CORRUPT {
        stage.write(id, 5, text).await?;
        let error = stage.load(id, 5).await.expect_err(id);
        assert!(matches!(&error, StoreError::Corrupt { created: Some(5), id: named, .. } if named == id), "{error}");
        assert!(matches!(stage.latest(id).await, Err(StoreError::Corrupt { created: Some(5), .. })), "{id}");
        let outcome = stage.store(id, &record(5, b"k")).await?;
        assert_eq!(outcome, StoreOutcome::Duplicate, "{id}");
    }
    Ok(())
}

#[cfg(feature = "sqlite")]
async fn a_corrupt_row_does_not_end_a_listing(stage: Stage) -> TestResult {
    stage.put("A", &record(5, b"k")).await?;
    for (id, text) in CORRUPT {
        stage.write(id, 5, text).await?;
    }
    stage.put("z", &record(5, b"k")).await?;
    let rows = stage.store.list(None, 100).await?;
    assert_eq!(rows.len(), CORRUPT.len() + 2);
    let good: Vec<_> = rows.iter().filter(|row| row.record.is_ok()).map(|row| row.key.id.as_str()).collect();
    assert_eq!(good, ["A", "z"]);
    Ok(())
}

async fn a_listing_pages_through_everything_in_order(stage: Stage) -> TestResult {
    let mut keys: Vec<KeyMeta> = ["", "B", "a", "a ", "é", "_IK_p_s_q", "drift guard"]
        .iter()
        .flat_map(|id| [-1, 0, 60, 1_700_000_000].map(|created| key(id, created)))
        .collect();
    for key in keys.iter().rev() {
        stage.put(key.id.as_str(), &record(key.created, b"k")).await?;
    }
    keys.sort();
    for limit in [1, 3, keys.len(), keys.len() + 1] {
        let mut listed: Vec<KeyMeta> = Vec::new();
        loop {
            let page = stage.store.list(listed.last(), limit).await?;
            assert!(page.len() <= limit && page.iter().all(|row| row.record.is_ok()));
            if page.is_empty() {
                break;
            }
            listed.extend(page.into_iter().map(|row| row.key));
        }
        assert_eq!(listed, keys, "pages of {limit}");
    }
    assert!(stage.store.list(None, 0).await?.is_empty());
    Ok(())
}

async fn a_listing_goes_on_after_a_key_that_is_not_there(stage: Stage) -> TestResult {
    for (id, created) in [("a", 1), ("a", 2), ("c", 1)] {
        stage.put(id, &record(created, b"k")).await?;
    }
    let cases =
        [(key("a", i64::MIN), 3), (key("a", 1), 2), (key("a", i64::MAX), 1), (key("b", 0), 1), (key("d", 0), 0)];
    for (after, expected) in cases {
        assert_eq!(stage.store.list(Some(&after), 9).await?.len(), expected, "{after}");
    }
    Ok(())
}

async fn a_dropped_call_leaves_a_whole_store(stage: Stage) -> TestResult {
    for created in 0..20 {
        let dropped = record(created, b"dropped");
        poll_once(stage.store("alice", &dropped)).await;
        let kept = record(created, b"kept");
        let expected = match stage.store("alice", &kept).await? {
            StoreOutcome::Stored => kept,
            StoreOutcome::Duplicate => dropped,
        };
        poll_once(stage.load("alice", created)).await;
        assert_eq!(stage.load("alice", created).await?, Some(expected));
    }
    Ok(())
}

async fn ids_of_255_bytes_fit(stage: Stage) -> TestResult {
    let (one, other) = (format!("{}a", "x".repeat(254)), format!("{}b", "x".repeat(254)));
    stage.put(&one, &record(5, b"one")).await?;
    stage.put(&other, &record(5, b"other")).await?;
    assert_eq!(stage.load(&one, 5).await?, Some(record(5, b"one")));
    assert_eq!(stage.latest(&other).await?, Some(record(5, b"other")));
    Ok(())
}

async fn records_of_64_kib_fit(stage: Stage) -> TestResult {
    let large = record(5, &vec![7; 48 * 1024]);
    assert!(large.to_json().len() > 64 * 1024);
    stage.put("alice", &large).await?;
    assert_eq!(stage.load("alice", 5).await?, Some(large));
    Ok(())
}

/// Rows that are no key records, by id; all stored as created at 5.
#[cfg(feature = "sqlite")]
const CORRUPT: [(&str, &str); 6] = [
    ("empty", ""),
    ("no json", "{"),
    ("no record", "{}"),
    ("no base64", r#"{"Created":5,"Key":"?"}"#),
    ("null", "null"),
    ("other time", r#"{"Created":6,"Key":"AAEC"}"#),
];

trait Store: Metastore + KeyAdmin {}
impl<S: Metastore + KeyAdmin> Store for S {}

/// A fresh store, and a way to write rows behind its back where it has one.
struct Stage {
    store: Box<dyn Store>,
    #[cfg(feature = "sqlite")]
    folder: Option<tempfile::TempDir>,
}

impl Stage {
    async fn memory() -> TestResult<Self> {
        Ok(Self {
            store: Box::new(InMemoryMetastore::new()),
            #[cfg(feature = "sqlite")]
            folder: None,
        })
    }

    #[cfg(feature = "sqlite")]
    async fn sqlite() -> TestResult<Self> {
        let folder = tempfile::tempdir()?;
        let store = keyward::stores::SqliteMetastore::open(folder.path().join("keys.db")).await?;
        Ok(Self { store: Box::new(store), folder: Some(folder) })
    }

    async fn load(&self, id: &str, created: i64) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.store.load(&key(id, created)).await
    }

    async fn latest(&self, id: &str) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.store.load_latest(&KeyId::new(id)).await
    }

    async fn store(&self, id: &str, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        self.store.store(&KeyId::new(id), record).await
    }

    /// Stores a new row.
    async fn put(&self, id: &str, record: &EnvelopeKeyRecord) -> TestResult {
        assert_eq!(self.store(id, record).await?, StoreOutcome::Stored);
        Ok(())
    }

    /// Writes the text of a row as another implementation would; a store without text reads it first.
    async fn write(&self, id: &str, created: i64, text: &str) -> TestResult {
        #[cfg(feature = "sqlite")]
        if let Some(folder) = &self.folder {
            let row = rusqlite::params![id, created, text];
            rusqlite::Connection::open(folder.path().join("keys.db"))?
                .execute("INSERT INTO encryption_key VALUES (?1, datetime(?2, 'unixepoch'), ?3)", row)?;
            return Ok(());
        }
        let record = EnvelopeKeyRecord::from_json(text.as_bytes())?;
        assert_eq!(record.created, created);
        self.put(id, &record).await
    }
}

fn key(id: &str, created: i64) -> KeyMeta {
    KeyMeta { id: KeyId::new(id), created }
}

fn record(created: i64, encrypted_key: &[u8]) -> EnvelopeKeyRecord {
    EnvelopeKeyRecord { created, encrypted_key: encrypted_key.to_vec(), parent_key: None, revoked: false }
}

/// Starts a call and drops it.
async fn poll_once(call: impl Future) {
    let mut call = pin!(call);
    poll_fn(|context| {
        let _ = call.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}
