//! moto as a proxy for HTTPS: for clients of AWS that can be told of no endpoint, and go where the names of hosts lead them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Keeper, TestResult, again_where_the_port_is_taken, find, free_port, lacks, wait_until};

/// A proxy that answers for every service of AWS.
pub(crate) struct MotoProxy {
    pub(crate) keeper: Keeper,
    pub(crate) port: u16,
    /// The certificate of the authority that vouches for it.
    pub(crate) authority: PathBuf,
}

impl MotoProxy {
    /// Starts a proxy.
    pub(crate) fn start() -> TestResult<Option<Self>> {
        again_where_the_port_is_taken(Self::start_once)
    }

    fn start_once() -> TestResult<Option<Self>> {
        if lacks("moto") || lacks("openssl") {
            return Ok(None);
        }
        find("openssl", &[], "apt install openssl")?;
        let folders: Vec<PathBuf> = std::env::var_os("KEYWARD_TEST_PYTHON").into_iter().map(PathBuf::from).collect();
        let program = find("moto_proxy", &folders, "pip install 'moto[server]'")?;
        let authority = authority(&program).ok_or("moto_proxy has no certificate of its authority beside it")?;
        let folder = Keeper::folder()?;
        let port = free_port()?;
        let mut command = Command::new(&program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let proxy = Self { keeper: Keeper::start(&folder, "KILL", &command)?, port, authority };
        wait_until("the start of moto_proxy", || proxy.answers())
            .map_err(|error| format!("{error}: {}", proxy.keeper.log()))?;
        Ok(Some(proxy))
    }

    fn answers(&self) -> TestResult<bool> {
        if !self.keeper.is_alive() {
            return Err("moto_proxy ended".into());
        }
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
            stream.read(&mut [0; 16])
        };
        Ok(ask().is_ok_and(|bytes: usize| bytes > 0))
    }
}

/// Finds the certificate in the package that a program of a virtual environment belongs to.
fn authority(program: &std::path::Path) -> Option<PathBuf> {
    let versions = fs::read_dir(program.parent()?.parent()?.join("lib")).ok()?;
    let inside = versions.flatten().map(|version| version.path().join("site-packages/moto/moto_proxy/ca.crt"));
    inside.into_iter().find(|file| file.is_file())
}
