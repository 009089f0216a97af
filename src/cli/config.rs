//! Flags, environment, file and defaults, settled.

use std::io;
use std::path::Path;

use keyward::memory::{ArenaSettings, Backend};
use keyward::{CryptoPolicy, IdError, KeyId};
use secrecy::SecretString;
use tracing_subscriber::filter::LevelFilter;

use super::error::Failure;
use super::kms_address::KmsAddress;
use super::kms_secrets::KmsSecrets;
use super::options::Common;
use super::settings::{Level, Settings};
use super::store_address::StoreAddress;

/// What a command runs with.
///
/// # Defaults
/// * service `keyward`, product `default`: a first trial needs neither; a service of one's own gives its own.
/// * store `sqlite:keyward.db`, master key `local:keyward.key`: in the current folder, made on first use.
/// * the policy is [`CryptoPolicy::default`], the largest payload 256 MiB: those of the library.
/// * secret memory is [`ArenaSettings::default`]: that of the library.
/// * log level `warn`.
pub(super) struct Config {
    pub(super) service: String,
    pub(super) product: String,
    pub(super) store: StoreAddress,
    /// Whether the password of the store stands in its address.
    pub(super) password_in_address: bool,
    pub(super) read_replica: Option<StoreAddress>,
    pub(super) readable_suffixes: Vec<String>,
    pub(super) kms: KmsAddress,
    pub(super) policy: CryptoPolicy,
    pub(super) max_payload: usize,
    pub(super) memory: ArenaSettings,
    pub(super) log: LevelFilter,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("cannot be read")]
    Read(#[source] io::Error),
    // Not the parser's own words for it: they quote the line, which may hold a key.
    #[error("line {line}: {message}")]
    Syntax { line: usize, message: String },
}

const MAX_PAYLOAD: usize = 256 << 20;

/// Bytes of a key id that every store holds.
const KEY_ID: usize = 255;

impl Config {
    /// Reads the configuration file, if one is named, and settles every option.
    ///
    /// # Errors
    /// [`Failure::Config`], and [`Failure::Open`] of a file that holds a secret.
    pub(super) fn load(common: Common) -> Result<Self, Failure> {
        let mut file = match &common.config {
            Some(path) => read(path).map_err(|source| Failure::Config { path: path.clone(), source })?,
            None => Settings::default(),
        };
        let mut given = common.settings;
        given.log = level(common.verbose).or(given.log);
        let kms_secrets = KmsSecrets::take(&mut given, &mut file);
        // A password that is given here takes precedence over a file's, whichever way either is given.
        let is_given = given.store_password.is_some() || given.store_password_file.is_some();
        let file = if is_given { file.without_password() } else { file };
        let mut settings = given.or(file);
        if let Some(path) = settings.store_password_file.take() {
            settings.store_password = Some(read_password(&path)?);
        }
        let password = settings.store_password.take();
        let mut config = Self::settle(settings);
        kms_secrets.give_to(&mut config.kms)?;
        if let Some(password) = password
            && !config.store.set_password(password)
        {
            // One that is set for all commands does those no harm that have another store.
            tracing::debug!("the store has no password: the one that is given is not used");
        }
        Ok(config)
    }

    /// Returns the id of this service's and product's system key, in a store whose ids end in `suffix`.
    pub(super) fn system_key(&self, suffix: Option<&str>) -> KeyId {
        KeyId::new(&with_suffix(format!("_SK_{}_{}", self.service, self.product), suffix))
    }

    /// Returns the id of a partition's intermediate key, in a store whose ids end in `suffix`.
    ///
    /// # Errors
    /// [`Failure::Partition`] when no partition can be called that.
    pub(super) fn intermediate_key(&self, partition: &str, suffix: Option<&str>) -> Result<KeyId, Failure> {
        let what = "partition id";
        if partition.is_empty() {
            return Err(Failure::Partition(IdError::Empty { what }));
        }
        if let Some((position, _)) = partition.char_indices().find(|(_, character)| character.is_control()) {
            return Err(Failure::Partition(IdError::ControlCharacter { what, position }));
        }
        let id = with_suffix(format!("_IK_{partition}_{}_{}", self.service, self.product), suffix);
        if id.len() > KEY_ID {
            return Err(Failure::Partition(IdError::TooLong { what, size: id.len(), limit: KEY_ID }));
        }
        Ok(KeyId::new(&id))
    }

    /// Returns the ids of all intermediate keys whose records a partition may read in a store: its own first, which ends in
    /// `suffix` where there is one, then the one without, and those of the readable suffixes.
    ///
    /// # Errors
    /// [`Failure::Partition`] when no partition can be called that.
    pub(super) fn intermediate_keys(&self, partition: &str, suffix: Option<&str>) -> Result<Vec<KeyId>, Failure> {
        let readable = self.readable_suffixes.iter().map(|suffix| Some(suffix.as_str()));
        let mut ids = Vec::new();
        for suffix in [suffix, None].into_iter().chain(readable) {
            let id = self.intermediate_key(partition, suffix)?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Returns whose intermediate key `id` is, without a suffix, with `suffix` or a readable one; `None` when it is that of
    /// another service or product, or none.
    pub(super) fn partition_of<'a>(&self, id: &'a KeyId, suffix: Option<&str>) -> Option<&'a str> {
        let of = |id: &'a str| {
            let partition = id.strip_prefix("_IK_")?.strip_suffix(self.product.as_str())?;
            let partition = partition.strip_suffix('_')?.strip_suffix(self.service.as_str())?.strip_suffix('_')?;
            Some(partition).filter(|partition| !partition.is_empty())
        };
        let mut suffixes = suffix.into_iter().chain(self.readable_suffixes.iter().map(String::as_str));
        let bare = |suffix: &str| of(id.as_str().strip_suffix(suffix)?.strip_suffix('_')?);
        suffixes.find_map(bare).or_else(|| of(id.as_str()))
    }

    fn settle(given: Settings) -> Self {
        let (default, memory) = (CryptoPolicy::default(), ArenaSettings::default());
        let policy = CryptoPolicy {
            expire_after: given.expire_after.map_or(default.expire_after, |span| span.0),
            revoke_check_interval: given.revoke_check.map_or(default.revoke_check_interval, |span| span.0),
            created_precision: given.create_precision.map_or(default.created_precision, |span| span.0),
            ..default
        };
        Self {
            service: given.service.unwrap_or_else(|| "keyward".to_owned()),
            product: given.product.unwrap_or_else(|| "default".to_owned()),
            password_in_address: given.store.as_ref().is_some_and(StoreAddress::has_password),
            store: given.store.unwrap_or_else(|| StoreAddress::Sqlite("keyward.db".into())),
            read_replica: given.read_replica,
            readable_suffixes: given.readable_suffixes.unwrap_or_default().0,
            kms: given.kms.unwrap_or_else(|| KmsAddress::Local("keyward.key".into())),
            policy,
            max_payload: given.max_payload.map_or(MAX_PAYLOAD, |size| size.0),
            memory: ArenaSettings {
                bytes: given.memory_size.map_or(memory.bytes, |size| size.0),
                policy: given.memory_policy.map_or(memory.policy, |policy| policy.0),
                require: given.require_memfd_secret.unwrap_or(false).then_some(Backend::MemfdSecret),
                ..memory
            },
            log: given.log.map_or(LevelFilter::WARN, |level| level.0),
        }
    }
}

fn with_suffix(id: String, suffix: Option<&str>) -> String {
    match suffix {
        Some(suffix) => format!("{id}_{suffix}"),
        None => id,
    }
}

fn level(verbose: u8) -> Option<Level> {
    match verbose {
        0 => None,
        1 => Some(Level(LevelFilter::INFO)),
        2 => Some(Level(LevelFilter::DEBUG)),
        _ => Some(Level(LevelFilter::TRACE)),
    }
}

/// Gives a store its password.
///
/// # Errors
/// [`Failure::Usage`] when it has none.
pub(super) fn give_password(store: &mut StoreAddress, password: SecretString) -> Result<(), Failure> {
    if store.set_password(password) {
        return Ok(());
    }
    let hint = "name a store that has one, or take the password away";
    Err(Failure::Usage { fault: "a password is given for a store that has none", hint })
}

/// Reads a file that holds a password.
///
/// # Errors
/// [`Failure::Open`].
pub(super) fn read_password(path: &Path) -> Result<SecretString, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| Failure::Open { path: path.to_owned(), source })?;
    let text = zeroize::Zeroizing::new(text);
    Ok(SecretString::from(text.strip_suffix('\n').map_or(&**text, |line| line.strip_suffix('\r').unwrap_or(line))))
}

fn read(path: &Path) -> Result<Settings, ConfigError> {
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(ConfigError::Read)?);
    parse(&text)
}

fn parse(text: &str) -> Result<Settings, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        ConfigError::Syntax {
            line: before.matches('\n').count() + 1,
            message: without_value(error.message()).to_owned(),
        }
    })
}

/// Leaves out what was found where something else was expected: the parser quotes it, and it may be a secret.
fn without_value(message: &str) -> &str {
    let is_quoting = message.starts_with("invalid type: ") || message.starts_with("invalid value: ");
    match message.rfind(", expected ").filter(|_| is_quoting) {
        Some(at) => &message[at + 2..],
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyward::memory::MemoryPolicy;

    use super::*;

    #[test]
    fn the_file_takes_the_long_options_as_keys() {
        let text = "service='s'\nproduct='p'\nstore='memory'\nkms='local:k'\nexpire-after='30d'\nrevoke-check='5m'\n\
                    create-precision='1s'\nmax-payload=5\nlog='debug'\nmemory-policy='relaxed'\nmemory-size='64K'\n\
                    require-memfd-secret=true";
        let config = parse(text).map(Config::settle).expect("every key is known");
        assert_eq!((config.service.as_str(), config.product.as_str()), ("s", "p"));
        assert!(matches!(config.store, StoreAddress::Memory));
        assert!(matches!(config.kms, KmsAddress::Local(path) if path == Path::new("k")));
        assert_eq!(config.policy.expire_after, Duration::from_secs(30 * 86_400));
        assert_eq!(config.policy.revoke_check_interval, Duration::from_secs(300));
        assert_eq!(config.policy.created_precision, Duration::from_secs(1));
        assert_eq!((config.max_payload, config.log), (5, LevelFilter::DEBUG));
        let memory = &config.memory;
        assert_eq!((memory.policy, memory.bytes), (MemoryPolicy::Relaxed, 65_536));
        assert_eq!(memory.require, Some(Backend::MemfdSecret));
    }

    #[test]
    fn a_key_id_tells_the_partition_of_its_own_service_and_product_alone() {
        let config = parse("service='s'\nproduct='p'").map(Config::settle).expect("every key is known");
        let cases = [
            ("_IK_alice_s_p", Some("alice")),
            ("_IK_a_s_p_s_p", Some("a_s_p")),
            ("_IK__s_p", None),
            ("_IK_s_p", None),
            ("_IK_alice_s_p_region", None),
            ("_IK_alice_t_p", None),
            ("_SK_alice_s_p", None),
            ("", None),
        ];
        for (id, partition) in cases {
            assert_eq!(config.partition_of(&KeyId::new(id), None), partition, "{id}");
        }
        for (id, partition) in
            [("_IK_alice_s_p_region", Some("alice")), ("_IK_alice_s_p", Some("alice")), ("_IK_a_s_p_x", None)]
        {
            assert_eq!(config.partition_of(&KeyId::new(id), Some("region")), partition, "{id}");
        }
        let ids = |config: &Config| config.intermediate_keys("alice", Some("region")).expect("a partition");
        assert_eq!(ids(&config), ["_IK_alice_s_p_region", "_IK_alice_s_p"].map(KeyId::new));
        let readable = parse("service='s'\nproduct='p'\nreadable-suffixes='other,region'").map(Config::settle);
        let config = readable.expect("every key is known");
        assert_eq!(ids(&config), ["_IK_alice_s_p_region", "_IK_alice_s_p", "_IK_alice_s_p_other"].map(KeyId::new));
        assert_eq!(config.partition_of(&KeyId::new("_IK_alice_s_p_other"), None), Some("alice"));
        assert_eq!(config.intermediate_key("alice", None).expect("a partition").as_str(), "_IK_alice_s_p");
        assert_eq!(config.system_key(None).as_str(), "_SK_s_p");
        assert!(config.intermediate_key("", None).is_err() && config.intermediate_key("a\nb", None).is_err());
    }

    #[test]
    fn a_fault_is_named_by_line_and_key_and_never_quotes_a_value() {
        let cases = [
            ("service='s'\nsurprise = 'static:5ec4e7'", 2, "`surprise`"),
            ("kms = 'static:5ec4e7'", 1, "64 hex digits"),
            ("\n\nmax-payload = '5ec4e7x'", 3, "a size is"),
            ("expire-after = 5", 1, "expected a string"),
            ("kms = static:5ec4e7", 1, ""),
            ("log='warn'\nrequire-memfd-secret = '5ec4e7'", 2, "expected a boolean"),
            ("kms = 0x5ec4e7", 1, "expected the name of a key management service"),
            ("[kms.vault]\nurl = '5ec4e7'", 1, "kms.aws"),
        ];
        for (text, line, part) in cases {
            let Err(ConfigError::Syntax { line: found, message }) = parse(text) else { panic!("{text} was taken") };
            assert_eq!(found, line, "{text}: {message}");
            assert!(message.contains(part) && !message.contains("5ec4e7"), "{text}: {message}");
        }
    }
}
