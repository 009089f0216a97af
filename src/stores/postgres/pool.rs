//! Connections, and what is sent over them.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Manager as _, Metrics, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType};
use deadpool_postgres::{ClientWrapper, Manager, ManagerConfig, RecyclingMethod};
use postgres_types::{ToSql, Type};
use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failures::{CONNECTING, failure, is_the_connections};
use super::options::PostgresOptions;
use super::tls::client_config;
use super::values::{Columns, Param};
use crate::error::StoreError;
use crate::stores::TlsMode;
use crate::stores::place::permanent;

/// Connections to one server.
pub(super) struct Pool {
    pub(super) place: String,
    wait: Duration,
    connect: Duration,
    prepared_statements: bool,
    connections: managed::Pool<Connector>,
}

impl Pool {
    /// Sets up a pool; connects nothing.
    pub(super) async fn new(options: &PostgresOptions) -> Result<Self, StoreError> {
        let place = options.to_string();
        let unusable = |source| permanent(CONNECTING, &place, "check the TLS options of the store", source);
        let (mode, tls) = (options.server.tls_mode(), options.server.tls.clone());
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let tls = if mode == TlsMode::Disable {
            None
        } else {
            let read = tokio::task::spawn_blocking(move || client_config(mode, &tls)).await;
            Some(MakeRustlsConnect::new(read.map_err(|error| unusable(error.into()))?.map_err(unusable)?))
        };
        let manager = |config| match &tls {
            None => Manager::from_config(config, NoTls, recycling.clone()),
            Some(tls) => Manager::from_config(config, tls.clone(), recycling.clone()),
        };
        let limits = options.server.pool;
        let hosts = options.configs().into_iter().map(manager).collect();
        let connector = Connector { hosts, greeting: options.greeting(), connect: limits.connect };
        let connections = managed::Pool::builder(connector)
            .max_size(limits.size)
            // Each connection is a process of the server: the one that was used last has everything at hand.
            .queue_mode(QueueMode::Lifo)
            .wait_timeout(Some(limits.wait))
            .create_timeout(Some(limits.connect))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| permanent(CONNECTING, &place, None, error))?;
        let prepared_statements = options.prepared_statements;
        Ok(Self { wait: limits.wait, connect: limits.connect, prepared_statements, connections, place })
    }

    /// Waits for a connection, and makes one where there may be one more.
    pub(super) async fn get(&self, operation: &'static str) -> Result<Lease<'_>, StoreError> {
        if Handle::try_current().is_err() {
            let advice = "call the store from within a tokio runtime";
            return Err(permanent(operation, &self.place, advice, "there is no runtime to wait in"));
        }
        let place = || self.place.clone();
        match self.connections.get().await {
            Ok(connection) => Ok(Lease { pool: self, connection: Some(connection) }),
            Err(PoolError::Timeout(TimeoutType::Wait)) => {
                Err(StoreError::PoolTimeout { operation, place: place(), after: self.wait })
            }
            Err(PoolError::Timeout(_)) => Err(StoreError::Timeout { operation, place: place(), after: self.connect }),
            Err(PoolError::Backend(error)) => Err(failure(operation, &self.place, error)),
            Err(error) => Err(permanent(operation, &self.place, None, error)),
        }
    }
}

/// A connection that is lent for one call.
///
/// It goes back to the pool by [`finish`](Self::finish) alone. What is dropped before has a question under way, and the next
/// user would wait for its answer first, perhaps for ever.
pub(super) struct Lease<'a> {
    pool: &'a Pool,
    connection: Option<managed::Object<Connector>>,
}

impl Lease<'_> {
    /// Sends a statement and returns the rows of its answer.
    pub(super) async fn query(&self, sql: &str, columns: &Columns, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let client = self.client();
        if self.pool.prepared_statements {
            let statement = client.prepare_cached(sql).await?;
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param as _).collect();
            return client.query(&statement, &params).await;
        }
        let params: Vec<(&(dyn ToSql + Sync), Type)> =
            params.iter().map(|param| (param as _, param.of(columns))).collect();
        client.query_typed(sql, &params).await
    }

    /// Sends a statement and returns how many rows it changed.
    pub(super) async fn execute(&self, sql: &str, columns: &Columns, params: &[Param<'_>]) -> Result<u64, Error> {
        let client = self.client();
        if self.pool.prepared_statements {
            let statement = client.prepare_cached(sql).await?;
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param as _).collect();
            return client.execute(&statement, &params).await;
        }
        let params: Vec<(&(dyn ToSql + Sync), Type)> =
            params.iter().map(|param| (param as _, param.of(columns))).collect();
        client.execute_typed(sql, &params).await
    }

    /// Sends a statement and, without waiting for its answer, another one; returns how many rows the first one changed, and
    /// the rows that the second one found.
    ///
    /// The server executes what comes over one connection in this order, and each of the two is a
    /// [transaction of its own](https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING): the
    /// second one begins once the first one is committed, and sees what it did. When the first one fails, what the second
    /// one found is of no meaning.
    pub(super) async fn execute_then_query(
        &self,
        (change, change_params): (&str, &[Param<'_>]),
        (question, params): (&str, &[Param<'_>]),
        columns: &Columns,
    ) -> Result<(u64, Vec<Row>), Error> {
        if !self.pool.prepared_statements {
            // A pooler between may give the second transaction another connection.
            let changed = self.execute(change, columns, change_params).await?;
            return Ok((changed, self.query(question, columns, params).await?));
        }
        let client = self.client();
        let (change, question) = (client.prepare_cached(change).await?, client.prepare_cached(question).await?);
        let change_params: Vec<&(dyn ToSql + Sync)> = change_params.iter().map(|param| param as _).collect();
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param as _).collect();
        let (changed, rows) = in_order(client.execute(&change, &change_params), client.query(&question, &params)).await;
        Ok((changed?, rows?))
    }

    /// Sends statements without parameters.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.client().batch_execute(sql).await
    }

    /// Gives the connection back when it is good for another call, and names the server in an error.
    pub(super) fn finish<R>(mut self, operation: &'static str, answer: Result<R, Error>) -> Result<R, StoreError> {
        let is_good = !answer.as_ref().is_err_and(is_the_connections);
        if is_good {
            self.connection = None;
        }
        answer.map_err(|error| failure(operation, &self.pool.place, error))
    }

    fn client(&self) -> &ClientWrapper {
        &self.connection.as_ref().expect("the lease ends with finish").client
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(managed::Object::take(connection));
        }
    }
}

/// Waits for both answers. The driver sends a statement when its future is polled for the first time: the first one's first.
async fn in_order<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> (A, B) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut one, mut two) = (None, None);
    poll_fn(|context| {
        if one.is_none()
            && let Poll::Ready(answer) = first.as_mut().poll(context)
        {
            one = Some(answer);
        }
        if two.is_none()
            && let Poll::Ready(answer) = second.as_mut().poll(context)
        {
            two = Some(answer);
        }
        match (one.take(), two.take()) {
            (Some(one), Some(two)) => Poll::Ready((one, two)),
            unfinished => {
                (one, two) = unfinished;
                Poll::Pending
            }
        }
    })
    .await
}

/// Makes connections.
struct Connector {
    /// One for each host, in their order.
    hosts: Vec<Manager>,
    greeting: String,
    /// How long all of them may take.
    connect: Duration,
}

struct Connection {
    client: ClientWrapper,
    /// The runtime that drives it. Another one may end, or stand still, while this one waits for an answer.
    home: Id,
}

impl Connector {
    async fn open(&self, host: &Manager) -> Result<Connection, Error> {
        let client = host.create().await?;
        client.batch_execute(&self.greeting).await?;
        Ok(Connection { client, home: Handle::current().id() })
    }
}

impl managed::Manager for Connector {
    type Type = Connection;
    type Error = Error;

    /// Connects to the first host that takes a connection. The last has all the time that is left: the pool ends that.
    async fn create(&self) -> Result<Connection, Error> {
        let (last, others) = self.hosts.split_last().expect("there is a host");
        let mut left = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        let until = Instant::now() + self.connect;
        for host in others {
            let share = until.saturating_duration_since(Instant::now()) / left;
            left -= 1;
            match timeout(share, self.open(host)).await {
                Ok(Ok(connection)) => return Ok(connection),
                // Another one would refuse it too.
                Ok(Err(error)) if error.code().is_some_and(is_final) => return Err(error),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        self.open(last).await
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Error> {
        if connection.home != Handle::current().id() {
            return Err(RecycleError::message("another runtime drives the connection"));
        }
        if connection.client.is_closed() {
            return Err(RecycleError::message("the connection is closed"));
        }
        Ok(())
    }
}

/// Whether it is about the user, not about the server.
fn is_final(state: &SqlState) -> bool {
    state.code().starts_with("28")
}
