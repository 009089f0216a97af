//! The options that all subcommands share, each with its environment variable and its key in the configuration file.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use keyward::memory::MemoryPolicy;
use secrecy::SecretString;
use serde::Deserialize;
use tracing_subscriber::filter::LevelFilter;

use super::kms_address::KmsAddress;
use super::quiet::Quiet;
use super::store_address::StoreAddress;

/// What was given in one place: the command line with the environment, or the configuration file.
#[derive(Args, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Settings {
    /// Service, as it stands in key ids [default: keyward]
    #[arg(long, global = true, env = "KEYWARD_SERVICE", value_name = "NAME")]
    pub(super) service: Option<String>,
    /// Product, as it stands in key ids [default: default]
    #[arg(long, global = true, env = "KEYWARD_PRODUCT", value_name = "NAME")]
    pub(super) product: Option<String>,
    /// Where keys are stored: sqlite:PATH, postgres://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE,
    /// dynamodb:TABLE?region=REGION, or memory, which ends with the command [default: sqlite:keyward.db]
    #[arg(long, global = true, env = "KEYWARD_STORE", value_name = "STORE", hide_env_values = true,
        value_parser = Quiet::<StoreAddress>::new())]
    pub(super) store: Option<StoreAddress>,
    /// A file that holds the password of the store, when it is not in --store; a line break at its end does not count
    #[arg(long, global = true, env = "KEYWARD_STORE_PASSWORD_FILE", value_name = "FILE")]
    pub(super) store_password_file: Option<PathBuf>,
    /// The password of the store: meant for the environment, where other users do not see it
    #[arg(
        long,
        global = true,
        env = "KEYWARD_STORE_PASSWORD",
        value_name = "PASSWORD",
        hide = true,
        hide_env_values = true,
        conflicts_with = "store_password_file"
    )]
    pub(super) store_password: Option<SecretString>,
    /// A copy of the store that is near: keys are looked for there first; a store as in --store
    #[arg(long, global = true, env = "KEYWARD_READ_REPLICA", value_name = "STORE", hide_env_values = true,
        value_parser = Quiet::<StoreAddress>::new())]
    pub(super) read_replica: Option<StoreAddress>,
    /// Region suffixes of key ids whose records may be read, beside those of the store's own region and without: NAME,NAME
    #[arg(long, global = true, env = "KEYWARD_READABLE_SUFFIXES", value_name = "NAMES")]
    pub(super) readable_suffixes: Option<Suffixes>,
    /// The master key: local:PATH, a file made on first use with mode 0600; aws:REGION=ARN,REGION=ARN;preferred=REGION, keys of
    /// AWS KMS; vault:https://HOST:PORT/KEY, a Transit key of Vault or OpenBao; sealed:PATH, a file that a
    /// passphrase opens; or static:HEX, 64 hex digits for tests
    /// [default: local:keyward.key]
    #[arg(long, global = true, env = "KEYWARD_KMS", value_name = "KMS", hide_env_values = true, 
        value_parser = Quiet::<KmsAddress>::new())]
    pub(super) kms: Option<KmsAddress>,
    /// A file that holds the token which Vault takes, read again when it has ended; or put the token into KEYWARD_KMS_TOKEN
    #[arg(long, global = true, env = "KEYWARD_KMS_TOKEN_FILE", value_name = "FILE")]
    pub(super) kms_token_file: Option<PathBuf>,
    /// The token which Vault takes: meant for the environment, where other users do not see it
    #[arg(
        long,
        global = true,
        env = "KEYWARD_KMS_TOKEN",
        value_name = "TOKEN",
        hide = true,
        hide_env_values = true,
        conflicts_with = "kms_token_file"
    )]
    pub(super) kms_token: Option<SecretString>,
    /// A file that holds the secret id which Vault takes of an AppRole, read again at each login; or KEYWARD_KMS_SECRET_ID
    #[arg(long, global = true, env = "KEYWARD_KMS_SECRET_ID_FILE", value_name = "FILE")]
    pub(super) kms_secret_id_file: Option<PathBuf>,
    /// That secret id: meant for the environment, where other users do not see it
    #[arg(
        long,
        global = true,
        env = "KEYWARD_KMS_SECRET_ID",
        value_name = "SECRET",
        hide = true,
        hide_env_values = true,
        conflicts_with = "kms_secret_id_file"
    )]
    pub(super) kms_secret_id: Option<SecretString>,
    /// A file that holds the passphrase of a sealed master key; a line break at its end does not count; or
    /// KEYWARD_KMS_PASSPHRASE
    #[arg(long, global = true, env = "KEYWARD_KMS_PASSPHRASE_FILE", value_name = "FILE")]
    pub(super) kms_passphrase_file: Option<PathBuf>,
    /// The passphrase of a sealed master key: meant for the environment, where other users do not see it
    #[arg(
        long,
        global = true,
        env = "KEYWARD_KMS_PASSPHRASE",
        value_name = "PASSPHRASE",
        hide = true,
        hide_env_values = true,
        conflicts_with = "kms_passphrase_file"
    )]
    pub(super) kms_passphrase: Option<SecretString>,
    /// How long a key encrypts; it decrypts for ever [default: 90d]
    #[arg(long, global = true, env = "KEYWARD_EXPIRE_AFTER", value_name = "TIME")]
    pub(super) expire_after: Option<Span>,
    /// How soon a revocation is noticed [default: 60m]
    #[arg(long, global = true, env = "KEYWARD_REVOKE_CHECK", value_name = "TIME")]
    pub(super) revoke_check: Option<Span>,
    /// What creation times of keys are truncated to [default: 1m]
    #[arg(long, global = true, env = "KEYWARD_CREATE_PRECISION", value_name = "TIME")]
    pub(super) create_precision: Option<Span>,
    /// The largest payload: bytes, or with a suffix K, M or G (powers of 1024) [default: 256M]
    #[arg(long, global = true, env = "KEYWARD_MAX_PAYLOAD", value_name = "SIZE")]
    pub(super) max_payload: Option<Size>,
    /// What happens when a protection of keys in memory is not to be had: strict refuses to start, relaxed warns; see
    /// `keyward doctor` [default: strict]
    #[arg(long, global = true, env = "KEYWARD_MEMORY_POLICY", value_name = "POLICY")]
    pub(super) memory_policy: Option<Policy>,
    /// How much memory is locked for keys: bytes, or with a suffix K, M or G; less where the lock limit is lower
    /// [default: 2M]
    #[arg(long, global = true, env = "KEYWARD_MEMORY_SIZE", value_name = "SIZE")]
    pub(super) memory_size: Option<Size>,
    /// Refuse to start unless keys stand in memory that the kernel hides from all other processes [default: false]
    #[arg(long, global = true, env = "KEYWARD_REQUIRE_MEMFD_SECRET", value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_missing_value = "true")]
    pub(super) require_memfd_secret: Option<bool>,
    /// What is logged to stderr: off, error, warn, info, debug or trace [default: warn]
    #[arg(long, global = true, env = "KEYWARD_LOG", value_name = "LEVEL")]
    pub(super) log: Option<Level>,
}

impl Settings {
    /// Leaves the store's password out.
    pub(super) fn without_password(self) -> Self {
        Self { store_password: None, store_password_file: None, ..self }
    }

    /// Fills what is not given from `other`.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            service: self.service.or(other.service),
            product: self.product.or(other.product),
            store: self.store.or(other.store),
            store_password_file: self.store_password_file.or(other.store_password_file),
            store_password: self.store_password.or(other.store_password),
            read_replica: self.read_replica.or(other.read_replica),
            readable_suffixes: self.readable_suffixes.or(other.readable_suffixes),
            kms: self.kms.or(other.kms),
            kms_token_file: self.kms_token_file.or(other.kms_token_file),
            kms_token: self.kms_token.or(other.kms_token),
            kms_secret_id_file: self.kms_secret_id_file.or(other.kms_secret_id_file),
            kms_secret_id: self.kms_secret_id.or(other.kms_secret_id),
            kms_passphrase_file: self.kms_passphrase_file.or(other.kms_passphrase_file),
            kms_passphrase: self.kms_passphrase.or(other.kms_passphrase),
            expire_after: self.expire_after.or(other.expire_after),
            revoke_check: self.revoke_check.or(other.revoke_check),
            create_precision: self.create_precision.or(other.create_precision),
            max_payload: self.max_payload.or(other.max_payload),
            memory_policy: self.memory_policy.or(other.memory_policy),
            memory_size: self.memory_size.or(other.memory_size),
            require_memfd_secret: self.require_memfd_secret.or(other.require_memfd_secret),
            log: self.log.or(other.log),
        }
    }
}

/// A duration as people write it: `90d`, `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Span(pub(super) Duration);

impl std::str::FromStr for Span {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Self)
    }
}

impl TryFrom<String> for Span {
    type Error = humantime::DurationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A number of bytes: `65536`, `64K`, `64M`, `1G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SizeText")]
pub(super) struct Size(pub(super) usize);

/// Why a text is no [`Size`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a size is a number of bytes, or one with a suffix K, M or G")]
pub(super) struct SizeError;

/// A size in a configuration file may be a number.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a size is a number of bytes, or a text like \"64M\"")]
enum SizeText {
    Bytes(usize),
    Text(String),
}

impl TryFrom<SizeText> for Size {
    type Error = SizeError;

    fn try_from(text: SizeText) -> Result<Self, SizeError> {
        match text {
            SizeText::Bytes(bytes) => Ok(Self(bytes)),
            SizeText::Text(text) => text.parse(),
        }
    }
}

impl std::str::FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit: usize = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 1,
            "K" | "KB" | "KIB" => 1 << 10,
            "M" | "MB" | "MIB" => 1 << 20,
            "G" | "GB" | "GIB" => 1 << 30,
            _ => return Err(SizeError),
        };
        let count: usize = digits.trim_end().parse().map_err(|_| SizeError)?;
        count.checked_mul(unit).map(Self).ok_or(SizeError)
    }
}

/// Region suffixes, apart by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Suffixes(pub(super) Vec<String>);

/// Why a text is no list of [`Suffixes`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("suffixes are names of regions, apart by commas: us-west-2,eu-west-1")]
pub(super) struct SuffixesError;

impl std::str::FromStr for Suffixes {
    type Err = SuffixesError;

    fn from_str(text: &str) -> Result<Self, SuffixesError> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) { Err(SuffixesError) } else { Ok(Self(names)) }
    }
}

impl TryFrom<String> for Suffixes {
    type Error = SuffixesError;

    fn try_from(text: String) -> Result<Self, SuffixesError> {
        text.parse()
    }
}

/// A policy for secret memory: `strict` or `relaxed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Policy(pub(super) MemoryPolicy);

/// Why a text is no [`Policy`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a memory policy is strict or relaxed")]
pub(super) struct PolicyError;

impl std::str::FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text.to_ascii_lowercase().as_str() {
            "strict" => Ok(Self(MemoryPolicy::Strict)),
            "relaxed" => Ok(Self(MemoryPolicy::Relaxed)),
            _ => Err(PolicyError),
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Level(pub(super) LevelFilter);

/// Why a text is no [`Level`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a level is one of off, error, warn, info, debug, trace")]
pub(super) struct LevelError;

impl std::str::FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, LevelError> {
        match text.to_ascii_lowercase().as_str() {
            "off" => Ok(Self(LevelFilter::OFF)),
            "error" => Ok(Self(LevelFilter::ERROR)),
            "warn" => Ok(Self(LevelFilter::WARN)),
            "info" => Ok(Self(LevelFilter::INFO)),
            "debug" => Ok(Self(LevelFilter::DEBUG)),
            "trace" => Ok(Self(LevelFilter::TRACE)),
            _ => Err(LevelError),
        }
    }
}

impl TryFrom<String> for Level {
    type Error = LevelError;

    fn try_from(text: String) -> Result<Self, LevelError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_apart_by_commas() {
        let names = |names: &[&str]| Ok(Suffixes(names.iter().map(|&name| name.to_owned()).collect()));
        assert_eq!("us-west-2, eu-west-1".parse(), names(&["us-west-2", "eu-west-1"]));
        for text in ["", ",", "us-west-2,"] {
            assert_eq!(text.parse::<Suffixes>(), Err(SuffixesError), "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes_with_or_without_a_binary_suffix() {
        let cases =
            [("0", 0), ("65536", 65_536), ("1k", 1024), ("64M", 64 << 20), ("64 MiB", 64 << 20), ("2G", 2 << 30)];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "1X", "99999999999999999999", "99999999999G"] {
            assert_eq!(text.parse::<Size>(), Err(SizeError), "{text}");
        }
    }
}
