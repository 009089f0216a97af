//! Redis.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use super::{Keeper, TestResult, again_where_the_port_is_taken, find, free_port, lacks, wait_until};

/// A server that keeps an append-only file.
pub(crate) struct Redis {
    pub(crate) keeper: Keeper,
    pub(crate) port: u16,
}

impl Redis {
    /// Starts a server.
    pub(crate) fn start() -> TestResult<Option<Self>> {
        again_where_the_port_is_taken(Self::start_once)
    }

    fn start_once() -> TestResult<Option<Self>> {
        if lacks("redis") {
            return Ok(None);
        }
        let program = find("redis-server", &[], "apt install redis-server")?;
        let folder = Keeper::folder()?;
        let port = free_port()?;
        let mut command = Command::new(&program);
        command.args([
            "--bind",
            "127.0.0.1",
            "--databases",
            "200",
            "--port",
            &port.to_string(),
            "--appendonly",
            "yes",
            "--appendfsync",
        ]);
        command.args(["always", "--dir"]).arg(&folder);
        let server = Self { keeper: Keeper::start(&folder, "KILL", &command)?, port };
        wait_until("the start of Redis", || server.answers())
            .map_err(|error| format!("{error}: {}", server.keeper.log()))?;
        Ok(Some(server))
    }

    fn answers(&self) -> TestResult<bool> {
        if !self.keeper.is_alive() {
            return Err("Redis ended".into());
        }
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            Ok::<_, std::io::Error>(answer == *b"+PONG")
        };
        Ok(ask().unwrap_or(false))
    }
}
