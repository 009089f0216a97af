//! Creation times are the digits of UTC, whatever the server's clocks show.

use keyward::KeyId;
use keyward::stores::{KeyAdmin, Metastore, StoreError, StoreOutcome};
use mysql_async::prelude::Queryable;

use crate::mysql_support::{Server, UPSTREAM};
use crate::servers::TestResult;
use crate::{assert_permanent, connect, key, move_to_berlin, record, shared};

/// 2026-03-29 02:30:00: clocks in Berlin go from 02:00 to 03:00 that night.
const SKIPPED: i64 = 1_774_751_400;
/// 2026-10-25 02:30:00: clocks in Berlin show this twice.
const TWICE: i64 = 1_792_895_400;

#[tokio::test]
async fn rows_are_shared_with_programs_that_send_the_digits_of_utc() -> TestResult {
    let options = ["--default-time-zone=-07:00"];
    let Some(server) = Server::start(&options)? else {
        return Ok(());
    };
    let database = server.database(UPSTREAM).await?;
    let store = connect(&server.address(&database)).await?;
    let mut other = server.root(&database).await?;
    let text = r#"{"Revoked":false,"Created":1700000000,"Key":"aw==","ParentKeyMeta":null}"#;
    let insert = "INSERT INTO encryption_key (id, created, key_record) VALUES (?, ?, ?)";
    other.exec_drop(insert, ("theirs", "2023-11-14 22:13:20", text)).await?;
    assert_eq!(store.load(&key("theirs", 1_700_000_000)).await?, Some(record(1_700_000_000)));
    assert_eq!(store.load_latest(&KeyId::new("theirs")).await?, Some(record(1_700_000_000)));

    assert_eq!(store.store(&KeyId::new("ours"), &record(1_700_000_000)).await?, StoreOutcome::Stored);
    let select = "SELECT key_record FROM encryption_key WHERE id = ? AND created = ?";
    let found: Option<String> = other.exec_first(select, ("ours", "2023-11-14 22:13:20")).await?;
    assert!(found.is_some());
    Ok(())
}

#[tokio::test]
async fn an_hour_that_clocks_skip_holds_no_timestamps() -> TestResult {
    let Some(server) = Server::start(&["--sql-mode="])? else { return Ok(()) };
    move_to_berlin(&server)?;
    let database = server.database(UPSTREAM).await?;
    let store = connect(&server.address(&database)).await?;
    let alice = KeyId::new("alice");
    for created in [TWICE - 3600, TWICE, TWICE + 3600, SKIPPED - 3600, SKIPPED + 3600] {
        assert_eq!(store.store(&alice, &record(created)).await?, StoreOutcome::Stored, "{created}");
        assert_eq!(store.load(&key("alice", created)).await?, Some(record(created)), "{created}");
    }
    let error = store.store(&alice, &record(SKIPPED)).await.expect_err("no time there");
    assert_permanent(&error, &["storing", "skip this hour", "DATETIME"]);
    assert_eq!(store.load(&key("alice", SKIPPED)).await?, None);

    // A program that lets the server move its digits stores a row that nobody's look-up finds, under the time of another.
    let mut other = server.root(&database).await?;
    let text = record(SKIPPED).to_json();
    other.exec_drop("INSERT INTO encryption_key VALUES ('moved', '2026-03-29 02:30:00', ?)", (text,)).await?;
    assert_eq!(store.load(&key("moved", SKIPPED)).await?, None);
    for error in [
        store.load(&key("moved", SKIPPED + 1800)).await.expect_err("not that key"),
        store.load_latest(&KeyId::new("moved")).await.expect_err("not that key"),
    ] {
        assert!(matches!(&error, StoreError::Corrupt { created: Some(1_774_753_200), .. }), "{error}");
    }

    other.query_drop("ALTER TABLE encryption_key MODIFY created DATETIME NOT NULL").await?;
    assert_eq!(store.store(&alice, &record(SKIPPED)).await?, StoreOutcome::Stored);
    let versions = store.versions(&alice).await?;
    let created: Vec<i64> = versions.iter().map(|row| row.key.created).collect();
    let mut expected = [TWICE - 3600, TWICE, TWICE + 3600, SKIPPED - 3600, SKIPPED, SKIPPED + 3600];
    expected.sort_unstable();
    assert_eq!(created, expected, "the change of type kept what was there");
    Ok(())
}

#[tokio::test]
async fn the_end_of_timestamps_is_told() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let store = connect(&server.address(&server.database(UPSTREAM).await?)).await?;
    for created in [2_147_483_648, 253_402_300_799, 0, -1] {
        let error = store.store(&KeyId::new("alice"), &record(created)).await.expect_err("out of its range");
        assert_permanent(&error, &["storing", "2038", "DATETIME"]);
        assert_eq!(store.load(&key("alice", created)).await?, None);
    }
    let error = store.store(&KeyId::new("alice"), &record(i64::MAX)).await.expect_err("no year has it");
    assert_permanent(&error, &["check the clock"]);
    Ok(())
}
