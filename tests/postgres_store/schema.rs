//! Looking at the table and making it.

use keyward::stores::{Difference, Metastore, PostgresMetastore, SchemaAdmin, Severity, StoreError, StoreOutcome};
use keyward::{Error, KeyId};

use crate::stage::{
    ID, NO_SECRET, NOON, Postgres, TestResult, connect, factory, key, record, says, store, user, works,
};

/// Returns the address of a schema without a table.
fn empty(server: &Postgres) -> TestResult<String> {
    let url = server.new_table()?;
    server.sql("postgres", &format!("DROP TABLE {}.encryption_key", user(&url)))?;
    Ok(url)
}

/// Differences apart from those of a server that tests are fast on.
async fn differences(store: &PostgresMetastore) -> TestResult<Vec<Difference>> {
    let report = store.inspect().await?;
    assert!(report.facts.iter().any(|fact| fact.starts_with("PostgreSQL ")), "{report:?}");
    Ok(report.differences.into_iter().filter(|found| !found.about.contains("fsync")).collect())
}

#[tokio::test]
async fn a_table_is_made_once_and_is_as_it_should_be() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let opened = PostgresMetastore::connect_for_schema(empty(server)?.parse()?).await?;
    let report = opened.inspect().await?;
    assert!(!report.exists, "{report:?}");
    assert_eq!(opened.apply().await?.len(), 2, "the table and the index");
    assert!(opened.inspect().await?.exists);
    assert_eq!(differences(&opened).await?, []);
    assert_eq!(opened.apply().await?, Vec::<String>::new());
    assert_eq!(store(&opened, ID, NOON).await?, StoreOutcome::Stored);
    Ok(())
}

#[tokio::test]
async fn programs_that_make_the_table_at_once_do_not_disturb_each_other() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = empty(server)?;
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(PostgresMetastore::connect_for_schema(url.parse()?).await?);
    }
    let (a, b, c, d) = tokio::join!(stores[0].apply(), stores[1].apply(), stores[2].apply(), stores[3].apply());
    for applied in [a, b, c, d] {
        applied?;
    }
    let factory = factory("svc", connect(&url).await?).await?;
    works(&factory, "alice").await?;
    Ok(factory.close().await?)
}

#[tokio::test]
async fn the_schema_that_is_shown_is_the_one_that_is_made() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = empty(server)?;
    let opened = PostgresMetastore::connect_for_schema(url.parse()?).await?;
    server.sql("postgres", &format!("SET search_path = {}; {}", user(&url), opened.schema()))?;
    assert_eq!(opened.apply().await?, Vec::<String>::new());
    assert_eq!(differences(&opened).await?, []);
    Ok(())
}

#[tokio::test]
async fn each_way_in_which_a_table_differs_is_named_with_what_to_do() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    server.sql("postgres", NONDETERMINISTIC)?;
    let as_made = ["VARCHAR(255) COLLATE \"C\"", "TIMESTAMPTZ", "JSONB"];
    let cases = [
        (0, "TEXT", None, ""),
        (0, "VARCHAR(100)", Some(Severity::Risky), "the column id is character varying(100)"),
        (0, "VARCHAR(255) COLLATE public.nondeterministic", Some(Severity::Risky), "calls different ids equal"),
        (1, "TIMESTAMP", Some(Severity::Harmless), "the column created has no time zone"),
        (2, "TEXT", Some(Severity::Harmless), "the column key_record is not JSONB"),
        (2, "JSON", Some(Severity::Harmless), "the column key_record is not JSONB"),
        (2, "VARCHAR(70000)", Some(Severity::Harmless), "the column key_record is not JSONB"),
    ];
    for (column, kind, severity, about) in cases {
        let mut kinds = as_made;
        kinds[column] = kind;
        let opened = connect(&server.table(kinds[0], kinds[1], kinds[2])?).await?;
        let found = differences(&opened).await?;
        let (index, others): (Vec<_>, Vec<_>) =
            found.iter().partition(|found| found.about.contains("index on created"));
        assert_eq!(index.len(), 1, "{kind}: {found:?}");
        assert!(
            index[0].severity == Severity::Harmless && index[0].change.as_ref().is_some_and(|change| change.is_safe)
        );
        assert_eq!(others.len(), usize::from(severity.is_some()), "{kind}: {others:?}");
        if let Some(other) = others.first() {
            assert_eq!(Some(other.severity), severity, "{kind}");
            assert!(other.about.contains(about), "{kind}: {}", other.about);
            assert!(other.change.as_ref().is_some_and(|change| !change.is_safe), "{kind}: {other:?}");
        }
        // What is safe is done, once.
        assert_eq!(opened.apply().await?.len(), 1, "{kind}");
        assert_eq!(opened.apply().await?, Vec::<String>::new(), "{kind}");
        assert_eq!(differences(&opened).await?.len(), others.len(), "{kind}");
        let factory = factory("svc", opened).await?;
        works(&factory, "alice").await?;
        factory.close().await?;
    }
    Ok(())
}

/// Calls ids equal that differ by case.
const NONDETERMINISTIC: &str = "CREATE COLLATION IF NOT EXISTS public.nondeterministic \
    (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";

#[tokio::test]
async fn ids_that_the_collation_calls_equal_are_told_apart_and_never_share_a_key() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    server.sql("postgres", NONDETERMINISTIC)?;
    let other = "_IK_ALICE_svc_prod";
    for kind in ["VARCHAR(255)", "TEXT"] {
        let url = server.table(&format!("{kind} COLLATE public.nondeterministic"), "TIMESTAMPTZ", "JSONB")?;
        let opened = connect(&url).await?;
        assert_eq!(store(&opened, ID, NOON).await?, StoreOutcome::Stored);
        assert_eq!(opened.load(&key(other, NOON)).await?, None);
        assert_eq!(opened.load_latest(&KeyId::new(other)).await?, None);
        let error = store(&opened, other, NOON).await.expect_err("a collision");
        assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
        says(&error, NO_SECRET, &[&url, other, "collides with another id", "collation that compares byte by byte"]);
        // At another time there is room.
        assert_eq!(store(&opened, other, NOON + 60).await?, StoreOutcome::Stored);
        assert_eq!(opened.load_latest(&KeyId::new(ID)).await?, Some(record(NOON)));
        assert_eq!(store(&opened, ID, NOON).await?, StoreOutcome::Duplicate);
    }
    Ok(())
}

#[tokio::test]
async fn a_partition_whose_id_collides_is_refused_and_not_given_the_others_key() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    server.sql("postgres", NONDETERMINISTIC)?;
    let url = server.table("TEXT COLLATE public.nondeterministic", "TIMESTAMPTZ", "JSONB")?;
    let opened = connect(&url).await?;
    let first = factory("svc", opened.clone()).await?;
    let record = first.session("alice").await?.encrypt(b"tea").await?;
    let created = record.parent_key().created;
    // A row of the other id, in the same minute: in a later one there is room.
    match first.session("ALICE").await?.encrypt(b"tea").await {
        Err(Error::Metastore(source)) => says(&*source, NO_SECRET, &["collides with another id"]),
        Ok(other) => assert_ne!(other.parent_key().created, created),
        Err(other) => return Err(other.into()),
    }
    assert_eq!(first.session("alice").await?.decrypt(&record).await?, b"tea");
    Ok(first.close().await?)
}
