//! Connections: how many, for how long, and what becomes of them.

use std::time::{Duration, Instant};

use keyward::kms::StaticKms;
use keyward::stores::{KeyAdmin, Metastore, MysqlMetastore, StoreError, StoreOutcome};
use keyward::{KeyId, SessionFactory};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::mysql_support::{PASSWORD, Server, UPSTREAM, USER};
use crate::servers::TestResult;
use crate::{assert_permanent, assert_transient, connect, key, record, shared, told};

/// Waits until the server runs so many statements of others on a database.
async fn until_running(root: &mut Conn, database: &str, count: u64) -> TestResult {
    let select = format!(
        "SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{database}' AND user = '{USER}' AND \
         command IN ('Execute', 'Query', 'Prepare')"
    );
    while root.query_first::<u64, _>(&select).await? != Some(count) {
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn whoever_finds_all_connections_in_use_waits_so_long() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let database = server.database(UPSTREAM).await?;
    let store = connect(&format!("{}?pool_size=1&pool_wait=0.2", server.address(&database))).await?;
    let mut locks = server.root(&database).await?;
    locks.query_drop("LOCK TABLES encryption_key WRITE").await?;

    let held = tokio::spawn({
        let store = store.clone();
        async move { store.load(&key("alice", 5)).await }
    });
    until_running(&mut locks, &database, 1).await?;
    let error = store.load(&key("alice", 5)).await.expect_err("none is free");
    assert!(matches!(error, StoreError::PoolTimeout { operation: "loading a key from MySQL", .. }), "{error:?}");
    assert!(told(&error).contains(&database) && error.is_transient());
    locks.query_drop("UNLOCK TABLES").await?;
    assert_eq!(held.await??, None);
    assert_eq!(store.load(&key("alice", 5)).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_dropped_call_gives_its_connection_up_and_its_place_back() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let database = server.database(UPSTREAM).await?;
    let store = connect(&format!("{}?pool_size=1", server.address(&database))).await?;
    let mut locks = server.root(&database).await?;
    locks.query_drop("LOCK TABLES encryption_key WRITE").await?;
    let dropped = tokio::spawn({
        let store = store.clone();
        async move { store.store(&KeyId::new("alice"), &record(5)).await }
    });
    until_running(&mut locks, &database, 1).await?;
    dropped.abort();
    locks.query_drop("UNLOCK TABLES").await?;
    assert_eq!(store.store(&KeyId::new("bob"), &record(6)).await?, StoreOutcome::Stored);
    assert_eq!(store.load(&key("bob", 6)).await?, Some(record(6)), "the answer to this question");
    assert_eq!(store.load(&key("carol", 6)).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again() -> TestResult {
    let Some(server) = Server::start(&[])? else { return Ok(()) };
    let database = server.database(UPSTREAM).await?;
    let store = connect(&server.address(&database)).await?;
    assert_eq!(store.store(&KeyId::new("alice"), &record(5)).await?, StoreOutcome::Stored);
    server.mariadb.keeper.kill()?;
    let error = store.load(&key("alice", 5)).await.expect_err("nobody is there");
    assert_transient(&error, &["loading", "check that the server is up"]);
    server.mariadb.start_again()?;
    assert_eq!(store.load(&key("alice", 5)).await?, Some(record(5)));

    // A connection that was idle for a while is not trusted: nobody has to send an insert twice.
    let idle = Instant::now();
    server.mariadb.keeper.kill()?;
    server.mariadb.start_again()?;
    while idle.elapsed() < Duration::from_millis(1100) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.store(&KeyId::new("alice"), &record(6)).await?, StoreOutcome::Stored);
    Ok(())
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() -> TestResult {
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = silent.local_addr()?.port();
    let error = connect(&format!("mysql://a:hunter2@127.0.0.1:{port}/keys?connect_timeout=0.2")).await;
    assert_transient(&error.expect_err("silence"), &["connecting", "no connection within"]);
    Ok(())
}

#[tokio::test]
async fn something_else_than_a_server_is_told() -> TestResult {
    let other = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = other.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in other.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n");
        }
    });
    let error = connect(&format!("mysql://a:hunter2@127.0.0.1:{port}/keys?connect_timeout=2")).await.expect_err("ssh");
    assert!(told(&error).contains(&port.to_string()), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn hosts_are_tried_in_turn() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let database = server.database(UPSTREAM).await?;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let hosts = format!("127.0.0.1:{closed},127.0.0.1:{},127.0.0.1:{}", silent.local_addr()?.port(), server.port());
    let store = connect(&format!("mysql://{USER}:{PASSWORD}@{hosts}/{database}?connect_timeout=2")).await?;
    assert_eq!(store.place(), format!("mysql://{USER}@{hosts}/{database}"));
    assert_eq!(store.load(&key("alice", 5)).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_socket_is_a_host() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let database = server.database(UPSTREAM).await?;
    let socket = server.socket().replace('/', "%2F");
    let store = connect(&format!("mysql://{USER}:{PASSWORD}@{socket}/{database}")).await?;
    assert_eq!(store.load(&key("alice", 5)).await?, None);
    Ok(())
}

#[tokio::test]
async fn every_session_is_set_up_and_none_has_its_time_zone_changed() -> TestResult {
    let options = ["--sql-mode=", "--autocommit=0", "--log-output=TABLE"];
    let Some(server) = Server::start(&options)? else {
        return Ok(());
    };
    let database = server.database(UPSTREAM).await?;
    let mut root = server.root(&database).await?;
    // Sessions that do not commit keep others from the lock: an error, not a wait.
    root.query_drop("SET SESSION autocommit = 1, SESSION lock_wait_timeout = 10").await?;
    root.query_drop("SET GLOBAL general_log = 1").await?;
    let store = connect(&server.address(&database)).await?;
    root.query_drop("LOCK TABLES encryption_key WRITE").await?;
    let calls: Vec<_> = (0..4)
        .map(|id| {
            let store = store.clone();
            tokio::spawn(async move { store.store(&KeyId::new(&format!("id {id}")), &record(5)).await })
        })
        .collect();
    until_running(&mut root, &database, 4).await?;
    root.query_drop("UNLOCK TABLES").await?;
    for call in calls {
        assert_eq!(call.await??, StoreOutcome::Stored);
    }
    let count = |what: &str| {
        format!(
            "SELECT COUNT(DISTINCT thread_id) FROM mysql.general_log WHERE user_host LIKE '{USER}%' AND argument {what}"
        )
    };
    let inserting: Option<u64> = root.query_first(count("LIKE 'INSERT INTO encryption_key%'")).await?;
    assert_eq!(inserting, Some(4), "four connections at once");
    let set_up: Option<u64> = root.query_first(count("LIKE '%STRICT_ALL_TABLES%'")).await?;
    assert_eq!(set_up, Some(4), "and all of them set up");
    assert_eq!(root.query_first(count("LIKE '%SET%time_zone%'")).await?, Some(0_u64));
    assert_eq!(root.query_first("SELECT COUNT(*) FROM encryption_key").await?, Some(4_u64), "and committed");
    Ok(())
}

#[tokio::test]
async fn replica_consistency_is_asked_for_on_every_connection() -> TestResult {
    let options = ["--log-output=TABLE", "--general-log=1"];
    let Some(server) = Server::start(&options)? else {
        return Ok(());
    };
    let database = server.database(UPSTREAM).await?;
    let address = format!("{}?replica_read_consistency=global", server.address(&database));
    for _connection in 0..3 {
        let error = connect(&address).await.expect_err("MariaDB has no such thing");
        assert_permanent(&error, &["connecting", "leave the option replica_read_consistency out", "1193"]);
    }
    let mut root = server.root("").await?;
    let asked = "SELECT COUNT(DISTINCT thread_id) FROM mysql.general_log \
        WHERE argument = 'SET SESSION aurora_replica_read_consistency = ''global'''";
    assert_eq!(root.query_first(asked).await?, Some(3_u64));
    Ok(())
}

#[test]
fn a_store_outlives_the_runtime_that_opened_it_and_waits_for_none_that_stands_still() -> TestResult {
    fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    }
    let keeper = runtime()?;
    let Some(server) = Server::start(&[])? else { return Ok(()) };
    let database = keeper.block_on(server.database(UPSTREAM))?;
    let store = runtime()?.block_on(connect(&server.address(&database)))?;
    for created in [5, 6] {
        let outcome = runtime()?.block_on(store.store(&KeyId::new("alice"), &record(created)))?;
        assert_eq!(outcome, StoreOutcome::Stored);
    }
    let idle = runtime()?;
    assert!(idle.block_on(store.load(&key("alice", 5)))?.is_some());
    assert!(runtime()?.block_on(store.load(&key("alice", 5)))?.is_some(), "while the other one stands still");

    // The last clone takes its connections with it; each runtime had one of its own.
    let count = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{USER}'");
    keeper.block_on(async {
        let mut root = server.root("").await?;
        assert!(root.query_first(&count).await?.is_some_and(|connections: u64| connections <= 5));
        drop(store);
        while root.query_first(&count).await? != Some(0_u64) {
            tokio::task::yield_now().await;
        }
        Ok(())
    })
}

#[test]
fn a_call_outside_of_a_runtime_is_an_error() -> TestResult {
    use std::task::{Context, Poll, Waker};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Some(server) = runtime.block_on(shared())? else { return Ok(()) };
    let database = runtime.block_on(server.database(UPSTREAM))?;
    let store = runtime.block_on(connect(&server.address(&database)))?;
    let alice = key("alice", 5);
    let answer = store.load(&alice).as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(Err(error)) = answer else { return Err("it waits for something".into()) };
    assert!(error.to_string().contains("within a tokio runtime"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_factory_encrypts_with_it_and_another_decrypts() -> TestResult {
    let Some(server) = shared().await? else { return Ok(()) };
    let database = server.database(UPSTREAM).await?;
    let mut record = None;
    for _factory in 0..2 {
        let factory = SessionFactory::builder("svc", "prod")
            .metastore(connect(&server.address(&database)).await?)
            .kms(StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?)
            .build()
            .await?;
        let session = factory.session("alice").await?;
        match &record {
            None => record = Some(session.encrypt(b"tea").await?),
            Some(record) => assert_eq!(session.decrypt(record).await?, b"tea"),
        }
        factory.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn look_ups_use_the_primary_key() -> TestResult {
    let options = ["--log-output=TABLE", "--slow-query-log=1", "--long-query-time=0"];
    let Some(server) = Server::start(&options)? else {
        return Ok(());
    };
    let exact = UPSTREAM.replace("(255)", "(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin");
    for table in [UPSTREAM, &exact] {
        let database = server.database(table).await?;
        let mut root = server.root(&database).await?;
        let rows = "INSERT INTO encryption_key SELECT CONCAT('_IK_', seq, '_svc_prod'), '2024-01-01 00:00:00', '{}' \
            FROM seq_1_to_2000";
        root.query_drop(rows).await?;
        let store: MysqlMetastore = connect(&server.address(&database)).await?;
        root.query_drop("TRUNCATE mysql.slow_log").await?;
        for id in ["_IK_alice_svc_prod", "_IK_\u{e9}_svc_prod"] {
            assert_eq!(store.store(&KeyId::new(id), &record(5)).await?, StoreOutcome::Stored);
            assert_eq!(store.load(&key(id, 5)).await?, Some(record(5)));
            assert_eq!(store.load_latest(&KeyId::new(id)).await?, Some(record(5)));
            assert_eq!(store.versions(&KeyId::new(id)).await?.len(), 1);
            assert_eq!(store.list(Some(&key(id, 4)), 1).await?.len(), 1);
            let _ = store.revoke(&key(id, 5)).await?;
            let _ = store.shred(&KeyId::new(id), &keyward::EnvelopeKeyRecord::tombstone(None)).await?;
        }
        let read = format!("SELECT MAX(rows_examined), COUNT(*) FROM mysql.slow_log WHERE db = '{database}'");
        let (most, statements): (u64, u64) = root.query_first(read).await?.ok_or("a count")?;
        assert!(most <= 4 && statements > 20, "{most} rows for one look-up, in {statements} statements");
    }
    Ok(())
}
