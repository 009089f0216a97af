//! Where a SQL server is and how connections to it are made: what Postgres and MySQL have in common.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

pub(super) use super::address::AddressError;
use super::address::seconds;
use super::sql_url::SqlUrl;

/// Where a SQL server is and how connections to it are made.
///
/// `Debug` and `Display` show no password.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SqlServer {
    /// Names or addresses, tried in this order, with ports where they differ from the usual one. A name that begins with
    /// `/` is the folder of a Unix socket (Postgres) or the socket itself (MySQL).
    pub hosts: Vec<(String, Option<u16>)>,
    /// Who connects.
    pub user: Option<String>,
    /// Their password.
    pub password: Option<SecretString>,
    /// The database that holds the table `encryption_key`.
    pub database: Option<String>,
    /// Encryption of connections.
    pub tls: TlsSettings,
    /// How many connections there are, and how long they may take.
    pub pool: PoolSettings,
}

/// Encryption of connections.
///
/// # Defaults
/// * `mode`: [`TlsMode::VerifyFull`], so that nobody can stand in for the server; on this machine (loopback addresses,
///   `localhost`, Unix sockets) [`TlsMode::Prefer`], as nobody is in between.
/// * `authorities`: those that the system trusts.
/// * certificate and key: none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsSettings {
    /// Whether, and what is checked.
    pub mode: Option<TlsMode>,
    /// A PEM file of the certificate authorities to trust instead of the system's.
    pub authorities: Option<PathBuf>,
    /// A PEM file with the certificate that the client shows, and those between it and an authority.
    pub certificate: Option<PathBuf>,
    /// A PEM file with its private key.
    pub key: Option<PathBuf>,
}

/// Whether connections are encrypted, and what is checked of the server's certificate; the words of
/// [libpq](https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Not encrypted.
    Disable,
    /// Encrypted if the server can; nothing is checked.
    Prefer,
    /// Encrypted; nothing is checked, unless authorities are named: then as `VerifyCa`.
    Require,
    /// Encrypted; the certificate comes from an authority that is trusted.
    VerifyCa,
    /// Encrypted; the certificate comes from an authority that is trusted, and names the host.
    VerifyFull,
}

/// How many connections there are, and how long they may take.
///
/// # Defaults
/// * `size` 10: key calls are rare and short; the server has to bear the sum over all processes.
/// * `wait` 2 s, `connect` 2 s: within the 3 s that a factory gives an attempt, so that its error says what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolSettings {
    /// The most connections at once, at least 1.
    pub size: usize,
    /// How long a call waits for a free connection.
    pub wait: Duration,
    /// How long connecting may take.
    pub connect: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { size: 10, wait: Duration::from_secs(2), connect: Duration::from_secs(2) }
    }
}

/// How far readers of an Aurora replica that forwards writes see them; set on every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaConsistency {
    /// Perhaps not yet.
    Eventual,
    /// Those of the same connection.
    Session,
    /// All that were committed before.
    Global,
}

impl ReplicaConsistency {
    /// Returns its word in SQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eventual => "eventual",
            Self::Session => "session",
            Self::Global => "global",
        }
    }
}

impl SqlServer {
    /// Splits an address; returns with it the options that not all SQL servers have.
    pub(super) fn parse(text: &str, schemes: &[&str]) -> Result<(Self, Vec<(String, String)>), AddressError> {
        let url = SqlUrl::parse(text, schemes)?;
        let SqlUrl { user, password, hosts, database, options } = url;
        let mut server = Self { hosts, user, password, database, ..Self::default() };
        let mut others = Vec::new();
        for (name, value) in options {
            if !server.set(&name, &value)? {
                others.push((name, value));
            }
        }
        Ok((server, others))
    }

    /// Sets an option that all have; `false` when it is none of them.
    fn set(&mut self, name: &str, value: &str) -> Result<bool, AddressError> {
        match name {
            "sslmode" | "ssl-mode" => self.tls.mode = Some(TlsMode::parse(value)?),
            "sslrootcert" | "ssl-ca" => self.tls.authorities = Some(value.into()),
            "sslcert" | "ssl-cert" => self.tls.certificate = Some(value.into()),
            "sslkey" | "ssl-key" => self.tls.key = Some(value.into()),
            "pool_size" => {
                let expected = "a number from 1 to 10000";
                let size = value.parse().ok().filter(|size| (1..=10_000).contains(size));
                self.pool.size = size.ok_or(AddressError::Value { name: "pool_size", expected })?;
            }
            "pool_wait" => self.pool.wait = seconds("pool_wait", value)?,
            "connect_timeout" => self.pool.connect = seconds("connect_timeout", value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Returns the mode that is meant when none is given.
    pub(super) fn tls_mode(&self) -> TlsMode {
        match self.tls.mode {
            Some(TlsMode::Require) if self.tls.authorities.is_some() => TlsMode::VerifyCa,
            Some(mode) => mode,
            None if self.hosts.iter().all(|(host, _)| is_this_machine(host)) => TlsMode::Prefer,
            None => TlsMode::VerifyFull,
        }
    }

    /// Writes the address, without the password, with ports and options only where they were given.
    pub(super) fn place(&self, scheme: &str) -> String {
        let mut place = format!("{scheme}://");
        if let Some(user) = &self.user {
            place.extend([user, "@"]);
        }
        for (at, (host, port)) in self.hosts.iter().enumerate() {
            place.push_str(if at == 0 { "" } else { "," });
            place.push_str(&if host.contains(':') { format!("[{host}]") } else { host.clone() });
            place.extend(port.map(|port| format!(":{port}")));
        }
        place.extend(self.database.as_ref().map(|database| format!("/{database}")));
        place
    }
}

impl TlsMode {
    fn parse(text: &str) -> Result<Self, AddressError> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "disable" | "disabled" => Self::Disable,
            "prefer" | "preferred" => Self::Prefer,
            "require" | "required" => Self::Require,
            "verify-ca" | "verify_ca" => Self::VerifyCa,
            "verify-full" | "verify_full" | "verify_identity" => Self::VerifyFull,
            _ => {
                let expected = "one of disable, prefer, require, verify-ca, verify-full";
                return Err(AddressError::Value { name: "sslmode", expected });
            }
        })
    }
}

impl std::str::FromStr for ReplicaConsistency {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let all = [Self::Eventual, Self::Session, Self::Global];
        let known = all.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(text));
        let expected = "one of eventual, session, global";
        known.ok_or(AddressError::Value { name: "replica_read_consistency", expected })
    }
}

impl fmt::Display for ReplicaConsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_this_machine(host: &str) -> bool {
    host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Result<SqlServer, AddressError> {
        SqlServer::parse(text, &["postgres"]).map(|(server, _)| server)
    }

    #[test]
    fn the_certificate_is_verified_unless_the_server_is_on_this_machine() {
        let cases = [
            ("postgres://db.example/k", TlsMode::VerifyFull),
            ("postgres://db.example/k?sslmode=prefer", TlsMode::Prefer),
            ("postgres://db.example/k?sslmode=DISABLED", TlsMode::Disable),
            ("postgres://db.example/k?sslmode=require", TlsMode::Require),
            ("postgres://db.example/k?sslmode=require&sslrootcert=ca.pem", TlsMode::VerifyCa),
            ("postgres://127.0.0.1,db.example/k", TlsMode::VerifyFull),
            ("postgres://127.0.0.1,[::1],localhost,%2Frun/k", TlsMode::Prefer),
            ("postgres://10.0.0.1/k", TlsMode::VerifyFull),
        ];
        for (text, expected) in cases {
            assert_eq!(server(text).unwrap().tls_mode(), expected, "{text}");
        }
    }

    #[test]
    fn places_and_debug_texts_have_no_password() {
        let server = server("postgres://alice:hunter2@db:5433,[::1]/keys?pool_size=3&pool_wait=0.5").unwrap();
        assert_eq!(server.place("postgres"), "postgres://alice@db:5433,[::1]/keys");
        assert!(!format!("{server:?}").contains("hunter2"));
        assert_eq!((server.pool.size, server.pool.wait), (3, Duration::from_millis(500)));
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for option in ["pool_size=0", "pool_wait=0", "connect_timeout=inf", "connect_timeout=NaN", "sslmode=maybe"] {
            let refused = server(&format!("postgres://db/k?{option}")).map(|_| ());
            assert!(matches!(refused, Err(AddressError::Value { .. })), "{option}");
        }
    }
}
