//! pgbouncer, which lends its connections to a server for one transaction at a time.

use std::fs;
use std::process::Command;

use super::{Keeper, Postgres, TestResult, find, free_port, is_root, lacks, run, wait_until};

/// A pooler in transaction mode in front of one user of one database.
pub(crate) struct PgBouncer {
    pub(crate) keeper: Keeper,
    pub(crate) port: u16,
}

impl PgBouncer {
    /// Starts a pooler that has `size` connections to the database of an address, as its user.
    pub(crate) fn start(server: &Postgres, user: &str, database: &str, size: usize) -> TestResult<Option<Self>> {
        if lacks("pgbouncer") {
            return Ok(None);
        }
        let program = find("pgbouncer", &["/usr/sbin".into()], "apt install pgbouncer")?;
        let folder = Keeper::folder()?;
        let file = folder.join("pgbouncer.ini");
        loop {
            let port = free_port()?;
            fs::write(
                &file,
                format!(
                    "[databases]\npooled = host=127.0.0.1 port={} dbname={database} user={user}\n[pgbouncer]\n\
                     listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
                     pool_mode = transaction\ndefault_pool_size = {size}\nmax_client_conn = 500\n",
                    server.port
                ),
            )?;
            let mut command = if is_root() {
                run(Command::new("chown").arg("-R").arg("postgres").arg(&folder))?;
                let mut command = Command::new("setpriv");
                command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(&program);
                command
            } else {
                Command::new(&program)
            };
            command.arg(&file);
            let pooler = Self { keeper: Keeper::start(&folder, "KILL", &command)?, port };
            let started = wait_until("the start of pgbouncer", || {
                if !pooler.keeper.is_alive() {
                    return Err("pgbouncer ended".into());
                }
                Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
            });
            match started {
                Ok(()) => return Ok(Some(pooler)),
                // Somebody else has taken the port.
                Err(_) if pooler.keeper.log().contains("ddress already in use") => {}
                Err(error) => return Err(format!("{error}: {}", pooler.keeper.log()).into()),
            }
        }
    }

    /// Returns the address of the database behind it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://anybody@127.0.0.1:{}/pooled", self.port)
    }
}
