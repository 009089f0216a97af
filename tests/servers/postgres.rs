//! PostgreSQL.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Keeper, TestResult, again_where_the_port_is_taken, find, free_port, is_root, lacks, run, wait_until};

/// How a server is set up.
#[derive(Debug, Clone, Default)]
pub(crate) struct PostgresSetup {
    /// The server's time zone; `UTC` by default.
    pub(crate) timezone: Option<&'static str>,
    /// Whether a commit waits for the disk.
    pub(crate) fsync: bool,
    /// Whether users other than over the socket give a password.
    pub(crate) passwords: bool,
    /// Lines of its configuration file.
    pub(crate) lines: Vec<String>,
    /// Files that are copied to its folder, with the names that `lines` use.
    pub(crate) files: Vec<(PathBuf, &'static str)>,
}

/// A server; its superuser is `postgres`.
pub(crate) struct Postgres {
    pub(crate) keeper: Keeper,
    pub(crate) port: u16,
    databases: AtomicUsize,
}

impl Postgres {
    /// Returns the server of this program that everybody uses, with times in UTC and no passwords.
    pub(crate) fn shared() -> TestResult<Option<&'static Self>> {
        static SHARED: OnceLock<Result<Option<Postgres>, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::start(&PostgresSetup::default()).map_err(|error| error.to_string()));
        Ok(shared.as_ref().map_err(String::clone)?.as_ref())
    }

    /// Starts a server.
    pub(crate) fn start(setup: &PostgresSetup) -> TestResult<Option<Self>> {
        again_where_the_port_is_taken(|| Self::start_once(setup))
    }

    fn start_once(setup: &PostgresSetup) -> TestResult<Option<Self>> {
        if lacks("postgresql") {
            return Ok(None);
        }
        let folder = Keeper::folder()?;
        let owner = is_root().then_some("postgres");
        if let Some(owner) = owner {
            run(Command::new("chown").arg(owner).arg(&folder))?;
        }
        let data = folder.join("data");
        let auth = if setup.passwords { "scram-sha-256" } else { "trust" };
        run(program("initdb", owner)?
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "--auth-local=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"])
            .arg(format!("--auth-host={auth}")))?;
        for (file, name) in &setup.files {
            fs::copy(file, data.join(name))?;
            if let Some(owner) = owner {
                run(Command::new("chown").arg(owner).arg(data.join(name)))?;
            }
            run(Command::new("chmod").arg("600").arg(data.join(name)))?;
        }
        let mut lines = setup.lines.clone();
        lines.push(format!("timezone = '{}'", setup.timezone.unwrap_or("UTC")));
        lines.push(format!("fsync = {}", setup.fsync));
        lines.push("max_connections = 300".to_owned());
        fs::write(data.join("extra.conf"), lines.join("\n") + "\n")?;
        let config = data.join("postgresql.conf");
        fs::write(&config, fs::read_to_string(&config)? + "\ninclude 'extra.conf'\n")?;
        if let Some(owner) = owner {
            run(Command::new("chown").arg(owner).arg(data.join("extra.conf")))?;
        }
        let port = free_port()?;
        let mut command = program("postgres", owner)?;
        command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-k"]);
        command.arg(&folder);
        let server = Self { keeper: Keeper::start(&folder, "QUIT", &command)?, port, databases: AtomicUsize::new(0) };
        server.wait().map_err(|error| format!("{error}: {}", server.keeper.log()))?;
        Ok(Some(server))
    }

    /// Starts it again after it was killed, on the same port and data.
    pub(crate) fn start_again(&self) -> TestResult {
        self.keeper.start_again()?;
        self.wait()
    }

    fn wait(&self) -> TestResult {
        wait_until("PostgreSQL's start", || {
            if !self.keeper.is_alive() {
                return Err("PostgreSQL ended".into());
            }
            Ok(self.sql("postgres", "SELECT 1").is_ok())
        })
    }

    /// Runs statements as the superuser, over the socket, and returns what they print, columns apart by `|`.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> TestResult<String> {
        let mut psql = Command::new("psql");
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]).arg(self.keeper.path());
        run(psql.args(["-p", &self.port.to_string(), "-d", database, "-c", statements]))
    }

    /// Makes a database with what `statements` make in it, and returns its name.
    pub(crate) fn database(&self, statements: &str) -> TestResult<String> {
        let name = format!("d{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        if !statements.is_empty() {
            self.sql(&name, statements)?;
        }
        Ok(name)
    }

    /// Returns the address of a database over TCP, for the superuser.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes such a table in a schema of its own, and returns the address by which a user of its own finds it: a schema is
    /// made faster than a database.
    pub(crate) fn table(&self, id: &str, created: &str, record: &str) -> TestResult<String> {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql(
            "postgres",
            &format!(
                "CREATE ROLE {name} SUPERUSER LOGIN; ALTER ROLE {name} SET search_path = {name}; \
                 CREATE SCHEMA {name} AUTHORIZATION {name}; \
                 CREATE TABLE {name}.encryption_key (id {id} NOT NULL, created {created} NOT NULL, \
                 key_record {record} NOT NULL, PRIMARY KEY (id, created)); \
                 ALTER TABLE {name}.encryption_key OWNER TO {name}"
            ),
        )?;
        Ok(format!("postgres://{name}@127.0.0.1:{}/postgres", self.port))
    }

    /// Makes the table that `keyward migrate` makes, and returns its address.
    pub(crate) fn new_table(&self) -> TestResult<String> {
        self.table("VARCHAR(255) COLLATE \"C\"", "TIMESTAMPTZ", "JSONB")
    }
}

/// A program of the server, run as `owner`.
fn program(name: &str, owner: Option<&str>) -> TestResult<Command> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    versions.sort();
    versions.reverse();
    let file = find(name, &versions, "apt install postgresql")?;
    Ok(match owner {
        None => Command::new(file),
        Some(owner) => {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={owner}")).arg(format!("--regid={owner}")).arg("--clear-groups").arg(file);
            command
        }
    })
}
