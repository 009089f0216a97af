//! MariaDB.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Keeper, TestResult, again_where_the_port_is_taken, find, free_port, is_root, lacks, run, wait_until};

/// How a server is set up.
#[derive(Debug, Clone)]
pub(crate) struct MariaDbSetup {
    /// `--default-time-zone`.
    pub(crate) time_zone: &'static str,
    /// `--sql-mode`.
    pub(crate) sql_mode: &'static str,
    /// More arguments.
    pub(crate) arguments: Vec<String>,
}

impl Default for MariaDbSetup {
    fn default() -> Self {
        Self { time_zone: "+00:00", sql_mode: "STRICT_TRANS_TABLES", arguments: Vec::new() }
    }
}

/// A server; its user `root` has no password.
pub(crate) struct MariaDb {
    pub(crate) keeper: Keeper,
    pub(crate) port: u16,
    databases: AtomicUsize,
}

impl MariaDb {
    /// Starts a server.
    pub(crate) fn start(setup: &MariaDbSetup) -> TestResult<Option<Self>> {
        again_where_the_port_is_taken(|| Self::start_once(setup))
    }

    fn start_once(setup: &MariaDbSetup) -> TestResult<Option<Self>> {
        if lacks("mariadb") {
            return Ok(None);
        }
        let folder = Keeper::folder()?;
        if is_root() {
            run(Command::new("chown").arg("mysql").arg(&folder))?;
        }
        let data = format!("--datadir={}", folder.join("data").display());
        let user: &[&str] = if is_root() { &["--user=mysql"] } else { &[] };
        let install = find("mariadb-install-db", &[], "apt install mariadb-server")?;
        // Servers that start at once take each other's temporary tables for their own.
        run(Command::new(install)
            .env("TMPDIR", &folder)
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", &data])
            .args(user))?;
        let server = find("mariadbd", &["/usr/sbin".into()], "apt install mariadb-server")?;
        let port = free_port()?;
        let mut command = Command::new(&server);
        command.env("TMPDIR", &folder);
        command.args(["--no-defaults", &data, "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin"]);
        command.arg(format!("--socket={}", folder.join("socket").display())).arg(format!("--port={port}"));
        command.arg(format!("--default-time-zone={}", setup.time_zone)).arg(format!("--sql-mode={}", setup.sql_mode));
        // What was committed outlasts the process, not the machine.
        command.args(["--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=32M", "--max-connections=400"]);
        command.args(user).args(&setup.arguments);
        let server = Self { keeper: Keeper::start(&folder, "KILL", &command)?, port, databases: AtomicUsize::new(0) };
        server.wait().map_err(|error| format!("{error}: {}", server.keeper.log()))?;
        Ok(Some(server))
    }

    /// Starts it again after it was killed, on the same port and data.
    pub(crate) fn start_again(&self) -> TestResult {
        self.keeper.start_again()?;
        self.wait()
    }

    fn wait(&self) -> TestResult {
        wait_until("MariaDB's start", || {
            if !self.keeper.is_alive() {
                return Err("MariaDB ended".into());
            }
            Ok(self.sql("", "SELECT 1").is_ok())
        })
    }

    /// Runs statements as `root`, over the socket, and returns what they print, columns apart by tabs.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> TestResult<String> {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-NB", "--default-character-set=utf8mb4", "-u", "root", "-S"]);
        run(client.arg(self.keeper.path().join("socket")).args(["-e", statements, "-D", database].iter().take(
            // Without a database at first.
            if database.is_empty() { 2 } else { 4 },
        )))
    }

    /// Makes a database with what `statements` make in it, and returns its name.
    pub(crate) fn database(&self, statements: &str) -> TestResult<String> {
        let name = format!("d{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("", &format!("CREATE DATABASE {name}"))?;
        if !statements.is_empty() {
            self.sql(&name, statements)?;
        }
        Ok(name)
    }

    /// Returns the address of a database over TCP, for `root`.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("mysql://root@127.0.0.1:{}/{database}", self.port)
    }
}
