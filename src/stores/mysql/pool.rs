//! The connections to a MySQL or MariaDB server: so many at once, each set up alike.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, Error, Opts, OptsBuilder, Params, Row};
use secrecy::ExposeSecret;
use tokio::runtime::{Handle, Id};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::failures::{DEADLOCK, code, failure, judge};
use super::options::MysqlOptions;
use super::tls::{TlsSetupError, ssl_opts};
use crate::stores::StoreError;
use crate::stores::place::{permanent, transient};
use crate::stores::sql_server::{SqlServer, TlsMode};

const PORT: u16 = 3306;

/// A connection that was idle for longer is asked whether it is alive before it is used: a statement that was sent on a
/// dead one may have been executed or not.
const CHECK_AFTER: Duration = Duration::from_secs(1);

/// A connection that was idle for longer is closed: firewalls between forget it, the shortest known after 350 s.
const CLOSE_AFTER: Duration = Duration::from_secs(300);

/// The largest statement: a record of 64 KiB has room, and asking the server for its limit costs a round trip.
const MAX_PACKET: usize = 16 << 20;

/// How often a statement that ended in a deadlock is sent again: creators and shredders of one key meet in few.
const DEADLOCKS: u32 = 16;

/// What every session is set to.
///
/// * `autocommit`: a server may have it off, and would forget the keys that were stored.
/// * `sql_mode`: without `STRICT_ALL_TABLES` a server changes what it cannot store; everything else that a server may have
///   on changes what statements mean.
/// * the isolation level: a key that another session has not committed must not be used. `REPEATABLE READ` is the level
///   that every format of the binary log allows; each statement is a transaction of its own.
/// * the times to wait for locks: a call that is given up leaves its statement behind, and its connection with it.
///
/// The time zone is left as the server has it, see `MysqlMetastore`.
const SETTINGS: [&str; 3] = [
    "SET SESSION autocommit = 1, SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET SESSION lock_wait_timeout = 10, SESSION innodb_lock_wait_timeout = 10",
];

/// Idle connections, and permits for all there may be.
///
/// Not `Debug`: the driver's connections print the password.
pub(super) struct Pool {
    options: MysqlOptions,
    place: String,
    permits: Arc<Semaphore>,
    // A poisoned lock is taken all the same: every change is one push or one take.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    conn: Conn,
    /// The runtime that drives it. Another one may end, or stand still, while this one waits for an answer.
    home: Id,
    since: Instant,
}

impl Pool {
    pub(super) fn new(options: MysqlOptions) -> Self {
        let size = options.server.pool.size.clamp(1, Semaphore::MAX_PERMITS);
        let (place, permits) = (options.server.place("mysql"), Arc::new(Semaphore::new(size)));
        Self { options, place, permits, idle: Mutex::default() }
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Returns a connection that answers, an idle one or a new one.
    ///
    /// # Errors
    /// [`StoreError::PoolTimeout`] when none became free; those of connecting.
    pub(super) async fn get(self: &Arc<Self>, operation: &'static str) -> Result<Connection, StoreError> {
        let Ok(home) = Handle::try_current().map(|runtime| runtime.id()) else {
            let advice = "call the store from within a tokio runtime";
            return Err(permanent(operation, &self.place, advice, "there is no runtime to wait in"));
        };
        let after = self.options.server.pool.wait;
        let permit = match timeout(after, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            _ => return Err(StoreError::PoolTimeout { operation, place: self.place.clone(), after }),
        };
        let conn = match self.idle_one(home).await {
            Some(conn) => conn,
            None => self.connect(operation).await?,
        };
        Ok(Connection {
            operation,
            conn: Some(conn),
            home,
            is_whole: true,
            is_kept: false,
            pool: Arc::clone(self),
            _permit: permit,
        })
    }

    /// Takes an idle connection that answers; those that do not are closed.
    async fn idle_one(&self, home: Id) -> Option<Conn> {
        loop {
            let (found, old) = self.pop_idle(home);
            drop(old);
            let Idle { mut conn, since, .. } = found?;
            if since.elapsed() < CHECK_AFTER {
                return Some(conn);
            }
            match timeout(self.options.server.pool.connect, conn.ping()).await {
                Ok(Ok(())) => return Some(conn),
                Ok(Err(_)) => {}
                // Nothing answers, so the others would not either, and each would take as long.
                Err(_) => drop(self.take_idle()),
            }
        }
    }

    /// Returns the connection of a runtime that was used last, and those that are too old, to be dropped outside of the lock.
    fn pop_idle(&self, home: Id) -> (Option<Idle>, Vec<Idle>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let old = idle.iter().take_while(|idle| idle.since.elapsed() > CLOSE_AFTER).count();
        let old = idle.drain(..old).collect();
        let last = idle.iter().rposition(|idle| idle.home == home);
        (last.map(|at| idle.remove(at)), old)
    }

    fn take_idle(&self) -> Vec<Idle> {
        std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps a connection for the next call, in the place of the oldest one where there are as many as there may be: those of
    /// a runtime that is gone are of no use to anybody.
    fn put_back(&self, conn: Conn, home: Id) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = (idle.len() >= self.options.server.pool.size).then(|| idle.remove(0));
        idle.push(Idle { conn, home, since: Instant::now() });
        drop(idle);
        drop(oldest);
    }

    /// Connects to the first host that takes a connection, within the time that there is for all.
    async fn connect(&self, operation: &'static str) -> Result<Conn, StoreError> {
        let server = &self.options.server;
        let opts = self.opts(operation).await?;
        let until = Instant::now() + server.pool.connect;
        let mut left = u32::try_from(opts.len()).unwrap_or(u32::MAX);
        let mut last = None;
        for (host, opts) in opts {
            let share = until.saturating_duration_since(Instant::now()) / left;
            left -= 1;
            let error = match timeout(share, self.open(opts)).await {
                Ok(Ok(conn)) => return Ok(conn),
                Ok(Err(error)) if judge(&error).passes => failure(operation, &host, error),
                // Another host would refuse it too, or must not be asked: it may be an impostor's.
                Ok(Err(error)) => return Err(failure(operation, &host, error)),
                Err(_) => {
                    let advice = "check that the server is up and that nothing drops packets on the way to it";
                    transient(operation, &host, advice, format!("no connection within {share:?}"))
                }
            };
            tracing::debug!(%host, "no connection to this host");
            last = Some(error);
        }
        Err(last.unwrap_or_else(|| permanent(operation, &self.place, "name a host", "the address has no host")))
    }

    /// Connects to one host and sets the session up.
    async fn open(&self, opts: Opts) -> Result<Conn, Error> {
        let mut conn = match Conn::new(opts.clone()).await {
            Err(Error::Driver(DriverError::NoClientSslFlagFromServer)) if self.prefers_tls() => {
                let opts: Opts = OptsBuilder::from_opts(opts).ssl_opts(None).into();
                Conn::new(opts).await?
            }
            other => other?,
        };
        for setting in SETTINGS {
            conn.query_drop(setting).await?;
        }
        if let Some(level) = self.options.replica_consistency {
            conn.query_drop(format!("SET SESSION aurora_replica_read_consistency = '{level}'")).await?;
        }
        Ok(conn)
    }

    fn prefers_tls(&self) -> bool {
        self.options.server.tls_mode() == TlsMode::Prefer
    }

    /// Returns what the driver is to be told for each host, with the place of each.
    async fn opts(&self, operation: &'static str) -> Result<Vec<(String, Opts)>, StoreError> {
        let server = self.options.server.clone();
        let opts = tokio::task::spawn_blocking(move || all_opts(&server)).await;
        match opts {
            Ok(Ok(opts)) => Ok(opts),
            Ok(Err(error)) => {
                let advice = "name readable PEM files: sslrootcert for authorities, sslcert and sslkey for the client";
                Err(permanent(operation, &self.place, advice, error))
            }
            Err(error) => Err(permanent(operation, &self.place, None, error)),
        }
    }
}

/// Reads the files that the settings name: blocking.
fn all_opts(server: &SqlServer) -> Result<Vec<(String, Opts)>, TlsSetupError> {
    let tls = ssl_opts(server)?;
    let local = [("127.0.0.1".to_owned(), None)];
    let hosts = if server.hosts.is_empty() { &local[..] } else { &server.hosts[..] };
    let base = OptsBuilder::default()
        .user(server.user.clone())
        .pass(server.password.as_ref().map(|password| password.expose_secret().to_owned()))
        .db_name(server.database.clone())
        .tcp_keepalive(Some(Duration::from_secs(60)))
        // Where the server says that its socket is may be anybody's, and no TLS is spoken there.
        .prefer_socket(false)
        .max_allowed_packet(Some(MAX_PACKET))
        .wait_timeout(Some(28_800));
    let opts = hosts.iter().map(|(host, port)| {
        let place = SqlServer { hosts: vec![(host.clone(), *port)], ..server.clone() }.place("mysql");
        let opts = if host.starts_with('/') {
            base.clone().socket(Some(host.clone()))
        } else {
            base.clone().ip_or_hostname(host.clone()).tcp_port(port.unwrap_or(PORT)).ssl_opts(tls.clone())
        };
        (place, opts.into())
    });
    Ok(opts.collect())
}

/// A connection that one call has to itself.
///
/// It goes back to the others when dropped, but not in the midst of a statement, nor after an error that it may not
/// survive: the next call must not get the answer to this one.
pub(super) struct Connection {
    operation: &'static str,
    conn: Option<Conn>,
    home: Id,
    /// Whether no statement is under way, and none ended in an error that the connection may not survive.
    is_whole: bool,
    is_kept: bool,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Returns the rows that a statement selects.
    pub(super) async fn rows(&mut self, sql: &str, values: impl Into<Params>) -> Result<Vec<Row>, Error> {
        let values = values.into();
        let result = match self.begin() {
            Ok(conn) => conn.exec(sql, values).await,
            Err(error) => Err(error),
        };
        self.end(result)
    }

    /// Executes a statement; returns how many rows it changed.
    ///
    /// A statement that the server ends to resolve a deadlock has done nothing, and is sent again.
    pub(super) async fn change(&mut self, sql: &str, values: impl Into<Params>) -> Result<u64, Error> {
        let values = values.into();
        let mut attempts = 1..=DEADLOCKS;
        loop {
            let result = match self.begin() {
                Ok(conn) => conn.exec_drop(sql, values.clone()).await.map(|()| conn.affected_rows()),
                Err(error) => Err(error),
            };
            match self.end(result) {
                Err(error) if code(&error) == Some(DEADLOCK) && attempts.next().is_some() => {}
                result => return result,
            }
        }
    }

    /// Makes the error of the call that this connection serves.
    pub(super) fn failure(&self, error: Error) -> StoreError {
        failure(self.operation, &self.pool.place, error)
    }

    /// Makes the error of something that the server did not refuse, but that is wrong all the same.
    pub(super) fn refusal(&self, advice: &'static str, source: impl Into<crate::error::BoxError>) -> StoreError {
        permanent(self.operation, &self.pool.place, advice, source)
    }

    /// Makes the error of something that another attempt may get right.
    pub(super) fn hitch(&self, source: &'static str) -> StoreError {
        transient(self.operation, &self.pool.place, None, source)
    }

    /// Keeps the connection from other calls: its session is not as theirs are any more.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }

    fn begin(&mut self) -> Result<&mut Conn, Error> {
        self.is_whole = false;
        self.conn.as_mut().ok_or(Error::Driver(DriverError::ConnectionClosed))
    }

    fn end<R>(&mut self, result: Result<R, Error>) -> Result<R, Error> {
        self.is_whole = result.as_ref().err().is_none_or(|error| judge(error).stays);
        result
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take().filter(|_| self.is_whole && !self.is_kept) {
            self.pool.put_back(conn, self.home);
        }
    }
}
