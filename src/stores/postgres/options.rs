//! What can be set, and the address that says it.

use std::fmt;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

use crate::stores::{AddressError, ReplicaConsistency, SqlServer, TlsMode};

/// How long a connection that says nothing is waited for before the kernel asks whether the server is there.
const IDLE: Duration = Duration::from_secs(30);

/// How long the server works on a statement. A call that is given up leaves its statement behind, waiting for a lock perhaps,
/// and its connection with it.
const STATEMENT: Duration = Duration::from_secs(10);

/// How long sent bytes may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// How a [`PostgresMetastore`](super::PostgresMetastore) connects.
///
/// An address says the same: `postgres://user:password@host:5432/database?option=value`, with several hosts where there
/// are several servers. The password may hold any character as it is; `%40` stands for `@` anywhere. Options are
/// `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `pool_size`, `pool_wait`, `connect_timeout` (in seconds),
/// `application_name`, `target_session_attrs`, `prepared_statements` and `replica_read_consistency`.
///
/// # Defaults
/// * `server`: those of [`SqlServer`]: its certificate is verified unless it is on this machine.
/// * `prepared_statements` true: each statement is parsed once per connection. A pooler that gives a connection to another
///   client after each transaction, as pgbouncer does in transaction mode, may need false.
/// * `writable_only` false: the first host that answers is taken. With several hosts of which one is the primary: true
///   (`target_session_attrs=read-write`).
/// * `replica_consistency` none: for Aurora alone.
/// * `application_name` `keyward`: it stands in `pg_stat_activity`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PostgresOptions {
    /// Where the server is.
    pub server: SqlServer,
    /// Whether statements are prepared under a name.
    pub prepared_statements: bool,
    /// Whether hosts that only read are passed over.
    pub writable_only: bool,
    /// What an Aurora replica with write forwarding waits for before it reads
    /// ([`apg_write_forward.consistency_mode`](https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora-global-database-write-forwarding-apg.html)).
    pub replica_consistency: Option<ReplicaConsistency>,
    /// What the server calls the connections.
    pub application_name: String,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            server: SqlServer::default(),
            prepared_statements: true,
            writable_only: false,
            replica_consistency: None,
            application_name: "keyward".to_owned(),
        }
    }
}

const KNOWN: &str = "sslmode, sslrootcert, sslcert, sslkey, pool_size, pool_wait, connect_timeout, application_name, \
    target_session_attrs, prepared_statements, replica_read_consistency";

impl std::str::FromStr for PostgresOptions {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (server, others) = SqlServer::parse(text, &["postgres", "postgresql"])?;
        let mut options = Self { server, ..Self::default() };
        for (name, value) in others {
            match (name.as_str(), value.as_str()) {
                ("application_name", _) => options.application_name = value,
                ("target_session_attrs", "any") => options.writable_only = false,
                ("target_session_attrs", "read-write") => options.writable_only = true,
                ("target_session_attrs", _) => {
                    return Err(AddressError::Value { name: "target_session_attrs", expected: "any or read-write" });
                }
                ("prepared_statements", "true") => options.prepared_statements = true,
                ("prepared_statements", "false") => options.prepared_statements = false,
                ("prepared_statements", _) => {
                    return Err(AddressError::Value { name: "prepared_statements", expected: "true or false" });
                }
                ("replica_read_consistency", _) => options.replica_consistency = Some(value.parse()?),
                _ => return Err(AddressError::UnknownOption { name, known: KNOWN }),
            }
        }
        Ok(options)
    }
}

/// Where the server is, without the password.
impl fmt::Display for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.server.place("postgres"))
    }
}

impl PostgresOptions {
    /// Returns what the driver needs for each host, in their order.
    pub(super) fn configs(&self) -> Vec<Config> {
        let this_machine = [("localhost".to_owned(), None)];
        let hosts = if self.server.hosts.is_empty() { &this_machine[..] } else { &self.server.hosts[..] };
        hosts.iter().map(|(host, port)| self.config(host, *port)).collect()
    }

    fn config(&self, host: &str, port: Option<u16>) -> Config {
        let mut config = Config::new();
        config.host(host).port(port.unwrap_or(5432));
        if let Some(user) = &self.server.user {
            config.user(user);
        }
        if let Some(password) = &self.server.password {
            config.password(password.expose_secret());
        }
        if let Some(database) = &self.server.database {
            config.dbname(database);
        }
        let needs = if self.writable_only { TargetSessionAttrs::ReadWrite } else { TargetSessionAttrs::Any };
        config
            .application_name(&self.application_name)
            .target_session_attrs(needs)
            .keepalives_idle(IDLE)
            .keepalives_interval(IDLE / 3)
            .keepalives_retries(3)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .ssl_mode(match self.server.tls_mode() {
                TlsMode::Disable => SslMode::Disable,
                TlsMode::Prefer => SslMode::Prefer,
                TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
            });
        config
    }

    /// Returns what is said on every new connection.
    pub(super) fn greeting(&self) -> String {
        // Nothing that is sent afterwards depends on the zone; what others read in the session should not either.
        let mut greeting = format!("SET TIME ZONE 'UTC'; SET statement_timeout = {}", STATEMENT.as_millis());
        if let Some(consistency) = self.replica_consistency {
            greeting.push_str(&format!("; SET apg_write_forward.consistency_mode = '{consistency}'"));
        }
        greeting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_in_the_address() {
        let text = "postgres://alice@db/keys?prepared_statements=false&target_session_attrs=read-write\
            &replica_read_consistency=session&application_name=billing&pool_size=3";
        let options: PostgresOptions = text.parse().unwrap();
        assert!(!options.prepared_statements && options.writable_only);
        assert_eq!(options.application_name, "billing");
        assert_eq!(options.server.pool.size, 3);
        let greeting = "SET TIME ZONE 'UTC'; SET statement_timeout = 10000; \
            SET apg_write_forward.consistency_mode = 'session'";
        assert_eq!(options.greeting(), greeting);
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for option in ["sslmod=require", "prepared_statements=maybe", "replica_read_consistency=x';DROP", "x"] {
            let refused = format!("postgres://db/keys?{option}").parse::<PostgresOptions>();
            let expected = matches!(refused, Err(AddressError::UnknownOption { .. } | AddressError::Value { .. }));
            assert!(expected, "{option}: {refused:?}");
        }
    }
}
