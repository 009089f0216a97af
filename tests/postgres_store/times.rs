//! Time zones: of the server, of users and of columns.

use keyward::KeyId;
use keyward::stores::{Metastore, StoreOutcome};

use crate::stage::{ID, NOON, Postgres, PostgresSetup, TestResult, connect, key, record, store, user};

/// Those around which clocks in Berlin were turned in 2026, UTC, and noon.
const TURNS: [i64; 3] = [1_774_746_000, 1_792_890_000, NOON];

#[tokio::test]
async fn what_others_wrote_is_found_whatever_the_time_zone_of_server_and_user() -> TestResult {
    let setup = PostgresSetup { timezone: Some("America/Phoenix"), ..PostgresSetup::default() };
    let Some(server) = Postgres::start(&setup)? else { return Ok(()) };
    for (kind, value) in [
        // The digits of UTC, as a program writes them that runs in UTC.
        ("TIMESTAMP", "to_timestamp($) AT TIME ZONE 'UTC'"),
        // An instant.
        ("TIMESTAMPTZ", "to_timestamp($)"),
    ] {
        for zone in [None, Some("Europe/Berlin"), Some("Pacific/Kiritimati")] {
            for options in ["", "?prepared_statements=false"] {
                let url = server.table("TEXT", kind, "JSONB")?;
                if let Some(zone) = zone {
                    server.sql("postgres", &format!("ALTER ROLE {} SET timezone = '{zone}'", user(&url)))?;
                }
                let about = format!("{kind} {zone:?} {options}");
                both_ways(&server, &format!("{url}{options}"), value)
                    .await
                    .map_err(|error| format!("{about}: {error}"))?;
            }
        }
    }
    Ok(())
}

/// Checks that rows are found around each turn of the clock, and the latest of them, whoever wrote them.
async fn both_ways(server: &Postgres, url: &str, value: &str) -> TestResult {
    let table = format!("{}.encryption_key", user(url));
    let opened = connect(url).await?;
    for turn in TURNS {
        let times: Vec<i64> = (-4..=4).map(|step| turn + step * 1800).collect();
        let theirs = format!("_IK_theirs{turn}_svc_prod");
        let ours = format!("_IK_ours{turn}_svc_prod");
        let mut insert = String::new();
        for created in &times {
            let value = value.replace('$', &created.to_string());
            let text = record(*created).to_json();
            insert.push_str(&format!("INSERT INTO {table} VALUES ('{theirs}', {value}, '{text}');"));
            assert_eq!(store(&opened, &ours, *created).await?, StoreOutcome::Stored);
            assert_eq!(opened.load(&key(&ours, *created)).await?, Some(record(*created)));
        }
        server.sql("postgres", &insert)?;
        for created in &times {
            assert_eq!(opened.load(&key(&theirs, *created)).await?, Some(record(*created)), "{created}");
            assert_eq!(store(&opened, &theirs, *created).await?, StoreOutcome::Duplicate, "{created}");
        }
        let latest = times.last().map(|created| record(*created));
        assert_eq!(opened.load_latest(&KeyId::new(&theirs)).await?, latest);
        let same = format!(
            "SELECT count(DISTINCT created), count(*) FROM {table} WHERE id IN ('{theirs}', '{ours}') AND created IN \
             (SELECT created FROM {table} WHERE id = '{theirs}')"
        );
        assert_eq!(server.sql("postgres", &same)?.trim(), "9|18", "theirs and ours are the same");
    }
    Ok(())
}

#[tokio::test]
async fn a_time_with_a_fraction_and_an_infinite_one_are_no_keys() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    for kind in ["TIMESTAMP", "TIMESTAMPTZ"] {
        let url = server.table("TEXT", kind, "JSONB")?;
        let opened = connect(&url).await?;
        assert_eq!(store(&opened, ID, NOON).await?, StoreOutcome::Stored);
        let table = format!("{}.encryption_key", user(&url));
        let text = record(NOON + 1).to_json();
        server.sql("postgres", &format!("INSERT INTO {table} VALUES ('{ID}', '2026-01-01 12:00:01.5', '{text}')"))?;
        assert_eq!(opened.load(&key(ID, NOON + 1)).await?, None);
        assert_eq!(opened.load(&key(ID, NOON)).await?, Some(record(NOON)));
    }
    Ok(())
}
