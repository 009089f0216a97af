//! MariaDB, as the tests of the store use it.

use std::sync::atomic::{AtomicUsize, Ordering};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

use crate::servers::{MariaDb, MariaDbSetup, TestResult};

/// Who may do everything, and a password that holds what addresses have a meaning for.
pub(crate) const USER: &str = "keyward";
pub(crate) const PASSWORD: &str = "p@ss%/w?o:r#d&";

/// The table as the other implementations describe it.
pub(crate) const UPSTREAM: &str = "CREATE TABLE encryption_key (id VARCHAR(255) NOT NULL, \
    created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, key_record TEXT NOT NULL, \
    PRIMARY KEY (id, created), INDEX (created))";

/// A server with a user of a name and a password.
pub(crate) struct Server {
    pub(crate) mariadb: MariaDb,
    databases: AtomicUsize,
}

impl Server {
    /// Starts a server in UTC with more arguments; `None` where there is none to start, which was said.
    pub(crate) fn start(arguments: &[&str]) -> TestResult<Option<Self>> {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self::start_as(&MariaDbSetup { arguments, ..MariaDbSetup::default() })
    }

    /// Starts a server.
    pub(crate) fn start_as(setup: &MariaDbSetup) -> TestResult<Option<Self>> {
        let Some(mariadb) = MariaDb::start(setup)? else { return Ok(None) };
        mariadb.sql("", &format!("GRANT ALL ON *.* TO '{USER}'@'%' IDENTIFIED BY '{PASSWORD}'"))?;
        Ok(Some(Self { mariadb, databases: AtomicUsize::new(0) }))
    }

    /// Connects as an administrator, to a database when one is given.
    pub(crate) async fn root(&self, database: &str) -> TestResult<Conn> {
        let socket = self.socket();
        let database = Some(database).filter(|database| !database.is_empty());
        Ok(Conn::new(OptsBuilder::default().user(Some("root")).socket(Some(socket)).db_name(database)).await?)
    }

    /// Makes a database, with a table when one is given; returns its name.
    pub(crate) async fn database(&self, table: &str) -> TestResult<String> {
        let name = format!("keys_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut root = self.root("").await?;
        root.query_drop(format!("CREATE DATABASE {name}")).await?;
        if !table.is_empty() {
            root.query_drop(format!("USE {name}")).await?;
            root.query_drop(table).await?;
        }
        root.disconnect().await?;
        Ok(name)
    }

    /// Returns the address of a database.
    pub(crate) fn address(&self, database: &str) -> String {
        format!("mysql://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port())
    }

    pub(crate) fn port(&self) -> u16 {
        self.mariadb.port
    }

    pub(crate) fn socket(&self) -> String {
        self.mariadb.keeper.path().join("socket").display().to_string()
    }
}
