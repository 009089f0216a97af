//! What speaks DynamoDB: moto, and dynalite as a second opinion.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Keeper, TestResult, again_where_the_port_is_taken, find, free_port, lacks, wait_until};

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `moto_server`, of the folder that `KEYWARD_TEST_PYTHON` names or of `PATH`.
    Moto,
    /// `dynalite`, of the folder that `KEYWARD_TEST_NODE` names or of `PATH`.
    Dynalite,
}

/// A server.
pub(crate) struct DynamoDb {
    pub(crate) keeper: Keeper,
    pub(crate) port: u16,
    tables: AtomicUsize,
}

impl DynamoDb {
    /// Returns the server of this program that everybody uses.
    pub(crate) fn shared(kind: Kind) -> TestResult<Option<&'static Self>> {
        type Shared = OnceLock<Result<Option<DynamoDb>, String>>;
        static MOTO: Shared = OnceLock::new();
        static DYNALITE: Shared = OnceLock::new();
        let shared = if kind == Kind::Moto { &MOTO } else { &DYNALITE };
        let shared = shared.get_or_init(|| Self::start(kind).map_err(|error| error.to_string()));
        Ok(shared.as_ref().map_err(String::clone)?.as_ref())
    }

    /// Starts a server.
    pub(crate) fn start(kind: Kind) -> TestResult<Option<Self>> {
        again_where_the_port_is_taken(|| Self::start_once(kind))
    }

    fn start_once(kind: Kind) -> TestResult<Option<Self>> {
        let (name, variable, program, remedy) = match kind {
            Kind::Moto => ("moto", "KEYWARD_TEST_PYTHON", "moto_server", "pip install 'moto[server]'"),
            Kind::Dynalite => ("dynalite", "KEYWARD_TEST_NODE", "dynalite", "npm install dynalite"),
        };
        if lacks(name) {
            return Ok(None);
        }
        let folders: Vec<PathBuf> = std::env::var_os(variable).into_iter().map(PathBuf::from).collect();
        let program = find(program, &folders, remedy)?;
        let folder = Keeper::folder()?;
        let port = free_port()?;
        let mut command = Command::new(&program);
        match kind {
            Kind::Moto => command.args(["-H", "127.0.0.1", "-p", &port.to_string()]),
            Kind::Dynalite => {
                command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--createTableMs", "0"])
            }
        };
        let keeper = Keeper::start(&folder, "KILL", &command)?;
        let server = Self { keeper, port, tables: AtomicUsize::new(0) };
        wait_until("the start of DynamoDB", || server.answers())
            .map_err(|error| format!("{error}: {}", server.keeper.log()))?;
        Ok(Some(server))
    }

    fn answers(&self) -> TestResult<bool> {
        if !self.keeper.is_alive() {
            return Err("the server ended".into());
        }
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
            stream.read(&mut [0; 16])
        };
        Ok(ask().is_ok_and(|bytes: usize| bytes > 0))
    }

    /// Returns where it is.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns a name that no table has.
    pub(crate) fn table(&self) -> String {
        format!("keys{}", self.tables.fetch_add(1, Ordering::Relaxed))
    }
}
