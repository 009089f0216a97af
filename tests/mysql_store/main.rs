//! The store in MariaDB beyond the contract of all stores: bad input, times, the schema, connections, TLS.

mod bad_input;
mod connections;
#[path = "../mysql_support/mod.rs"]
mod mysql_support;
mod schema;
#[path = "../servers/mod.rs"]
mod servers;
mod times;
mod tls;

use std::error::Error as StdError;

use keyward::stores::{MysqlMetastore, MysqlOptions, StoreError};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};
use mysql_support::{PASSWORD, Server};
use servers::TestResult;
use tokio::sync::OnceCell;

/// Returns the server, in UTC, that tests share which leave it as it is.
async fn shared() -> TestResult<Option<&'static Server>> {
    static SERVER: OnceCell<Option<Server>> = OnceCell::const_new();
    Ok(SERVER.get_or_try_init(async || Server::start(&[])).await?.as_ref())
}

async fn connect(address: &str) -> Result<MysqlMetastore, StoreError> {
    MysqlMetastore::connect(options(address)).await
}

fn options(address: &str) -> MysqlOptions {
    address.parse().expect("an address")
}

/// Returns all that an error says, and its `Debug` text; no password is in either.
fn told(error: &StoreError) -> String {
    let mut text = format!("{error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    for text in [&text, &format!("{error:?}")] {
        assert!(!text.contains(PASSWORD) && !text.contains("hunter2"), "{text}");
    }
    text
}

/// Checks that an error is one that stays, and that it names the server and says all `words`.
fn assert_permanent(error: &StoreError, words: &[&str]) {
    let text = told(error);
    assert!(matches!(error, StoreError::Permanent { .. }), "{text}");
    assert_says(&text, words);
}

/// Checks that an error is one that passes, and that it names the server and says all `words`.
fn assert_transient(error: &StoreError, words: &[&str]) {
    let text = told(error);
    assert!(matches!(error, StoreError::Transient { .. }), "{text}");
    assert_says(&text, words);
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words.iter().chain(&["mysql://"]) {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

fn key(id: &str, created: i64) -> KeyMeta {
    KeyMeta { id: KeyId::new(id), created }
}

fn record(created: i64) -> EnvelopeKeyRecord {
    EnvelopeKeyRecord { created, encrypted_key: b"k".to_vec(), parent_key: None, revoked: false }
}

/// Has a server use the clocks of Berlin, which are put forward and back.
fn move_to_berlin(server: &Server) -> TestResult {
    let zone = ["/usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin"];
    let rules = std::process::Command::new("mariadb-tzinfo-to-sql").args(zone).output()?;
    server.mariadb.sql("mysql", &String::from_utf8(rules.stdout)?)?;
    server.mariadb.sql("", "SET GLOBAL time_zone = 'Europe/Berlin'")?;
    Ok(())
}
