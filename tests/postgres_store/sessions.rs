//! Connections: what is said over them, who shares them, and which runtime drives them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use keyward::KeyId;
use keyward::stores::{Metastore, PostgresMetastore, StoreError, StoreOutcome};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::servers::PgBouncer;
use crate::stage::{
    ID, NO_SECRET, NOON, Postgres, PostgresSetup, TestResult, connect, eventually, factory, key, record, refused, says,
    store, user, works,
};

/// A server that writes down everything that it is told, each line with the user and the process.
fn noting() -> TestResult<Option<&'static Postgres>> {
    static NOTING: OnceLock<Result<Option<Postgres>, String>> = OnceLock::new();
    let lines = ["log_min_duration_statement = 0", "log_line_prefix = '%u|%p|'"].map(str::to_owned).to_vec();
    let setup = PostgresSetup { lines, ..PostgresSetup::default() };
    let noting = NOTING.get_or_init(|| Postgres::start(&setup).map_err(|error| error.to_string()));
    Ok(noting.as_ref().map_err(String::clone)?.as_ref())
}

/// Returns what the server was told by a user, by process: `parse s0: SELECT …` and so on.
fn told(server: &Postgres, user: &str) -> TestResult<BTreeMap<String, Vec<String>>> {
    let log = std::fs::read_to_string(server.keeper.path().join("log"))?;
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in log.lines() {
        let mut parts = line.splitn(3, '|');
        let (Some(name), Some(process), Some(text)) = (parts.next(), parts.next(), parts.next()) else { continue };
        if name == user
            && let Some((_, statement)) = text.split_once(" ms  ")
        {
            told.entry(process.to_owned()).or_default().push(statement.to_owned());
        }
    }
    Ok(told)
}

/// Makes calls that need several connections at once.
async fn many_calls(opened: &PostgresMetastore, prefix: &str) -> TestResult {
    let mut calls = JoinSet::new();
    for number in 0..30 {
        let (opened, id) = (opened.clone(), format!("_IK_{prefix}{number}_svc_prod"));
        calls.spawn(async move {
            assert_eq!(store(&opened, &id, NOON).await?, StoreOutcome::Stored);
            assert_eq!(opened.load(&key(&id, NOON)).await?, Some(record(NOON)));
            assert_eq!(opened.load_latest(&KeyId::new(&id)).await?, Some(record(NOON)));
            TestResult::Ok(())
        });
    }
    while let Some(call) = calls.join_next().await {
        call??;
    }
    Ok(())
}

#[tokio::test]
async fn every_connection_is_told_the_zone_and_the_consistency_before_anything_else() -> TestResult {
    let Some(server) = noting()? else { return Ok(()) };
    let url = server.new_table()?;
    let opened = connect(&format!("{url}?replica_read_consistency=session&pool_size=4")).await?;
    many_calls(&opened, "p").await?;
    let greeting = "statement: SET TIME ZONE 'UTC'; SET statement_timeout = 10000; SET apg_write_forward.consistency_mode = 'session'";
    let told = told(server, user(&url))?;
    assert!((2..=4).contains(&told.len()), "{} connections", told.len());
    for (process, statements) in told {
        // The driver asks nothing first.
        assert_eq!(statements[0], greeting, "{process}");
        assert_eq!(statements.iter().filter(|statement| statement.contains("SET ")).count(), 1, "{process}");
    }
    Ok(())
}

#[tokio::test]
async fn each_statement_is_parsed_once_per_connection() -> TestResult {
    let Some(server) = noting()? else { return Ok(()) };
    let url = server.new_table()?;
    let opened = connect(&format!("{url}?pool_size=3")).await?;
    for prefix in ["a", "b", "c"] {
        many_calls(&opened, prefix).await?;
    }
    let mut executed = 0;
    for (process, statements) in told(server, user(&url))? {
        let mut parsed = BTreeMap::new();
        for statement in statements.iter().filter_map(|statement| statement.strip_prefix("parse ")) {
            let (name, sql) = statement.split_once(": ").ok_or("a statement has a name")?;
            assert_ne!(name, "<unnamed>", "{sql}");
            *parsed.entry(sql.to_owned()).or_insert(0) += 1;
        }
        executed += statements.iter().filter(|statement| statement.starts_with("execute ")).count();
        assert!(parsed.values().all(|times| *times == 1), "{process}: {parsed:?}");
        // Three that look at the table and the server; insert, look for a tombstone or by key, look for the latest.
        assert!(parsed.len() <= 6, "{process}: {parsed:?}");
    }
    assert!(executed >= 3 * 30 * 4, "{executed}");
    Ok(())
}

#[tokio::test]
async fn without_prepared_statements_everything_works_through_a_pooler() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.new_table()?;
    let Some(pooler) = PgBouncer::start(server, user(&url), "postgres", 2)? else { return Ok(()) };
    let opened = connect(&format!("{}?prepared_statements=false", pooler.url())).await?;
    let factory = factory("svc", opened.clone()).await?;
    let mut tasks = JoinSet::new();
    for task in 0..50 {
        let factory = factory.clone();
        tasks.spawn(async move {
            for number in 0..4 {
                works(&factory, &format!("p{task}-{number}")).await?;
            }
            TestResult::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let session = factory.session("p0-0").await?;
    let before = session.encrypt(b"tea").await?;
    let keys = factory.keys(opened.clone());
    keys.rotate("p0-0").await?;
    assert_eq!(session.decrypt(&before).await?, b"tea");
    keys.shred("p0-0").await?;
    assert!(matches!(session.encrypt(b"tea").await, Err(keyward::Error::Shredded { .. })));
    let rows = server.sql("postgres", &format!("SELECT count(*) FROM {}.encryption_key", user(&url)))?;
    assert!(rows.trim().parse::<usize>()? >= 201, "{rows}");
    Ok(factory.close().await?)
}

#[tokio::test]
async fn prepared_statements_through_a_pooler_are_refused_with_the_remedy() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.new_table()?;
    let Some(pooler) = PgBouncer::start(server, user(&url), "postgres", 2)? else { return Ok(()) };
    let opened = connect(&format!("{}?pool_size=1", pooler.url())).await?;
    assert_eq!(opened.load(&key(ID, NOON)).await?, None);
    // Another client is lent the connection on which the statement was prepared.
    let (client, connection) = tokio_postgres::connect(&pooler.url(), tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("BEGIN").await?;
    let error = opened.load(&key(ID, NOON)).await.expect_err("the other connection does not know the statement");
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, NO_SECRET, &[&pooler.url(), "26000", "add prepared_statements=false to the address"]);
    Ok(())
}

/// A thread with a runtime of its own, which has made the connection and then stands still, or ends.
fn connect_elsewhere(url: String, ends: bool) -> TestResult<(PostgresMetastore, mpsc::Sender<()>)> {
    let (made, is_made) = mpsc::channel();
    let (end, is_ended) = mpsc::channel();
    std::thread::spawn(move || {
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let opened = runtime.block_on(async {
                let opened = connect(&url).await?;
                assert_eq!(opened.load(&key(ID, NOON)).await?, None);
                TestResult::Ok(opened)
            })?;
            TestResult::Ok((runtime, opened))
        };
        match work() {
            Ok((runtime, opened)) => {
                let runtime = if ends { None } else { Some(runtime) };
                let _ = made.send(Ok(opened));
                let _ = is_ended.recv();
                drop(runtime);
            }
            Err(error) => {
                let _ = made.send(Err(error));
            }
        }
    });
    Ok((is_made.recv()??, end))
}

async fn in_time<R>(call: impl Future<Output = Result<R, StoreError>>) -> TestResult<R> {
    Ok(timeout(Duration::from_secs(5), call).await??)
}

#[tokio::test]
async fn connections_of_a_runtime_that_stands_still_or_ended_are_not_waited_for() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    for ends in [false, true] {
        let url = server.new_table()?;
        let (opened, end) = connect_elsewhere(format!("{url}?pool_size=1"), ends)?;
        assert_eq!(in_time(store(&opened, ID, NOON)).await?, StoreOutcome::Stored, "ends: {ends}");
        assert_eq!(in_time(opened.load(&key(ID, NOON))).await?, Some(record(NOON)), "ends: {ends}");
        // The factory's own threads drive connections of their own.
        let factory = factory("svc", opened).await?;
        timeout(Duration::from_secs(5), works(&factory, "alice")).await??;
        factory.close().await?;
        drop(end);
    }
    Ok(())
}

/// Counts the connections of a user that wait for a lock.
fn waiting(server: &Postgres, url: &str) -> TestResult<String> {
    let name = user(url);
    let asked = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{name}' AND wait_event_type = 'Lock'");
    Ok(server.sql("postgres", &asked)?.trim().to_owned())
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_no_question_for_the_next_to_wait_for() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.new_table()?;
    let opened = connect(&format!("{url}?pool_size=1")).await?;
    // The first look-up waits for the lock; whoever asks gives up.
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE encryption_key").await?;
    assert!(timeout(Duration::from_millis(100), opened.load(&key(ID, NOON))).await.is_err());
    client.batch_execute("COMMIT").await?;
    assert_eq!(in_time(opened.load(&key(ID, NOON))).await?, None);
    eventually("nobody waits", || async { waiting(server, &url).is_ok_and(|count| count == "0") }).await
}

#[tokio::test]
async fn a_server_without_room_may_have_some_later() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.new_table()?;
    server.sql("postgres", &format!("ALTER ROLE {0} NOSUPERUSER CONNECTION LIMIT 1", user(&url)))?;
    let opened = connect(&url).await?;
    let error = refused(&url).await?;
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
    says(&error, NO_SECRET, &[&url, "53300", "lower pool_size, or raise max_connections"]);
    drop(opened);
    eventually("there is room", || async { connect(&url).await.is_ok() }).await
}

#[tokio::test]
async fn a_pool_whose_connections_are_all_in_use_says_so() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.new_table()?;
    let opened = connect(&format!("{url}?pool_size=1&pool_wait=0.1")).await?;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE encryption_key").await?;
    let held = tokio::spawn({
        let opened = opened.clone();
        async move { opened.load(&key(ID, NOON)).await }
    });
    eventually("the connection is in use", || async { waiting(server, &url).is_ok_and(|count| count == "1") }).await?;
    let error = opened.load_latest(&KeyId::new(ID)).await.expect_err("none is free");
    assert!(matches!(error, StoreError::PoolTimeout { after, .. } if after == Duration::from_millis(100)), "{error:?}");
    says(&error, NO_SECRET, &[&url, "loading a key", "no connection to", "allow more of them"]);
    client.batch_execute("COMMIT").await?;
    assert_eq!(held.await??, None);
    assert_eq!(opened.load(&key(ID, NOON)).await?, None);
    Ok(())
}
