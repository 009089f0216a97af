//! Who may read what: partitions, products and regions, on every road into the library.

mod support;

use async_trait::async_trait;
use keyward::{BoxError, BuildError, DataRowRecord, Error, IdError, Loader, RecordError, Session, Storer};
use support::{Calls, HOUR, MINUTE, SECOND, TestResult, World, key};

/// Keeps one record, like the smallest of applications.
struct Drawer(DataRowRecord);

#[async_trait]
impl Loader for Drawer {
    type Key = str;

    async fn load(&self, key: &str) -> Result<Option<DataRowRecord>, BoxError> {
        match key {
            "there" => Ok(Some(self.0.clone())),
            "broken" => Err("the drawer is stuck".into()),
            _ => Ok(None),
        }
    }
}

#[async_trait]
impl Storer for Drawer {
    type Key = ();

    async fn store(&self, _: &DataRowRecord) -> Result<(), BoxError> {
        Err("the drawer is full".into())
    }
}

/// Decrypts on every road that there is.
async fn every_road(session: &Session, record: &DataRowRecord) -> [Result<Vec<u8>, Error>; 4] {
    let json = record.to_json();
    let spaced = [b" ".as_slice(), &json].concat();
    [
        session.decrypt(record).await,
        session.decrypt_json(&json).await,
        session.decrypt_json(&spaced).await,
        session.load("there", &Drawer(record.clone())).await,
    ]
}

#[tokio::test]
async fn no_road_leads_from_one_partition_to_another() -> TestResult {
    let world = World::new().await?;
    let names = ["p", "P", "p ", "p_svc_prod", "p_svc_prod_x", "svc", "_", "p_svc", "prod"];
    let mut records = Vec::new();
    for name in names {
        records.push(world.encrypt(name, name.as_bytes()).await?);
    }
    for reader in names {
        let session = world.session(reader).await?;
        for (writer, record) in names.iter().zip(&records) {
            let before = world.calls();
            for outcome in every_road(&session, record).await {
                if reader == *writer {
                    assert_eq!(outcome?, writer.as_bytes());
                } else {
                    assert!(matches!(outcome, Err(Error::WrongPartition)), "{reader} read {writer}: {outcome:?}");
                }
            }
            assert_eq!(world.calls() - before, Calls::NONE, "refused before any call");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_record_relabelled_as_ones_own_does_not_open() -> TestResult {
    let world = World::new().await?;
    let own = world.encrypt("alice", b"tea").await?;
    let foreign = world.encrypt("bob", b"cake").await?;
    let relabelled = DataRowRecord::from_parts(
        foreign.created(),
        foreign.encrypted_key().to_vec(),
        own.parent_key().clone(),
        foreign.data().to_vec(),
    );
    for outcome in every_road(&world.session("alice").await?, &relabelled).await {
        assert!(matches!(outcome, Err(Error::Undecryptable)), "{outcome:?}");
    }
    Ok(())
}

/// A factory's region and the suffixes that it may read, the region and product of a record, and whether it may be read.
type GateCase = (Option<&'static str>, &'static [&'static str], Option<&'static str>, &'static str, bool);

#[tokio::test]
async fn a_session_reads_its_own_region_the_bare_id_and_what_it_is_allowed_to() -> TestResult {
    let cases: &[GateCase] = &[
        (None, &[], None, "prod", true),
        (None, &[], Some("west"), "prod", false),
        (None, &["west"], Some("west"), "prod", true),
        (None, &["west"], Some("east"), "prod", false),
        (Some("west"), &[], Some("west"), "prod", true),
        (Some("west"), &[], None, "prod", true),
        (Some("west"), &[], Some("east"), "prod", false),
        (Some("west"), &["east"], Some("east"), "prod", true),
        (Some("west"), &["east"], None, "prod", true),
        (None, &[], None, "prod2", false),
        (Some("west"), &[], None, "prod2", false),
        (Some("west"), &[], Some("west"), "prod2", false),
        (Some("west"), &["east"], Some("east"), "prod2", false),
        (Some("west"), &[], None, "prod_x", false),
        (None, &[], None, "prod_west", false),
    ];
    for (own, readable, region, product, allowed) in cases {
        let world = World::with(|setup| {
            setup.suffix = own.map(str::to_owned);
            setup.readable = readable.iter().map(|&suffix| suffix.to_owned()).collect();
        })
        .await?;
        let writer = world
            .another_with(|setup| {
                setup.suffix = region.map(str::to_owned);
                setup.product = (*product).to_owned();
            })
            .await?;
        let record = writer.session("p").await?.encrypt(b"tea").await?;
        for outcome in every_road(&world.session("p").await?, &record).await {
            match outcome {
                Ok(payload) => assert!(*allowed && payload == b"tea", "{own:?} {readable:?} {region:?} {product}"),
                Err(Error::WrongPartition) => assert!(!allowed, "{own:?} {readable:?} {region:?} {product}"),
                Err(other) => return Err(other.into()),
            }
        }
        writer.close().await?;
        world.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn reading_a_newer_row_of_another_region_does_not_change_what_is_written() -> TestResult {
    for (own, foreign) in [(Some("west"), Some("east")), (Some("west"), None), (None, Some("east"))] {
        let mut world = World::with(|setup| {
            setup.suffix = own.map(str::to_owned);
            setup.readable = foreign.iter().map(|&suffix| suffix.to_owned()).collect();
        })
        .await?;
        let other = world.another_with(|setup| setup.suffix = foreign.map(str::to_owned)).await?;
        let older = world.encrypt("p", b"tea").await?;
        world.advance(5 * MINUTE);
        let newer = other.session("p").await?.encrypt(b"cake").await?;
        assert!(newer.parent_key().created > older.parent_key().created);
        world.restart().await?;
        for _ in 0..3 {
            assert_eq!(world.decrypt("p", &newer).await?, b"cake");
            let written = world.encrypt("p", b"milk").await?;
            assert_eq!(written.parent_key(), older.parent_key());
            world.advance(HOUR + SECOND);
        }
        let written = world.encrypt("p", b"milk").await?;
        world.restart().await?;
        assert_eq!(world.decrypt("p", &written).await?, b"milk");
        assert_eq!(world.decrypt("p", &older).await?, b"tea");
        let parent = world.store.latest(written.parent_key().id.as_str()).parent_key.expect("it has a parent");
        assert_eq!(parent.id.as_str(), world.system_key());
        other.close().await?;
        world.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn unusable_ids_are_refused_before_anything_is_asked() -> TestResult {
    let world = World::new().await?;
    let long = "x".repeat(255);
    for (id, empty) in [("", true), ("a\0b", false), ("a\nb", false), ("\u{7f}", false), (&*long, false)] {
        let refused = world.session(id).await.err();
        assert!(
            matches!((&refused, empty), (Some(Error::Partition(IdError::Empty { .. })), true))
                || matches!((&refused, empty), (Some(Error::Partition(_)), false)),
            "{id:?}: {refused:?}"
        );
    }
    for (service, product) in [("", "prod"), ("svc", ""), ("a\tb", "prod"), (&*long, "prod")] {
        let built = world
            .another_with(|setup| {
                setup.service = service.to_owned();
                setup.product = product.to_owned();
            })
            .await;
        assert!(matches!(built, Err(BuildError::Id(_))), "{service:?} {product:?}");
    }
    assert!(matches!(
        world.another_with(|setup| setup.suffix = Some(String::new())).await,
        Err(BuildError::Id(IdError::Empty { .. }))
    ));
    assert_eq!(world.calls(), Calls::NONE);
    Ok(())
}

#[tokio::test]
async fn any_printable_id_survives_json_and_a_restart() -> TestResult {
    let odd = ["&", "<", ">", "\"", "\\", "/", "é", "漢", "\u{2028}", "a b", "&<>\"\\/é漢\u{2028}\u{2029}", "\\u0026"];
    for id in odd {
        for place in 0..3 {
            let mut world = World::with(|setup| match place {
                0 => {}
                1 => setup.service = id.to_owned(),
                _ => setup.product = id.to_owned(),
            })
            .await?;
            let partition = if place == 0 { id } else { "p" };
            let session = world.session(partition).await?;
            let json = session.encrypt_json(b"tea").await?;
            let record = DataRowRecord::from_json(&json)?;
            assert_eq!(record.parent_key().id.as_str(), world.intermediate_key(partition));
            assert_eq!(record.to_json(), json);
            // The escapes that other writers use.
            let text = String::from_utf8(json.clone())?;
            let escaped = text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
            let escaped = escaped.replace('\u{2028}', "\\u2028").replace('/', "\\/");
            world.restart().await?;
            let session = world.session(partition).await?;
            assert_eq!(session.decrypt_json(&json).await?, b"tea", "{id}");
            assert_eq!(session.decrypt_json(escaped.as_bytes()).await?, b"tea", "{id}");
            assert_eq!(session.decrypt(&record).await?, b"tea", "{id}");
            world.close().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_empty_payload_is_one_and_an_empty_ciphertext_is_none() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let record = session.encrypt(b"").await?;
    assert_eq!((record.data().len(), record.encrypted_key().len()), (28, 60));
    assert!(every_road(&session, &record).await.into_iter().all(|payload| payload.is_ok_and(|p| p.is_empty())));
    for size in [0, 1, 11, 12, 27] {
        let short = DataRowRecord::from_parts(
            record.created(),
            record.encrypted_key().to_vec(),
            record.parent_key().clone(),
            record.data()[..size].to_vec(),
        );
        for outcome in every_road(&session, &short).await {
            assert!(matches!(outcome, Err(Error::Undecryptable)), "{size}: {outcome:?}");
        }
    }
    for size in [0, 59, 61] {
        let keyless = DataRowRecord::from_parts(
            record.created(),
            [record.encrypted_key(), &[0]].concat()[..size].to_vec(),
            record.parent_key().clone(),
            record.data().to_vec(),
        );
        for outcome in every_road(&session, &keyless).await {
            assert!(matches!(outcome, Err(Error::Undecryptable)), "{size}: {outcome:?}");
        }
    }
    for missing in ["{}", r#"{"Data":null}"#, r#"{"Key":null,"Data":""}"#] {
        let refused = session.decrypt_json(missing.as_bytes()).await;
        assert!(matches!(refused, Err(Error::Record(RecordError::Json { .. }))), "{missing}: {refused:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_applications_own_failures_are_told_apart() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let drawer = Drawer(session.encrypt(b"tea").await?);
    assert_eq!(session.load("there", &drawer).await?, b"tea");
    assert!(matches!(session.load("elsewhere", &drawer).await, Err(Error::RecordNotFound)));
    let broken = session.load("broken", &drawer).await;
    assert!(matches!(broken, Err(Error::Persistence { operation: "loader", .. })));
    let full = session.store(b"tea", &drawer).await;
    assert!(matches!(full, Err(Error::Persistence { operation: "storer", .. })));
    Ok(())
}

#[tokio::test]
async fn a_forged_creation_time_is_asked_for_once_and_writes_nothing() -> TestResult {
    let world = World::new().await?;
    let record = world.encrypt("alice", b"tea").await?;
    let rows = world.store.len();
    for created in [9_999_999_999, i64::MAX, i64::MIN, -1, 0] {
        let forged = DataRowRecord::from_parts(
            record.created(),
            record.encrypted_key().to_vec(),
            key(record.parent_key().id.as_str(), created),
            record.data().to_vec(),
        );
        let (refused, calls) = world.counting(world.decrypt("alice", &forged)).await;
        assert!(matches!(refused, Err(Error::KeyNotFound { created: c, .. }) if c == created), "{refused:?}");
        assert_eq!(calls, Calls { load_ik: 1, ..Calls::NONE });
    }
    assert_eq!(world.store.len(), rows);
    assert_eq!(world.encrypt("alice", b"tea").await?.parent_key(), record.parent_key());
    Ok(())
}
