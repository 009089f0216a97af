//! Real servers for tests: each on a loopback port of its own, in a temporary folder, ended with the test program.
//!
//! A test begins with `let Some(server) = … else { return Ok(()) }`: where a server is missing and `scripts/test` has said so (it
//! names it in `KEYWARD_WITHOUT`), there is none. Otherwise a missing server fails the test.
#![allow(dead_code, unused_imports, reason = "every test program uses its own part of this")]

mod aws_proxy;
mod dynamodb;
mod http;
mod keeper;
mod mariadb;
mod moto_proxy;
mod openbao;
mod pgbouncer;
mod postgres;
mod proxy;
mod redis;

use std::error::Error;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) use aws_proxy::{AwsError, AwsFault, AwsProxy, Exchange, header};
pub(crate) use dynamodb::{DynamoDb, Kind as DynamoDbKind};
pub(crate) use http::{HttpAnswer, HttpServer};
pub(crate) use keeper::Keeper;
pub(crate) use mariadb::{MariaDb, MariaDbSetup};
pub(crate) use moto_proxy::MotoProxy;
pub(crate) use openbao::{OpenBao, OpenBaoSetup, ROOT};
pub(crate) use pgbouncer::PgBouncer;
pub(crate) use postgres::{Postgres, PostgresSetup};
pub(crate) use proxy::{Fault, Proxy};
pub(crate) use redis::Redis;

pub(crate) type TestResult<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long a server may take to start.
const START: Duration = Duration::from_secs(60);

/// Tells, loudly, whether a server was declared missing.
pub(crate) fn lacks(server: &str) -> bool {
    let missing = std::env::var("KEYWARD_WITHOUT").unwrap_or_default();
    let lacks = missing.split_whitespace().any(|name| name == server);
    if lacks {
        // Not by a macro, whose text is kept back for tests that fail.
        let _ = writeln!(std::io::stderr(), "SKIPPED: there is no {server} here");
    }
    lacks
}

/// Returns a port that nobody listens on at this moment.
fn free_port() -> TestResult<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Starts a server; once more where somebody else took its port between the choice of it and the start.
fn again_where_the_port_is_taken<S>(start: impl Fn() -> TestResult<Option<S>>) -> TestResult<Option<S>> {
    let is_taken = |error: &dyn Error| error.to_string().to_ascii_lowercase().contains("in use");
    match (1..5).map(|_| start()).find(|started| !started.as_ref().is_err_and(|error| is_taken(&**error))) {
        Some(started) => started,
        None => start(),
    }
}

/// Sleeps before something outside of the process is asked again.
#[expect(clippy::disallowed_methods, reason = "nobody tells when another process is ready")]
pub(crate) fn nap() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Waits until `is_so`, as long as a server may take to start.
fn wait_until(what: &str, mut is_so: impl FnMut() -> TestResult<bool>) -> TestResult {
    let began = Instant::now();
    while !is_so()? {
        if began.elapsed() > START {
            return Err(format!("{what} took longer than {START:?}").into());
        }
        nap();
    }
    Ok(())
}

/// Runs a program to its end and returns what it printed.
fn run(command: &mut Command) -> TestResult<String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        return Err(format!("{} failed: {text}", command.get_program().display()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Finds a program in `PATH` or in `folders`.
fn find(program: &str, folders: &[PathBuf], remedy: &str) -> TestResult<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders
        .iter()
        .cloned()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("{program} is needed: {remedy}, or run scripts/test, which does").into())
}

/// Whether the tests run as root, so that servers which refuse to do so must not.
fn is_root() -> bool {
    run(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}
