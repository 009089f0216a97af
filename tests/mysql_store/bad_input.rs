//! What goes wrong, and what is said about it.

use keyward::stores::{KeyAdmin, Metastore, MysqlMetastore, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId};
use mysql_async::prelude::Queryable;

use crate::mysql_support::{PASSWORD, Server, UPSTREAM, USER};
use crate::servers::TestResult;
use crate::{assert_permanent, assert_transient, connect, key, options, record, shared};

#[tokio::test]
async fn a_login_that_is_refused_is_told_at_once() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let database = server.database(UPSTREAM).await?;
    let port = server.port();
    for login in [format!("{USER}:hunter2"), format!("nobody:{PASSWORD}"), USER.to_owned()] {
        let error = connect(&format!("mysql://{login}@127.0.0.1:{port}/{database}")).await.expect_err("refused");
        assert_permanent(&error, &["connecting", &format!("127.0.0.1:{port}"), "password", "1045"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_database_is_told_by_its_remedy() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let error = connect(&server.address("nowhere")).await.expect_err("no such database");
    assert_permanent(&error, &["connecting", "create the database", "nowhere"]);
    let error = connect(&server.address("")).await.expect_err("no database named");
    assert_permanent(&error, &["connecting", "/DATABASE"]);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_may_come() -> TestResult {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let error = connect(&format!("mysql://a:hunter2@127.0.0.1:{port}/keys")).await.expect_err("nobody listens");
    assert_transient(&error, &["connecting", &port.to_string(), "check that the server is up"]);
    Ok(())
}

#[tokio::test]
async fn a_missing_table_is_told_by_the_command_that_makes_it() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let database = server.database("").await?;
    let error = connect(&server.address(&database)).await.expect_err("no table");
    assert_permanent(&error, &["keyward migrate", "--apply", "encryption_key"]);
    let store = MysqlMetastore::connect_for_schema(options(&server.address(&database))).await?;
    let error = store.load(&key("alice", 5)).await.expect_err("still no table");
    assert_permanent(&error, &["loading", "keyward migrate"]);
    Ok(())
}

#[tokio::test]
async fn a_missing_column_is_told_by_what_must_be_there() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let table = "CREATE TABLE encryption_key (id VARCHAR(255), created TIMESTAMP, PRIMARY KEY (id, created))";
    let error = connect(&server.address(&server.database(table).await?)).await.expect_err("no records");
    assert_permanent(&error, &["key_record", "keyward migrate"]);
    Ok(())
}

#[tokio::test]
async fn a_missing_right_is_told_by_its_grant() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let database = server.database(UPSTREAM).await?;
    let mut root = server.root(&database).await?;
    root.query_drop("CREATE USER blind@'%' IDENTIFIED BY 'hunter2'").await?;
    root.query_drop(format!("GRANT CREATE TEMPORARY TABLES ON {database}.* TO blind@'%'")).await?;
    root.query_drop("CREATE USER reader@'%' IDENTIFIED BY 'hunter2'").await?;
    root.query_drop(format!("GRANT SELECT ON {database}.encryption_key TO reader@'%'")).await?;
    root.query_drop("CREATE USER writer@'%' IDENTIFIED BY 'hunter2'").await?;
    root.query_drop(format!("GRANT SELECT, INSERT ON {database}.encryption_key TO writer@'%'")).await?;
    let address = |user| format!("mysql://{user}:hunter2@127.0.0.1:{}/{database}", server.port());

    let error = connect(&address("blind")).await.expect_err("no right to read");
    assert_permanent(&error, &["GRANT SELECT, INSERT", "blind"]);
    let reader = connect(&address("reader")).await?;
    assert_eq!(reader.load(&key("alice", 5)).await?, None);
    let error = reader.store(&KeyId::new("alice"), &record(5)).await.expect_err("no right to write");
    assert_permanent(&error, &["storing", "GRANT SELECT, INSERT", "reader"]);

    // Whoever encrypts needs no more than these two.
    let writer = connect(&address("writer")).await?;
    let alice = KeyId::new("alice");
    assert_eq!(writer.store(&alice, &record(5)).await?, StoreOutcome::Stored);
    assert_eq!(writer.store(&alice, &record(5)).await?, StoreOutcome::Duplicate);
    assert_permanent(&writer.revoke(&key("alice", 5)).await.expect_err("no right to change"), &["revoking", "UPDATE"]);
    let all = connect(&server.address(&database)).await?;
    let _ = all.shred(&alice, &EnvelopeKeyRecord::tombstone(None)).await?;
    // It has no right to take its row back, which is later than no tombstone.
    assert_eq!(writer.store(&alice, &record(6)).await?, StoreOutcome::Duplicate);
    assert!(writer.load_latest(&alice).await?.is_some_and(|latest| latest.is_tombstone()));
    Ok(())
}

#[tokio::test]
async fn a_server_that_only_reads_is_left() -> TestResult {
    let Some(server) = Server::start(&[])? else { return Ok(()) };
    let database = server.database(UPSTREAM).await?;
    let mut root = server.root(&database).await?;
    root.query_drop("CREATE USER plain@'%' IDENTIFIED BY 'hunter2'").await?;
    root.query_drop(format!("GRANT SELECT, INSERT ON {database}.* TO plain@'%'")).await?;
    let store = connect(&format!("mysql://plain:hunter2@127.0.0.1:{}/{database}", server.port())).await?;
    let connections = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'plain'";

    root.query_drop("SET GLOBAL read_only = 1").await?;
    let error = store.store(&KeyId::new("alice"), &record(5)).await.expect_err("read-only");
    assert_transient(&error, &["storing", "writer", "1290"]);
    while root.query_first(connections).await? != Some(0) {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.load(&key("alice", 5)).await?, None, "reading goes on");
    root.query_drop("SET GLOBAL read_only = 0").await?;
    assert_eq!(store.store(&KeyId::new("alice"), &record(5)).await?, StoreOutcome::Stored);
    Ok(())
}

#[tokio::test]
async fn rows_of_others_disturb_nobody() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let table = "CREATE TABLE encryption_key (id VARBINARY(255) NOT NULL, created TIMESTAMP NULL DEFAULT NULL, \
        key_record TEXT NOT NULL, UNIQUE KEY (id, created))";
    let database = server.database(table).await?;
    let mut other = server.root(&database).await?;
    let rows = [
        "('_SK_other_product', '2024-01-01 00:00:00', '{\"Created\":1704067200,\"Key\":\"AAEC\"}')",
        "('__asherah_drift_guard__', '1970-01-02 00:00:00', 'x')",
        "('_IK_a_svc_prod', '1970-01-01 00:00:05', '{\"Created\":5,\"Key\":\"AAEC\",\"ParentKeyMeta\":null}')",
        "(x'FF', '2024-01-01 00:00:00', 'no text')",
        "('?', '2024-01-01 00:00:00', 'no record')",
        "('no time', NULL, '{}')",
        "('zz', '2024-01-01 00:00:00', '{\"Created\":1704067200,\"Key\":\"AAEC\"}')",
    ];
    other.query_drop(format!("INSERT INTO encryption_key VALUES {}", rows.join(", "))).await?;

    let store = connect(&server.address(&database)).await?;
    let loaded = store.load(&key("_IK_a_svc_prod", 5)).await?.ok_or("a row with a parent that is null")?;
    assert_eq!((loaded.encrypted_key, loaded.parent_key), (vec![0, 1, 2], None));
    for limit in [1, 2, 100] {
        let mut listed: Vec<_> = Vec::new();
        loop {
            let page = store.list(listed.last(), limit).await?;
            if page.is_empty() {
                break;
            }
            listed.extend(page.into_iter().map(|row| row.key));
        }
        let ids: Vec<&str> = listed.iter().map(|key| key.id.as_str()).collect();
        assert_eq!(ids, ["?", "_IK_a_svc_prod", "_SK_other_product", "__asherah_drift_guard__", "zz"]);
    }
    Ok(())
}

#[tokio::test]
async fn ids_that_the_column_cannot_hold_are_refused_and_never_found() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let store = connect(&server.address(&server.database(UPSTREAM).await?)).await?;
    let long = "x".repeat(300);
    let cases = [(long.as_str(), "at most 255 characters"), ("_IK_\u{65e5}\u{672c}_svc_prod", "utf8mb4")];
    for (id, words) in cases {
        let error = store.store(&KeyId::new(id), &record(5)).await.expect_err(id);
        assert_permanent(&error, &["storing", words]);
        assert_eq!(store.load(&key(id, 5)).await?, None);
        assert_eq!(store.load_latest(&KeyId::new(id)).await?, None);
        assert!(store.versions(&KeyId::new(id)).await?.is_empty());
    }
    assert_eq!(store.store(&KeyId::new("_IK_\u{e9}_svc_prod"), &record(5)).await?, StoreOutcome::Stored);
    assert_eq!(store.load(&key("_IK_\u{e9}_svc_prod", 5)).await?, Some(record(5)));
    assert!(store.list(None, 10).await?.len() == 1, "nothing was stored in part");
    Ok(())
}

#[tokio::test]
async fn ids_that_the_table_takes_for_the_same_collide_and_are_no_duplicates() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let padded = format!("{UPSTREAM} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
    for (table, other) in [(UPSTREAM, "ALICE"), (UPSTREAM, "alice "), (padded.as_str(), "alice ")] {
        let store = connect(&server.address(&server.database(table).await?)).await?;
        assert_eq!(store.store(&KeyId::new("alice"), &record(5)).await?, StoreOutcome::Stored);
        let error = store.store(&KeyId::new(other), &record(5)).await.expect_err(other);
        assert_permanent(&error, &["storing", "collides with another id", "byte by byte", "keyward migrate"]);
        assert_eq!(store.load(&key(other, 5)).await?, None);
        assert_eq!(store.store(&KeyId::new(other), &record(6)).await?, StoreOutcome::Stored);
        assert_eq!(store.load_latest(&KeyId::new("alice")).await?, Some(record(5)));
    }
    Ok(())
}
