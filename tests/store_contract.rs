//! What every metastore must do, told once and run against each of them.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use keyward::stores::{InMemoryMetastore, KeyAdmin, Metastore, Revocation, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta, TOMBSTONE_CREATED};

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
            a_revocation_says_what_became_of_it
            a_revoked_key_keeps_the_rest_of_its_record
            a_shredded_key_leaves_its_tombstone_alone
            shredding_again_removes_what_others_added_meanwhile
            shredding_compares_ids_byte_by_byte
            a_key_dated_as_a_tombstone_is_shredded_like_any_other
            only_a_tombstone_takes_the_place_of_a_shredded_key
            an_id_with_a_tombstone_takes_no_more_rows
            a_tombstone_can_be_copied_to_another_store
            whoever_stores_after_the_shredding_is_told_duplicate
            an_arc_of_a_store_is_one
            $($extra)*
        }
    };
}

contract!(memory);
#[cfg(feature = "sqlite")]
contract!(sqlite
    a_corrupt_row_is_never_absent
    a_corrupt_row_does_not_end_a_listing
    a_corrupt_row_is_not_revoked_and_can_be_shredded
);

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

async fn a_revocation_says_what_became_of_it(stage: Stage) -> TestResult {
    for created in [4, 5, 6] {
        stage.put("alice", &record(created, b"k")).await?;
    }
    stage.put("Alice", &record(5, b"k")).await?;
    assert_eq!(stage.store.revoke(&key("alice", 5)).await?, Revocation::Revoked);
    assert_eq!(stage.store.revoke(&key("alice", 5)).await?, Revocation::AlreadyRevoked);
    for absent in [key("alice", 7), key("bob", 5), key("alice ", 5), key("alice", i64::MAX), key("alice", i64::MIN)] {
        assert_eq!(stage.store.revoke(&absent).await?, Revocation::NotFound, "{absent}");
    }
    assert_eq!(stage.load("alice", 5).await?, Some(EnvelopeKeyRecord { revoked: true, ..record(5, b"k") }));
    for (id, created) in [("alice", 4), ("alice", 6), ("Alice", 5)] {
        assert_eq!(stage.load(id, created).await?, Some(record(created, b"k")), "{id} {created}");
    }
    Ok(())
}

async fn a_revoked_key_keeps_the_rest_of_its_record(stage: Stage) -> TestResult {
    let parent_key = Some(KeyMeta { id: KeyId::new("_SK_a&é"), created: 3 });
    let expected = EnvelopeKeyRecord { parent_key, revoked: true, ..record(5, &[0, 1, 2]) };
    let shapes = [
        r#"{"Created":5,"Key":"AAEC","ParentKeyMeta":{"KeyId":"_SK_a&é","Created":3}}"#,
        r#" { "Revoked" : null, "New": [ 1e400, {"x":"\u0041"} ], "Created":5, "Key":"AA\nEC",
            "ParentKeyMeta":{"Y":1,"KeyId":"_SK_a\u0026é","Created":3} } "#,
    ];
    for (number, text) in shapes.iter().enumerate() {
        let id = format!("odd {number}");
        stage.write(&id, 5, text).await?;
        assert_eq!(stage.store.revoke(&key(&id, 5)).await?, Revocation::Revoked, "{text}");
        assert_eq!(stage.load(&id, 5).await?.as_ref(), Some(&expected), "{text}");
        assert_eq!(stage.latest(&id).await?.as_ref(), Some(&expected), "{text}");
    }
    Ok(())
}

async fn a_shredded_key_leaves_its_tombstone_alone(stage: Stage) -> TestResult {
    for created in [-1, 5, 1_700_000_000, TOMBSTONE_CREATED + 1] {
        stage.put("alice", &record(created, b"k")).await?;
    }
    let destroyed = stage.store.shred(&KeyId::new("alice"), &tombstone()).await?;
    assert_eq!(destroyed, [-1, 5, 1_700_000_000, TOMBSTONE_CREATED + 1].map(|created| key("alice", created)));
    assert_eq!(stage.rows_of("alice").await?, [tombstone()]);
    assert_eq!(stage.latest("alice").await?, Some(tombstone()));
    assert_eq!(stage.load("alice", 5).await?, None);
    assert_eq!(stage.store.shred(&KeyId::new("nobody"), &tombstone()).await?, [], "there was nothing");
    assert_eq!(stage.latest("nobody").await?, Some(tombstone()), "and there will be nothing");
    Ok(())
}

async fn shredding_again_removes_what_others_added_meanwhile(stage: Stage) -> TestResult {
    let id = KeyId::new("alice");
    stage.put("alice", &record(5, b"k")).await?;
    assert_eq!(stage.store.shred(&id, &tombstone()).await?, [key("alice", 5)]);
    stage.force("alice", &record(6, b"k")).await?;
    let other = EnvelopeKeyRecord::tombstone(None);
    let added = if stage.has_text() { vec![key("alice", 6)] } else { Vec::new() };
    assert_eq!(stage.store.shred(&id, &other).await?, added);
    assert_eq!(stage.store.shred(&id, &other).await?, []);
    assert_eq!(stage.rows_of("alice").await?, [tombstone()], "the first tombstone stays");
    Ok(())
}

async fn shredding_compares_ids_byte_by_byte(stage: Stage) -> TestResult {
    let others = ["Alice", "alice ", "alice_", "%", "_____", "e\u{301}"];
    for id in others.iter().chain(&["alice", "\u{e9}"]) {
        stage.put(id, &record(5, id.as_bytes())).await?;
    }
    for id in ["alice", "\u{e9}"] {
        assert_eq!(stage.store.shred(&KeyId::new(id), &tombstone()).await?, [key(id, 5)]);
    }
    for id in others {
        assert_eq!(stage.rows_of(id).await?, [record(5, id.as_bytes())], "{id:?}");
    }
    Ok(())
}

async fn a_key_dated_as_a_tombstone_is_shredded_like_any_other(stage: Stage) -> TestResult {
    let real = [record(TOMBSTONE_CREATED, b"k"), EnvelopeKeyRecord { revoked: false, ..tombstone() }];
    for (number, real) in real.iter().enumerate() {
        let id = format!("real {number}");
        stage.put(&id, real).await?;
        stage.put(&id, &record(5, b"k")).await?;
        let destroyed = stage.store.shred(&KeyId::new(&id), &tombstone()).await?;
        assert_eq!(destroyed, [key(&id, 5), key(&id, TOMBSTONE_CREATED)]);
        assert_eq!(stage.rows_of(&id).await?, [tombstone()]);
    }
    Ok(())
}

async fn only_a_tombstone_takes_the_place_of_a_shredded_key(stage: Stage) -> TestResult {
    stage.put("alice", &record(5, b"k")).await?;
    let no_tombstones = [
        record(TOMBSTONE_CREATED, b""),
        EnvelopeKeyRecord { encrypted_key: b"k".to_vec(), ..tombstone() },
        EnvelopeKeyRecord { created: 6, ..tombstone() },
    ];
    for record in no_tombstones {
        let error = stage.store.shred(&KeyId::new("alice"), &record).await.expect_err("no tombstone");
        assert!(matches!(error, StoreError::Permanent { .. }), "{error}");
    }
    assert_eq!(stage.rows_of("alice").await?, [record(5, b"k")]);
    Ok(())
}

async fn an_id_with_a_tombstone_takes_no_more_rows(stage: Stage) -> TestResult {
    stage.put("alice", &record(5, b"k")).await?;
    let _ = stage.store.shred(&KeyId::new("alice"), &tombstone()).await?;
    for created in [5, 6, TOMBSTONE_CREATED, TOMBSTONE_CREATED + 1] {
        assert_eq!(stage.store("alice", &record(created, b"new")).await?, StoreOutcome::Duplicate, "{created}");
    }
    assert_eq!(stage.rows_of("alice").await?, [tombstone()]);
    stage.put("Alice", &record(5, b"k")).await?;
    // What is revoked, or has no key, or is dated like that, is no tombstone yet.
    stage.put("bob", &EnvelopeKeyRecord { revoked: true, ..record(TOMBSTONE_CREATED, b"k") }).await?;
    stage.put("bob", &record(5, b"k")).await?;
    stage.put("carol", &record(TOMBSTONE_CREATED, b"")).await?;
    stage.put("carol", &record(5, b"k")).await
}

async fn a_tombstone_can_be_copied_to_another_store(stage: Stage) -> TestResult {
    stage.put("alice", &tombstone()).await?;
    assert_eq!(stage.store("alice", &tombstone()).await?, StoreOutcome::Duplicate);
    assert_eq!(stage.store("alice", &record(5, b"k")).await?, StoreOutcome::Duplicate);
    Ok(())
}

async fn whoever_stores_after_the_shredding_is_told_duplicate(stage: Stage) -> TestResult {
    let stage = Arc::new(stage);
    for round in 0..8 {
        let id = format!("tenant {round}");
        let shredded = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..4_u8)
            .map(|writer| {
                let (stage, id, shredded) = (Arc::clone(&stage), id.clone(), Arc::clone(&shredded));
                tokio::spawn(async move {
                    for created in 0..40 {
                        let is_late = shredded.load(Ordering::SeqCst) > 0;
                        let outcome = stage.store(&id, &record(created, &[writer])).await?;
                        assert!(!is_late || outcome == StoreOutcome::Duplicate, "{id} {created}");
                    }
                    TestResult::Ok(())
                })
            })
            .collect();
        while stage.latest(&id).await?.is_none() {
            tokio::task::yield_now().await;
        }
        let _ = stage.store.shred(&KeyId::new(&id), &tombstone()).await?;
        shredded.store(1, Ordering::SeqCst);
        for writer in writers {
            writer.await??;
        }
        assert_eq!(stage.rows_of(&id).await?, [tombstone()], "never a row beside the tombstone");
    }
    Ok(())
}

async fn an_arc_of_a_store_is_one(stage: Stage) -> TestResult {
    async fn story<A: KeyAdmin>(store: A) -> TestResult {
        assert_eq!(store.list(None, 9).await?.len(), 1);
        assert_eq!(store.revoke(&key("alice", 5)).await?, Revocation::Revoked);
        assert_eq!(store.shred(&KeyId::new("alice"), &tombstone()).await?, [key("alice", 5)]);
        Ok(())
    }
    stage.put("alice", &record(5, b"k")).await?;
    story(stage.store).await
}

#[cfg(feature = "sqlite")]
async fn a_corrupt_row_is_not_revoked_and_can_be_shredded(stage: Stage) -> TestResult {
    for (id, text) in CORRUPT {
        stage.write(id, 5, text).await?;
        let error = stage.store.revoke(&key(id, 5)).await.expect_err(id);
        assert!(matches!(&error, StoreError::Corrupt { created: Some(5), id: named, .. } if named == id), "{error}");
        assert_eq!(stage.text(id, 5)?, text, "it is left as it is");
        assert_eq!(stage.store.shred(&KeyId::new(id), &tombstone()).await?, [key(id, 5)]);
        assert_eq!(stage.rows_of(id).await?, [tombstone()], "{id}");
    }
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
    store: Arc<dyn Store>,
    #[cfg(feature = "sqlite")]
    folder: Option<tempfile::TempDir>,
}

impl Stage {
    async fn memory() -> TestResult<Self> {
        Ok(Self {
            store: Arc::new(InMemoryMetastore::new()),
            #[cfg(feature = "sqlite")]
            folder: None,
        })
    }

    #[cfg(feature = "sqlite")]
    async fn sqlite() -> TestResult<Self> {
        let folder = tempfile::tempdir()?;
        let store = keyward::stores::SqliteMetastore::open(folder.path().join("keys.db")).await?;
        Ok(Self { store: Arc::new(store), folder: Some(folder) })
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

    /// Returns every row of exactly this id.
    async fn rows_of(&self, id: &str) -> TestResult<Vec<EnvelopeKeyRecord>> {
        let rows = self.store.list(None, 10_000).await?;
        Ok(rows.into_iter().filter(|row| row.key.id.as_str() == id).map(|row| row.record).collect::<Result<_, _>>()?)
    }

    /// Whether rows can be written behind the store's back.
    fn has_text(&self) -> bool {
        #[cfg(feature = "sqlite")]
        return self.folder.is_some();
        #[cfg(not(feature = "sqlite"))]
        false
    }

    /// Writes a row as a program does that knows no tombstones; nothing where only the store itself can write.
    async fn force(&self, id: &str, record: &EnvelopeKeyRecord) -> TestResult {
        if self.has_text() { self.write(id, record.created, &record.to_json()).await } else { Ok(()) }
    }

    /// Reads the text of a row.
    #[cfg(feature = "sqlite")]
    fn text(&self, id: &str, created: i64) -> TestResult<String> {
        let folder = self.folder.as_ref().ok_or("a store without text")?;
        let text = "SELECT key_record FROM encryption_key WHERE id = ?1 AND created = datetime(?2, 'unixepoch')";
        let connection = rusqlite::Connection::open(folder.path().join("keys.db"))?;
        Ok(connection.query_row(text, rusqlite::params![id, created], |row| row.get(0))?)
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

fn tombstone() -> EnvelopeKeyRecord {
    EnvelopeKeyRecord::tombstone(Some(key("_SK_svc_prod", 60)))
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
