//! The table: made, looked at, and judged.

use keyward::KeyId;
use keyward::stores::{
    KeyAdmin, Metastore, MysqlMetastore, Revocation, SchemaAdmin, Severity, StoreOutcome, TableReport,
};
use mysql_async::prelude::Queryable;

use crate::mysql_support::{Server, UPSTREAM};
use crate::servers::TestResult;
use crate::{assert_permanent, connect, key, move_to_berlin, options, record, shared};

/// Returns what a report says of one kind of difference, as lines.
fn lines(report: &TableReport, severity: Severity) -> Vec<&str> {
    let alike = report.differences.iter().filter(|difference| difference.severity == severity);
    alike.map(|difference| difference.about.as_str()).collect()
}

#[track_caller]
fn assert_line(lines: &[&str], words: &[&str]) {
    assert!(lines.iter().any(|line| words.iter().all(|word| line.contains(word))), "{words:?} in {lines:?}");
}

#[tokio::test]
async fn a_table_is_made_once_and_is_as_it_should_be() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let database = server.database("").await?;
    let store = MysqlMetastore::connect_for_schema(options(&server.address(&database))).await?;
    let before = store.inspect().await?;
    assert!(!before.exists && before.differences.is_empty());
    assert!(before.facts.iter().any(|fact| fact.contains("MariaDB")), "{:?}", before.facts);
    assert_eq!(store.apply().await?, [store.schema()]);
    assert!(store.schema().contains("utf8mb4_nopad_bin"), "{}", store.schema());
    assert_eq!(store.apply().await?, Vec::<String>::new());
    let after = store.inspect().await?;
    assert!(after.exists && after.differences.is_empty(), "{:?}", after.differences);
    assert_eq!(store.store(&KeyId::new("alice"), &record(5)).await?, StoreOutcome::Stored);
    connect(&server.address(&database)).await?;
    Ok(())
}

#[tokio::test]
async fn any_number_may_make_it_at_once() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let without_index = UPSTREAM.replace(", INDEX (created)", "");
    for table in ["", &without_index] {
        let database = server.database(table).await?;
        let mut makers = Vec::new();
        for _maker in 0..8 {
            let store = MysqlMetastore::connect_for_schema(options(&server.address(&database))).await?;
            makers.push(tokio::spawn(async move { store.apply().await }));
        }
        let mut done = Vec::new();
        for maker in makers {
            done.extend(maker.await??);
        }
        assert_eq!(done.len(), 1, "{done:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_table_of_others_works_and_its_risks_are_told() -> TestResult {
    let Some(server) = Server::start(&["--sql-mode="])? else { return Ok(()) };
    move_to_berlin(&server)?;
    let database = server.database(&UPSTREAM.replace(", INDEX (created)", "")).await?;
    let store = connect(&server.address(&database)).await?;
    let report = store.inspect().await?;
    assert_eq!(report.severity(), Some(Severity::Risky), "{report:?}");
    let risks = lines(&report, Severity::Risky);
    assert_line(&risks, &["latin1_swedish_ci", "alice"]);
    assert_line(&risks, &["latin1_swedish_ci", "characters that it lacks"]);
    assert_line(&risks, &["TIMESTAMP", "2038-01-19 03:14:07"]);
    assert_line(&risks, &["TIMESTAMP", "summer time"]);
    assert_line(&lines(&report, Severity::Harmless), &["no index begins with created"]);
    let facts: Vec<&str> = report.facts.iter().map(String::as_str).collect();
    assert_line(&facts, &["sql_mode", "not strict"]);
    assert_line(&facts, &["time zone", "UTC+01:00 in January", "UTC+02:00 in July"]);
    assert_line(&facts, &["the column id is varchar(255)", "latin1_swedish_ci"]);

    let safe = report.differences.iter().filter_map(|difference| difference.change.as_ref());
    let safe: Vec<&str> = safe.filter(|change| change.is_safe).map(|change| change.statement.as_str()).collect();
    assert_eq!(store.apply().await?, safe, "and nothing else is changed");
    assert_eq!(lines(&store.inspect().await?, Severity::Harmless), Vec::<&str>::new());

    // Its own statements make it as it should be.
    let mut root = server.root(&database).await?;
    for change in report.differences.iter().filter_map(|difference| difference.change.as_ref()) {
        if !change.is_safe {
            root.query_drop(&change.statement).await?;
        }
    }
    let left = store.inspect().await?.differences;
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[tokio::test]
async fn a_column_that_changes_by_itself_does_not_when_a_key_is_revoked() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let table = UPSTREAM.replace("DEFAULT CURRENT_TIMESTAMP", "DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP");
    let store = connect(&server.address(&server.database(&table).await?)).await?;
    assert_line(&lines(&store.inspect().await?, Severity::Risky), &["ON UPDATE", "moves it to another time"]);
    assert_eq!(store.store(&KeyId::new("alice"), &record(5)).await?, StoreOutcome::Stored);
    assert_eq!(store.revoke(&key("alice", 5)).await?, Revocation::Revoked);
    assert!(store.load(&key("alice", 5)).await?.is_some_and(|record| record.revoked));
    Ok(())
}

#[tokio::test]
async fn a_table_that_cannot_work_is_refused() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let columns = "id VARCHAR(255) NOT NULL, created DATETIME NOT NULL, key_record TEXT NOT NULL";
    let cases = [
        (format!("({columns}, INDEX (id, created))"), "no key is unique"),
        (format!("({columns}, PRIMARY KEY (id))"), "unique over id alone"),
        (format!("({columns}, tenant INT NOT NULL, PRIMARY KEY (id, created))"), "tenant has no default"),
        (format!("({columns}, PRIMARY KEY (id, created)) ENGINE=MEMORY").replace("TEXT", "VARCHAR(4096)"), "MEMORY"),
        (format!("({columns}, PRIMARY KEY (id, created))").replace("DATETIME", "BIGINT"), "holds no times"),
        (format!("({columns}, PRIMARY KEY (id, created))").replace("VARCHAR(255)", "BINARY(255)"), "holds no ids"),
        (format!("({columns}, PRIMARY KEY (id, created))").replace("TEXT", "INT"), "holds no records"),
    ];
    for (table, words) in cases {
        let database = server.database(&format!("CREATE TABLE encryption_key {table}")).await?;
        let error = connect(&server.address(&database)).await.expect_err(&table);
        assert_permanent(&error, &["connecting", words, "ALTER TABLE", "keyward migrate"]);
        let store = MysqlMetastore::connect_for_schema(options(&server.address(&database))).await?;
        assert_line(&lines(&store.inspect().await?, Severity::Broken), &[words]);
    }
    Ok(())
}

#[tokio::test]
async fn a_view_is_as_good_as_its_table() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let table = UPSTREAM.replace("encryption_key", "behind");
    let database = server.database(&table).await?;
    server.root(&database).await?.query_drop("CREATE VIEW encryption_key AS SELECT * FROM behind").await?;
    let store = connect(&server.address(&database)).await?;
    assert_eq!(store.store(&KeyId::new("alice"), &record(5)).await?, StoreOutcome::Stored);
    assert_eq!(store.store(&KeyId::new("alice"), &record(5)).await?, StoreOutcome::Duplicate);
    assert!(store.inspect().await?.facts.iter().any(|fact| fact.contains("is a view")));
    Ok(())
}
