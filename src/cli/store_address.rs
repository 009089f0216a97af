//! What `--store` names.

use std::fmt;
use std::path::PathBuf;

#[cfg(any(feature = "dynamodb", feature = "mysql", feature = "postgres"))]
use keyward::stores::AddressError;
#[cfg(feature = "dynamodb")]
use keyward::stores::DynamoDbOptions;
#[cfg(feature = "mysql")]
use keyward::stores::MysqlOptions;
#[cfg(feature = "postgres")]
use keyward::stores::PostgresOptions;
use secrecy::SecretString;
use serde::Deserialize;

/// Where keys are stored. `Debug` and `Display` show no password.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum StoreAddress {
    /// In this process, for as long as it runs.
    Memory,
    /// In a SQLite file.
    Sqlite(PathBuf),
    /// In PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(Box<PostgresOptions>),
    /// In MySQL or MariaDB.
    #[cfg(feature = "mysql")]
    Mysql(Box<MysqlOptions>),
    /// In DynamoDB.
    #[cfg(feature = "dynamodb")]
    DynamoDb(Box<DynamoDbOptions>),
}

/// Why a text names no store. Never repeats what may be a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StoreAddressError {
    #[cfg(not(all(feature = "dynamodb", feature = "mysql", feature = "postgres")))]
    #[error("the store {0:?} is not in this build; build it with --features full")]
    NotBuilt(&'static str),
    #[error(
        "not the name of a store, which is sqlite:PATH, postgres://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE, \
         dynamodb:TABLE?region=REGION or memory"
    )]
    Unknown,
    #[error("`sqlite:` must be followed by the path of a file")]
    NoPath,
    #[cfg(any(feature = "dynamodb", feature = "mysql", feature = "postgres"))]
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl std::str::FromStr for StoreAddress {
    type Err = StoreAddressError;

    fn from_str(text: &str) -> Result<Self, StoreAddressError> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        match scheme {
            "memory" if scheme == text => Ok(Self::Memory),
            "sqlite" if rest.is_empty() => Err(StoreAddressError::NoPath),
            "sqlite" => Ok(Self::Sqlite(rest.into())),
            "postgres" | "postgresql" => postgres(text),
            "mysql" | "mariadb" => mysql(text),
            "dynamodb" => dynamodb(text),
            _ => Err(StoreAddressError::Unknown),
        }
    }
}

#[cfg(feature = "postgres")]
fn postgres(text: &str) -> Result<StoreAddress, StoreAddressError> {
    Ok(StoreAddress::Postgres(Box::new(text.parse()?)))
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &str) -> Result<StoreAddress, StoreAddressError> {
    Err(StoreAddressError::NotBuilt("postgres"))
}

#[cfg(feature = "mysql")]
fn mysql(text: &str) -> Result<StoreAddress, StoreAddressError> {
    Ok(StoreAddress::Mysql(Box::new(text.parse()?)))
}

#[cfg(not(feature = "mysql"))]
fn mysql(_: &str) -> Result<StoreAddress, StoreAddressError> {
    Err(StoreAddressError::NotBuilt("mysql"))
}

#[cfg(feature = "dynamodb")]
fn dynamodb(text: &str) -> Result<StoreAddress, StoreAddressError> {
    Ok(StoreAddress::DynamoDb(Box::new(text.parse()?)))
}

#[cfg(not(feature = "dynamodb"))]
fn dynamodb(_: &str) -> Result<StoreAddress, StoreAddressError> {
    Err(StoreAddressError::NotBuilt("dynamodb"))
}

impl StoreAddress {
    /// Returns the place of the password, where the store has passwords.
    fn password(&mut self) -> Option<&mut Option<SecretString>> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(options) => Some(&mut options.server.password),
            #[cfg(feature = "mysql")]
            Self::Mysql(options) => Some(&mut options.server.password),
            _ => None,
        }
    }

    /// Whether the address holds a password.
    pub(super) fn has_password(&self) -> bool {
        self.clone().password().is_some_and(|password| password.is_some())
    }

    /// Puts a password in that was given apart from the address; `false` when the store has none.
    pub(super) fn set_password(&mut self, secret: SecretString) -> bool {
        self.password().map(|password| *password = Some(secret)).is_some()
    }
}

/// Without anything that may be a password; paths are absolute.
impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Sqlite(path) => {
                write!(f, "sqlite:{}", std::path::absolute(path).as_deref().unwrap_or(path).display())
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(options) => options.fmt(f),
            #[cfg(feature = "mysql")]
            Self::Mysql(options) => options.fmt(f),
            #[cfg(feature = "dynamodb")]
            Self::DynamoDb(options) => options.fmt(f),
        }
    }
}

impl TryFrom<String> for StoreAddress {
    type Error = StoreAddressError;

    fn try_from(text: String) -> Result<Self, StoreAddressError> {
        zeroize::Zeroizing::new(text).parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_by_scheme() {
        let shown = |text: &str| text.parse::<StoreAddress>().map(|address| address.to_string());
        assert_eq!(shown("memory").as_deref(), Ok("memory"));
        assert!(shown("sqlite:/a:b.db").is_ok_and(|shown| shown.ends_with("/a:b.db")));
        let cases = [
            ("sqlite:", StoreAddressError::NoPath),
            ("memory:x", StoreAddressError::Unknown),
            ("keys.db", StoreAddressError::Unknown),
            ("", StoreAddressError::Unknown),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text), Err(expected), "{text}");
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn passwords_are_kept_and_not_shown() {
        let mut address: StoreAddress = "postgres://alice:hunter2@db/keys".parse().unwrap();
        assert!(address.has_password());
        assert_eq!(address.to_string(), "postgres://alice@db/keys");
        assert!(!format!("{address:?}").contains("hunter2"));
        assert!(address.set_password("other".to_owned().into()) && address.has_password());
        assert!(!StoreAddress::Memory.set_password("other".to_owned().into()));
    }
}
