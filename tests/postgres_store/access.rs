//! Passwords and rights.

use std::sync::OnceLock;

use keyward::stores::{KeyAdmin, Metastore, SchemaAdmin, Severity, StoreError, StoreOutcome};

use crate::stage::{
    ID, NO_SECRET, NOON, Postgres, PostgresSetup, TestResult, connect, eventually, factory, key, other_user, record,
    refused, says, store, user, works,
};

/// Every character that means something in an address.
const PASSWORD: &str = "p@s%s/w?o:r#d%4";

/// A server that asks for passwords, and the addresses of a table there without one.
fn guarded() -> TestResult<Option<&'static (Postgres, String)>> {
    static GUARDED: OnceLock<Result<Option<(Postgres, String)>, String>> = OnceLock::new();
    let start = || {
        let Some(server) = Postgres::start(&PostgresSetup { passwords: true, ..PostgresSetup::default() })? else {
            return Ok(None);
        };
        let url = server.new_table()?;
        server.sql("postgres", &format!("ALTER ROLE {} PASSWORD '{PASSWORD}'", user(&url)))?;
        TestResult::Ok(Some((server, url)))
    };
    let guarded = GUARDED.get_or_init(|| start().map_err(|error| error.to_string()));
    Ok(guarded.as_ref().map_err(String::clone)?.as_ref())
}

fn with_password(url: &str, password: &str) -> String {
    url.replacen('@', &format!(":{password}@"), 1)
}

#[tokio::test]
async fn a_password_of_any_characters_works_as_it_is_and_encoded() -> TestResult {
    let Some((_, url)) = guarded()? else { return Ok(()) };
    let encoded: String = PASSWORD.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for (created, password) in [(NOON, PASSWORD), (NOON + 60, &encoded)] {
        let opened = connect(&with_password(url, password)).await?;
        assert_eq!(store(&opened, ID, created).await?, StoreOutcome::Stored);
        assert_eq!(opened.place(), url, "the place has no password");
        assert!(!format!("{opened:?}").contains(PASSWORD));
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_refused_for_good_and_never_repeated() -> TestResult {
    let Some((_, url)) = guarded()? else { return Ok(()) };
    let error = refused(&with_password(url, "hunter2@%/")).await?;
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, "hunter2", &[url, "connecting to Postgres", "28P01", "check user and password"]);
    Ok(())
}

#[tokio::test]
async fn a_missing_password_is_refused_with_where_to_give_it() -> TestResult {
    let Some((_, url)) = guarded()? else { return Ok(()) };
    let error = refused(url).await?;
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, PASSWORD, &[url, "connecting to Postgres", "password missing", "give user, password and database"]);
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named() -> TestResult {
    let Some((_, url)) = guarded()? else { return Ok(()) };
    let url = url.replace("/postgres", "/nowhere").replacen("postgres:/nowhere", "postgres://", 1);
    let error = refused(&with_password(&url, PASSWORD)).await?;
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, PASSWORD, &[&url, "\"nowhere\" does not exist", "create the database"]);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_may_come_back() -> TestResult {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let error = refused(&format!("postgres://alice:hunter2@127.0.0.1:{port}/keys")).await?;
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
    let place = format!("postgres://alice@127.0.0.1:{port}/keys");
    says(&error, "hunter2", &[&place, "connecting to Postgres", "is the server running, and is this its port?"]);
    Ok(())
}

#[tokio::test]
async fn who_may_only_read_loads_keys_and_is_told_what_storing_needs() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.new_table()?;
    assert_eq!(store(&connect(&url).await?, ID, NOON).await?, StoreOutcome::Stored);
    let reader = other_user(server, &url, "reader", "SELECT")?;
    let opened = connect(&reader).await?;
    assert_eq!(opened.load(&key(ID, NOON)).await?, Some(record(NOON)));
    let error = store(&opened, ID, NOON + 60).await.expect_err("it may not");
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, NO_SECRET, &[&reader, "storing a key in Postgres", "42501", "GRANT SELECT, INSERT ON encryption_key"]);
    let report = opened.inspect().await?;
    let found = report.differences.iter().find(|found| found.about.contains("may not insert")).ok_or("not reported")?;
    assert_eq!(found.severity, Severity::Risky);
    let change = found.change.as_ref().ok_or("there is a remedy")?;
    assert_eq!(change.statement, format!("GRANT INSERT ON encryption_key TO \"{}\"", user(&reader)));
    server.sql("postgres", &change.statement.replace("encryption_key", &format!("{}.encryption_key", user(&url))))?;
    assert_eq!(store(&opened, ID, NOON + 60).await?, StoreOutcome::Stored);
    Ok(())
}

#[tokio::test]
async fn who_may_not_even_read_is_refused_at_once() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let writer = other_user(server, &server.new_table()?, "writer", "INSERT")?;
    let error = refused(&writer).await?;
    assert!(matches!(error, StoreError::Permanent { .. }), "{error:?}");
    says(&error, NO_SECRET, &[&writer, "may not read the table", "keyward migrate"]);
    Ok(())
}

#[tokio::test]
async fn who_may_select_and_insert_needs_no_more_to_encrypt() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = other_user(server, &server.new_table()?, "plain", "SELECT, INSERT")?;
    let factory = factory("svc", connect(&url).await?).await?;
    works(&factory, "alice").await?;
    Ok(factory.close().await?)
}

#[tokio::test]
async fn a_server_that_only_reads_serves_loads_and_takes_keys_again_when_it_may() -> TestResult {
    let (Some(server), Some(other)) = (Postgres::start(&PostgresSetup::default())?, Postgres::shared()?) else {
        return Ok(());
    };
    let url = server.new_table()?;
    let both = other_user(other, &other.new_table()?, "both", "SELECT, INSERT")?;
    server.sql("postgres", &format!("CREATE ROLE {} LOGIN", user(&both)))?;
    let opened = connect(&url).await?;
    assert_eq!(store(&opened, ID, NOON).await?, StoreOutcome::Stored);
    let only_reads = |setting: &str| {
        server.sql("postgres", &format!("ALTER SYSTEM SET default_transaction_read_only = {setting}"))?;
        server.sql("postgres", "SELECT pg_reload_conf()")
    };
    only_reads("on")?;
    eventually("the server only reads", || async { store(&opened, ID, NOON).await.is_err() }).await?;
    let error = store(&opened, ID, NOON + 60).await.expect_err("it only reads");
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
    says(&error, NO_SECRET, &[&url, "storing a key in Postgres", "25006", "target_session_attrs=read-write"]);
    assert_eq!(opened.load(&key(ID, NOON)).await?, Some(record(NOON)));

    // Of two servers, one that writes is taken, whichever comes first.
    let both =
        format!("{}?target_session_attrs=read-write", both.replacen('@', &format!("@127.0.0.1:{},", server.port), 1));
    assert_eq!(store(&connect(&both).await?, ID, NOON).await?, StoreOutcome::Stored);

    only_reads("off")?;
    eventually("the server writes", || async { store(&opened, ID, NOON + 60).await.is_ok() }).await?;
    assert_eq!(opened.load(&key(ID, NOON + 60)).await?, Some(record(NOON + 60)));
    Ok(())
}

#[tokio::test]
async fn a_server_that_takes_a_change_and_makes_none_is_told_as_such() -> TestResult {
    let Some(server) = Postgres::shared()? else { return Ok(()) };
    let url = server.new_table()?;
    let owner = connect(&url).await?;
    let outcome = store(&owner, "alice", 5).await?;
    assert_eq!(outcome, StoreOutcome::Stored);
    let schema = user(&url);
    // Rows are seen and inserted, never updated.
    let limited = other_user(server, &url, "limited", "SELECT, INSERT, UPDATE")?;
    server.sql(
        "postgres",
        &format!(
            "ALTER TABLE {schema}.encryption_key ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY seen ON {schema}.encryption_key FOR SELECT USING (true)"
        ),
    )?;
    let error = connect(&limited).await?.revoke(&key("alice", 5)).await.expect_err("no change");
    assert!(matches!(error, StoreError::Permanent { .. }), "{error}");
    says(&error, NO_SECRET, &["row security"]);
    // Rows are taken and dropped.
    server.sql(
        "postgres",
        &format!(
            "CREATE FUNCTION {schema}.drop_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER drop_it BEFORE INSERT ON {schema}.encryption_key FOR EACH ROW EXECUTE FUNCTION {schema}.drop_it()"
        ),
    )?;
    let error = store(&owner, "bob", 5).await.expect_err("no row");
    assert!(matches!(error, StoreError::Permanent { .. }), "{error}");
    Ok(())
}
