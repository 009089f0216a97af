//! MariaDB servers of the tests: real ones, each on a loopback port with its data in a temporary folder.

#![allow(dead_code, reason = "each suite uses a part")]

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tempfile::TempDir;

pub(crate) type TestResult<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Who may do everything, and a password that holds what addresses have a meaning for.
pub(crate) const USER: &str = "keyward";
pub(crate) const PASSWORD: &str = "p@ss%/w?o:r#d&";

/// The table as the other implementations describe it.
pub(crate) const UPSTREAM: &str = "CREATE TABLE encryption_key (id VARCHAR(255) NOT NULL, \
    created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, key_record TEXT NOT NULL, \
    PRIMARY KEY (id, created), INDEX (created))";

/// Stops the server when the other end of its input is closed, be it by the end of this process; then nothing is left.
const KEEPER: &str = r#""$0" "$@" </dev/null & server=$!
read -r word; kill -KILL $server; wait $server; [ "$word" = stay ] || rm -rf -- "$FOLDER""#;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// How a server is started.
#[derive(Default)]
pub(crate) struct Settings<'a> {
    pub(crate) options: &'a [&'a str],
    /// The time zone of its clocks.
    pub(crate) zone: &'a str,
}

/// A server that runs until it is dropped.
pub(crate) struct MariaDb {
    pub(crate) port: u16,
    folder: TempDir,
    options: Vec<String>,
    zone: String,
    keeper: Child,
}

impl MariaDb {
    /// Starts a server; `None` where there is none to start, which is said.
    pub(crate) async fn start(settings: Settings<'_>) -> TestResult<Option<Self>> {
        let Some(install) = program("mariadb-install-db") else {
            eprintln!("SKIP: this test needs mariadb-install-db and mariadbd (Debian: mariadb-server)");
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let mut installing = Command::new(install);
        installing.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        installing.env("TMPDIR", folder.path());
        let installed = installing.arg(own_user()?).arg(option("datadir", &folder.path().join("data"))).output()?;
        if !installed.status.success() {
            return Err(format!("mariadb-install-db: {}", String::from_utf8_lossy(&installed.stderr)).into());
        }
        let options: Vec<String> = settings.options.iter().map(|option| (*option).to_owned()).collect();
        // A port that was free may be taken by the time that the server binds it.
        for _attempt in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let mut keeper = spawn(folder.path(), port, &options, settings.zone)?;
            if let Some(mut root) = ready(folder.path(), &mut keeper).await? {
                root.query_drop(format!("GRANT ALL ON *.* TO '{USER}'@'%' IDENTIFIED BY '{PASSWORD}'")).await?;
                root.disconnect().await?;
                let zone = settings.zone.to_owned();
                return Ok(Some(Self { port, folder, options, zone, keeper }));
            }
        }
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        Err(format!("mariadbd does not start:\n{log}").into())
    }

    /// Kills the server.
    pub(crate) fn stop(&mut self) -> io::Result<()> {
        if let Some(mut input) = self.keeper.stdin.take() {
            writeln!(input, "stay")?;
        }
        self.keeper.wait().map(|_| ())
    }

    /// Starts it again, with its data and on its port.
    pub(crate) async fn start_again(&mut self) -> TestResult {
        self.stop()?;
        self.keeper = spawn(self.folder.path(), self.port, &self.options, &self.zone)?;
        let root = ready(self.folder.path(), &mut self.keeper).await?.ok_or("the server does not start again")?;
        Ok(root.disconnect().await?)
    }

    /// Connects as an administrator.
    pub(crate) async fn root(&self) -> TestResult<Conn> {
        Ok(connect(self.folder.path()).await?)
    }

    /// Makes a database, with a table when one is given; returns its name.
    pub(crate) async fn database(&self, table: &str) -> TestResult<String> {
        static DATABASES: AtomicUsize = AtomicUsize::new(0);
        let name = format!("keys_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut root = self.root().await?;
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
        format!("mysql://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Connects to a database as other programs do.
    pub(crate) async fn other(&self, database: &str) -> TestResult<Conn> {
        let mut root = self.root().await?;
        root.query_drop(format!("USE {database}")).await?;
        Ok(root)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn spawn(folder: &Path, port: u16, options: &[String], zone: &str) -> TestResult<Child> {
    let server = program("mariadbd").ok_or("there is mariadb-install-db and no mariadbd")?;
    let log = std::fs::File::create(folder.join("log"))?;
    let mut command = Command::new("sh");
    command.args(["-c", KEEPER]).arg(server);
    command.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin"]);
    // Servers are killed, machines are not: what was written is there, synced or not.
    command.args(["--innodb-flush-log-at-trx-commit=2", "--max-connections=1000", "--innodb-buffer-pool-size=32M"]);
    command.arg(own_user()?).arg(format!("--port={port}"));
    command.arg(option("datadir", &folder.join("data"))).arg(option("socket", &folder.join("s")));
    command.arg(option("pid-file", &folder.join("pid"))).args(options);
    command.env("FOLDER", folder).env("TMPDIR", folder);
    command.env("TZ", if zone.is_empty() { "UTC" } else { zone });
    Ok(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn()?)
}

/// Waits until the server answers; `None` when it ended instead.
async fn ready(folder: &Path, keeper: &mut Child) -> TestResult<Option<Conn>> {
    let until = Instant::now() + READY_WITHIN;
    while Instant::now() < until {
        if let Ok(conn) = connect(folder).await {
            return Ok(Some(conn));
        }
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        if log.contains("Aborting") || keeper.try_wait()?.is_some() {
            drop(keeper.stdin.take());
            keeper.wait()?;
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the server did not get ready".into())
}

async fn connect(folder: &Path) -> mysql_async::Result<Conn> {
    let socket = folder.join("s").display().to_string();
    Conn::new(OptsBuilder::default().user(Some("root")).socket(Some(socket))).await
}

/// The server is to run as whoever runs the tests, root included.
fn own_user() -> io::Result<String> {
    let name = Command::new("id").arg("-un").output()?.stdout;
    Ok(format!("--user={}", String::from_utf8_lossy(&name).trim()))
}

fn option(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// Finds a program where packages put it, on the PATH of users or beside it.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder: PathBuf| folder.join(name)).find(|file| file.is_file())
}
