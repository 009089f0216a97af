//! A factory over a proxy to a server.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use keyward::kms::StaticKms;
use keyward::stores::{DynamoDbMetastore, KeyAdmin, Metastore, MysqlMetastore, PostgresMetastore, SchemaAdmin};
use keyward::{CryptoPolicy, DataRowRecord, Error, ManualClock, RetryPolicy, SessionFactory, SessionFactoryBuilder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::task::JoinSet;

use crate::dynamodb_support;
use crate::servers::{DynamoDb, DynamoDbKind, MariaDb, MariaDbSetup, Postgres, PostgresSetup};
pub(crate) use crate::servers::{Fault, Proxy, TestResult};

pub(crate) trait Store: Metastore + KeyAdmin {}
impl<S: Metastore + KeyAdmin> Store for S {}

/// An empty table of a server.
pub(crate) struct Backend {
    server: Server,
    /// The address of the table, or its name.
    table: String,
    pub(crate) port: u16,
}

#[derive(Clone, Copy)]
enum Server {
    Postgres(&'static Postgres),
    MariaDb(&'static MariaDb),
    DynamoDb(&'static DynamoDb),
}

impl Backend {
    /// Makes a table of PostgreSQL.
    pub(crate) async fn postgres() -> TestResult<Option<Self>> {
        let Some(server) = Postgres::shared()? else { return Ok(None) };
        Self::on(Server::Postgres(server)).await.map(Some)
    }

    /// Makes a table of MariaDB.
    pub(crate) async fn mariadb() -> TestResult<Option<Self>> {
        static SHARED: OnceLock<Result<Option<MariaDb>, String>> = OnceLock::new();
        let start = || MariaDb::start(&MariaDbSetup::default()).map_err(|error| error.to_string());
        let Some(server) = SHARED.get_or_init(start).as_ref().map_err(String::clone)? else { return Ok(None) };
        Self::on(Server::MariaDb(server)).await.map(Some)
    }

    /// Makes a table of what speaks DynamoDB.
    pub(crate) async fn moto() -> TestResult<Option<Self>> {
        let Some(server) = DynamoDb::shared(DynamoDbKind::Moto)? else { return Ok(None) };
        Self::on(Server::DynamoDb(server)).await.map(Some)
    }

    async fn on(server: Server) -> TestResult<Self> {
        let (table, port) = match server {
            Server::Postgres(server) => (server.new_table()?, server.port),
            Server::MariaDb(server) => {
                let database = server.database("")?;
                let maker = MysqlMetastore::connect_for_schema(server.url(&database).parse()?).await?;
                maker.apply().await?;
                // A user of the name of the database, who may do what encrypting needs.
                let user = format!("{database}@'127.0.0.1'");
                server.sql(
                    &database,
                    &format!("CREATE USER {user}; GRANT SELECT, INSERT ON {database}.encryption_key TO {user}"),
                )?;
                (server.url(&database).replacen("root", &database, 1), server.port)
            }
            Server::DynamoDb(server) => {
                let table = server.table();
                dynamodb_support::create(&client(server.port), &table).await?;
                (table, server.port)
            }
        };
        Ok(Self { server, table, port })
    }

    /// Makes one more table of the same server.
    pub(crate) async fn another(&self) -> TestResult<Self> {
        Self::on(self.server).await
    }

    /// Makes a table of a server of the same kind that nobody else uses, and that keeps what it confirmed.
    pub(crate) async fn alone(&self) -> TestResult<Self> {
        const GONE: &str = "there was one a moment ago";
        // They end with the program.
        let server = match self.server {
            Server::Postgres(_) => {
                let setup = PostgresSetup { fsync: true, ..PostgresSetup::default() };
                Server::Postgres(Box::leak(Box::new(Postgres::start(&setup)?.ok_or(GONE)?)))
            }
            Server::MariaDb(_) => {
                let server = MariaDb::start(&MariaDbSetup::default())?.ok_or(GONE)?;
                Server::MariaDb(Box::leak(Box::new(server)))
            }
            Server::DynamoDb(_) => return Err("it forgets everything when it ends".into()),
        };
        Self::on(server).await
    }

    /// Opens the table by way of a port, with a pool of so many connections, each waited for so long, where there is one.
    pub(crate) async fn store_at(&self, port: u16, pool: usize, wait: Duration) -> TestResult<Arc<dyn Store>> {
        let address = self.table.replacen(&format!(":{}", self.port), &format!(":{port}"), 1);
        let address = format!("{address}?pool_size={pool}&pool_wait={}", wait.as_secs_f64());
        Ok(match self.server {
            Server::Postgres(_) => Arc::new(PostgresMetastore::connect(address.parse()?).await?),
            Server::MariaDb(_) => Arc::new(MysqlMetastore::connect(address.parse()?).await?),
            Server::DynamoDb(_) => {
                let options = dynamodb_support::options(&self.table);
                Arc::new(DynamoDbMetastore::from_client(client(port), options).await?)
            }
        })
    }

    /// Opens the table without a proxy.
    pub(crate) async fn store(&self) -> TestResult<Arc<dyn Store>> {
        self.store_at(self.port, 5, Duration::from_secs(5)).await
    }

    /// Takes the right to insert away, or gives it back.
    pub(crate) fn set_insertable(&self, insertable: bool) -> TestResult {
        let user = self.table.split(['/', '@']).nth(2).ok_or("the address names a user")?;
        let change = if insertable { "GRANT INSERT ON # TO" } else { "REVOKE INSERT ON # FROM" };
        let change = change.replace('#', &format!("{user}.encryption_key"));
        match self.server {
            Server::Postgres(server) => {
                server.sql("postgres", &format!("ALTER ROLE {user} NOSUPERUSER; {change} {user}"))?;
            }
            Server::MariaDb(server) => {
                server.sql(user, &format!("{change} {user}@'127.0.0.1'"))?;
            }
            Server::DynamoDb(_) => return Err("it knows no rights".into()),
        }
        Ok(())
    }

    pub(crate) fn kill(&self) -> TestResult {
        match self.server {
            Server::Postgres(server) => server.keeper.kill(),
            Server::MariaDb(server) => server.keeper.kill(),
            Server::DynamoDb(server) => server.keeper.kill(),
        }
    }

    pub(crate) fn start_again(&self) -> TestResult {
        match self.server {
            Server::Postgres(server) => server.start_again(),
            Server::MariaDb(server) => server.start_again(),
            Server::DynamoDb(_) => Err("it forgets everything when it ends".into()),
        }
    }
}

fn client(port: u16) -> aws_sdk_dynamodb::Client {
    dynamodb_support::client(&format!("http://127.0.0.1:{port}"), "us-west-2")
}

/// Whether a request stores an intermediate key: its record says what wraps it, in every protocol.
pub(crate) fn stores_a_key(request: &[u8]) -> bool {
    const FIELD: &[u8] = b"ParentKeyMeta";
    request.windows(FIELD.len()).any(|window| window == FIELD)
}

/// What a story may want otherwise.
pub(crate) struct Setup {
    pub(crate) pool: usize,
    pub(crate) pool_wait: Duration,
    pub(crate) retries: RetryPolicy,
    pub(crate) operation_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) clock: Option<Arc<ManualClock>>,
    pub(crate) replica: Option<Arc<dyn Store>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            pool: 5,
            pool_wait: Duration::from_secs(1),
            retries: RetryPolicy::default(),
            operation_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(2),
            clock: None,
            replica: None,
        }
    }
}

/// A factory over a proxy to a table, and what it measures.
pub(crate) struct World<'a> {
    backend: &'a Backend,
    pub(crate) proxy: Proxy,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) factory: SessionFactory,
    pub(crate) operation_timeout: Duration,
    meters: PrometheusHandle,
}

impl<'a> World<'a> {
    pub(crate) async fn new(backend: &'a Backend, change: impl FnOnce(&mut Setup)) -> TestResult<Self> {
        let mut setup = Setup::default();
        change(&mut setup);
        let proxy = Proxy::start(backend.port)?;
        let store = backend.store_at(proxy.port(), setup.pool, setup.pool_wait).await?;
        let mut builder = builder(Arc::clone(&store))?
            .metastore_retries(setup.retries)
            .operation_timeout(setup.operation_timeout)
            .metastore_timeout(setup.operation_timeout)
            .drain_timeout(setup.drain_timeout);
        if let Some(clock) = setup.clock {
            builder = builder.clock(clock);
        }
        if let Some(replica) = setup.replica {
            builder = builder.read_replica(replica);
        }
        let recorder = PrometheusBuilder::new().build_recorder();
        let meters = recorder.handle();
        let mut build = pin!(builder.build());
        let factory =
            poll_fn(|context| metrics::with_local_recorder(&recorder, || build.as_mut().poll(context))).await?;
        let operation_timeout = setup.operation_timeout;
        Ok(Self { backend, proxy, store, factory, operation_timeout, meters })
    }

    pub(crate) async fn encrypt(&self, partition: &str) -> Result<DataRowRecord, Error> {
        encrypt(&self.factory, partition).await
    }

    /// Returns a number that was measured, none yet being nothing.
    pub(crate) fn number(&self, name: &str) -> f64 {
        let scrape = self.meters.render();
        scrape.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Begins to encrypt for as many new partitions at once.
    pub(crate) fn crowd(&self, count: usize) -> Crowd {
        let done = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let (factory, done) = (self.factory.clone(), Arc::clone(&done));
            tasks.spawn(async move {
                let partition = format!("p{number}");
                let began = Instant::now();
                let record = encrypt(&factory, &partition).await;
                done.fetch_add(1, Ordering::SeqCst);
                Encrypted { partition, record, after: began.elapsed() }
            });
        }
        Crowd { tasks, done, count }
    }

    /// Encrypts for each until it works: the factory is not started again.
    pub(crate) async fn recover(&self, partitions: Vec<String>) -> TestResult<Records> {
        let mut records = Records::new();
        for partition in partitions {
            let mut record = None;
            let mut last = String::new();
            let heals = eventually("everything works again", async || {
                let outcome = self.encrypt(&partition).await;
                last = format!("{outcome:?}");
                record = outcome.ok();
                record.is_some()
            });
            heals.await.map_err(|error| format!("{error}: {last}"))?;
            records.push((partition, record.ok_or("it was encrypted")?));
        }
        Ok(records)
    }

    /// Checks, by a new factory and without the proxy, that all records decrypt and that no key is there twice.
    pub(crate) async fn check(&self, records: &Records) -> TestResult {
        assert!(!records.is_empty(), "nothing was encrypted");
        let store = self.backend.store().await?;
        let factory = builder(Arc::clone(&store))?.build().await?;
        for (partition, record) in records {
            let payload = factory.session(partition).await?.decrypt(record).await;
            let payload = payload.map_err(|error| format!("{partition}: {error:?}"))?;
            assert_eq!(payload, partition.as_bytes());
        }
        let mut ids = BTreeMap::new();
        for row in store.list(None, 100_000).await? {
            row.record?;
            *ids.entry(row.key.id).or_insert(0) += 1;
        }
        // Keys are truncated to a second here: whoever made one again would have stored it beside the first.
        ids.retain(|_, rows| *rows > 1);
        assert!(ids.is_empty(), "keys that are there twice: {ids:?}");
        factory.close().await?;
        Ok(())
    }

    pub(crate) async fn close(self) -> TestResult {
        Ok(self.factory.close().await?)
    }
}

pub(crate) type Records = Vec<(String, DataRowRecord)>;

/// Builds a factory whose keys are dated to the second.
pub(crate) fn builder(store: Arc<dyn Store>) -> TestResult<SessionFactoryBuilder> {
    let policy = CryptoPolicy { created_precision: Duration::ZERO, ..CryptoPolicy::default() };
    let kms = StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?;
    Ok(SessionFactory::builder("svc", "prod").metastore(store).kms(kms).policy(policy))
}

pub(crate) async fn encrypt(factory: &SessionFactory, partition: &str) -> Result<DataRowRecord, Error> {
    factory.session(partition).await?.encrypt(partition.as_bytes()).await
}

/// Tasks under way.
pub(crate) struct Crowd {
    tasks: JoinSet<Encrypted>,
    done: Arc<AtomicUsize>,
    count: usize,
}

/// What became of a partition.
pub(crate) struct Encrypted {
    partition: String,
    record: Result<DataRowRecord, Error>,
    after: Duration,
}

impl Crowd {
    /// Waits until some have ended and most have not.
    pub(crate) async fn middle(&self) -> TestResult {
        eventually("some are done", async || self.done.load(Ordering::SeqCst) >= self.count / 20).await
    }

    /// Waits for all; returns what was encrypted, and the partitions of those whose error is one that `passes`.
    pub(crate) async fn end(
        mut self,
        world: &World<'_>,
        passes: impl Fn(&Error) -> bool,
    ) -> TestResult<(Records, Vec<String>)> {
        let (mut records, mut failed) = (Records::new(), Vec::new());
        while let Some(ended) = self.tasks.join_next().await {
            let Encrypted { partition, record, after } = ended?;
            assert!(after < world.operation_timeout + Duration::from_secs(1), "{partition} took {after:?}");
            match record {
                Ok(record) => records.push((partition, record)),
                Err(error) => {
                    assert!(passes(&error), "{partition}: {error:?}");
                    failed.push(partition);
                }
            }
        }
        Ok((records, failed))
    }
}

/// Asks until it is so: for what others do in their own time.
pub(crate) async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) -> TestResult {
    let began = Instant::now();
    while !ask().await {
        if began.elapsed() > Duration::from_secs(30) {
            return Err(format!("never happened: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
