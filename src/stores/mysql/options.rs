//! How a MySQL or MariaDB server is reached.

use std::fmt;
use std::str::FromStr;

use crate::stores::sql_server::{AddressError, ReplicaConsistency, SqlServer};

/// How a [`MysqlMetastore`](super::MysqlMetastore) reaches its server.
///
/// Made from an address, `mysql://user:password@host:port/database?option=value` or `mariadb://…`, whose options are
/// those of [`SqlServer`] and `replica_read_consistency`; MySQL's own names of TLS options are taken too:
///
/// | option | value |
/// | --- | --- |
/// | `sslmode`, `ssl-mode` | `disable`, `prefer`, `require`, `verify-ca` or `verify-full`, see [`TlsMode`](crate::stores::TlsMode) |
/// | `sslrootcert`, `ssl-ca` | a PEM file of authorities |
/// | `sslcert`, `ssl-cert`; `sslkey`, `ssl-key` | PEM files of the client's certificate and key |
/// | `pool_size`, `pool_wait`, `connect_timeout` | see [`PoolSettings`](crate::stores::PoolSettings); times in seconds |
/// | `replica_read_consistency` | `eventual`, `session` or `global` |
///
/// # Defaults
/// * host 127.0.0.1, port 3306, no user, no password; a database must be named.
/// * those of [`TlsSettings`](crate::stores::TlsSettings) and [`PoolSettings`](crate::stores::PoolSettings).
/// * `replica_consistency`: left as the server has it; other servers than Aurora know no such thing.
///
/// # Examples
/// ```
/// use keyward::stores::{MysqlOptions, TlsMode};
///
/// let options: MysqlOptions = "mysql://keyward:s3cret@db.example/keys?sslmode=verify-ca".parse()?;
/// assert_eq!(options.server.tls.mode, Some(TlsMode::VerifyCa));
/// # Ok::<(), keyward::stores::AddressError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct MysqlOptions {
    /// Where the server is and how connections to it are made.
    pub server: SqlServer,
    /// What readers on a replica of Aurora MySQL with
    /// [write forwarding](https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora-mysql-write-forwarding.html)
    /// see; set on every connection.
    pub replica_consistency: Option<ReplicaConsistency>,
}

/// What [`AddressError::UnknownOption`] lists.
const KNOWN: &str = "sslmode, sslrootcert, sslcert, sslkey, pool_size, pool_wait, connect_timeout, \
    replica_read_consistency";

/// Where the server is, without the password.
impl fmt::Display for MysqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.server.place("mysql"))
    }
}

impl FromStr for MysqlOptions {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (server, others) = SqlServer::parse(text, &["mysql", "mariadb"])?;
        let mut options = Self { server, replica_consistency: None };
        for (name, value) in others {
            if name != "replica_read_consistency" {
                return Err(AddressError::UnknownOption { name, known: KNOWN });
            }
            options.replica_consistency = Some(value.parse()?);
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn addresses_of_both_schemes_are_read() {
        for scheme in ["mysql", "mariadb"] {
            let text = format!("{scheme}://al:p%40w@db:3307/keys?replica_read_consistency=GLOBAL&pool_size=2");
            let options: MysqlOptions = text.parse().unwrap();
            assert_eq!(options.replica_consistency, Some(ReplicaConsistency::Global));
            assert_eq!(options.server.pool.size, 2);
            assert_eq!(options.server.password.unwrap().expose_secret(), "p@w");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let refused = |text: &str| text.parse::<MysqlOptions>().map(|_| ()).unwrap_err();
        assert_eq!(refused("postgres://db/keys"), AddressError::Scheme);
        let unknown = AddressError::UnknownOption { name: "charset".into(), known: KNOWN };
        assert_eq!(refused("mysql://db/keys?charset=utf8"), unknown);
        let value = refused("mysql://db/keys?replica_read_consistency=strong");
        assert!(matches!(value, AddressError::Value { name: "replica_read_consistency", .. }), "{value}");
    }
}
