//! What can be set, and the address that says it.

use std::fmt;
use std::time::Duration;

use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;

use crate::aws::{CREDENTIALS_TIME, is_endpoint};
use crate::stores::AddressError;
use crate::stores::address::{decode, options, seconds};

/// The table of all implementations of the format, unless another is named.
const TABLE: &str = "EncryptionKey";

/// How a [`DynamoDbMetastore`](super::DynamoDbMetastore) connects.
///
/// An address says the same: `dynamodb:TABLE?region=eu-west-1&suffix=true`. Options are `region`, `endpoint`, `suffix`
/// (`true`, `false`, or the suffix itself), `profile`, `global_table` (`allow` or `refuse`), `connect_timeout` and
/// `request_timeout` (in seconds). `%26` stands for `&`.
///
/// # Defaults
/// * `table` `EncryptionKey`, as other implementations have it.
/// * `region`, `profile`: what the AWS SDK finds: `AWS_REGION`, the profile, the machine's own.
/// * `endpoint`: that of the region. Requests are signed for the region whatever the endpoint is.
/// * `suffix` none: ids of new keys have none. A global table needs one.
/// * `allow_global_table_without_suffix` false: regions that make the same key at once would overwrite each other.
/// * `connect_timeout` 1 s, `request_timeout` 2 s: within the 3 s that a factory gives an attempt, so that its error says
///   what was waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DynamoDbOptions {
    /// The name of the table, or its ARN where it belongs to another account.
    pub table: String,
    /// The region that the table is in and that requests are signed for.
    pub region: Option<String>,
    /// Where requests are sent: `http://127.0.0.1:8000`.
    pub endpoint: Option<String>,
    /// What ids of new keys end in.
    pub suffix: Option<RegionSuffix>,
    /// Whether a table that is replicated to other regions is used without `suffix`.
    pub allow_global_table_without_suffix: bool,
    /// The profile of the AWS configuration that credentials, and the region unless it is given, are taken from.
    pub profile: Option<String>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the answer to a request may take.
    pub request_timeout: Duration,
}

/// What ids of new keys end in, so that each region of a global table has keys of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegionSuffix {
    /// The region that requests are signed for.
    OfRegion,
    /// This text.
    Named(String),
}

impl Default for DynamoDbOptions {
    fn default() -> Self {
        Self {
            table: TABLE.to_owned(),
            region: None,
            endpoint: None,
            suffix: None,
            allow_global_table_without_suffix: false,
            profile: None,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(2),
        }
    }
}

const KNOWN: &str = "region, endpoint, suffix, profile, global_table, connect_timeout, request_timeout";

/// The address, as far as it tells stores apart.
impl fmt::Display for DynamoDbOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dynamodb:{}", self.table)?;
        let parts = [("region", &self.region), ("endpoint", &self.endpoint)];
        for (at, (name, value)) in parts.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))).enumerate() {
            write!(f, "{}{name}={value}", if at == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl std::str::FromStr for DynamoDbOptions {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.strip_prefix("dynamodb:").ok_or(AddressError::Table)?;
        let (table, settings) = rest.split_once('?').unwrap_or((rest, ""));
        let mut read = Self::default();
        if !table.is_empty() {
            read.table = decode(table)?;
        }
        if !is_table(&read.table) {
            return Err(AddressError::Table);
        }
        for (name, value) in options(settings)? {
            match name.as_str() {
                "region" => read.region = Some(filled("region", "the name of a region, as eu-west-1", value)?),
                "profile" => read.profile = Some(filled("profile", "the name of a profile", value)?),
                "endpoint" if is_endpoint(&value) => read.endpoint = Some(value),
                "endpoint" => {
                    let expected = "an address as http://127.0.0.1:8000, without user and password";
                    return Err(AddressError::Value { name: "endpoint", expected });
                }
                "suffix" => {
                    let value = filled("suffix", "true, false, or the suffix itself", value)?;
                    read.suffix = match value.as_str() {
                        "true" => Some(RegionSuffix::OfRegion),
                        "false" => None,
                        _ => Some(RegionSuffix::Named(value)),
                    };
                }
                "global_table" => {
                    let expected = "allow or refuse";
                    read.allow_global_table_without_suffix = match value.as_str() {
                        "allow" => true,
                        "refuse" => false,
                        _ => return Err(AddressError::Value { name: "global_table", expected }),
                    };
                }
                "connect_timeout" => read.connect_timeout = seconds("connect_timeout", &value)?,
                "request_timeout" => read.request_timeout = seconds("request_timeout", &value)?,
                _ => return Err(AddressError::UnknownOption { name, known: KNOWN }),
            }
        }
        Ok(read)
    }
}

impl DynamoDbOptions {
    /// Returns what ids of new keys end in, where requests are signed for `region`.
    pub(super) fn suffix_in(&self, region: &str) -> Option<String> {
        self.suffix.as_ref().map(|suffix| match suffix {
            RegionSuffix::OfRegion => region.to_owned(),
            RegionSuffix::Named(suffix) => suffix.clone(),
        })
    }

    /// Returns how long what may take.
    pub(super) fn timeouts(&self) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.connect_timeout)
            .read_timeout(self.request_timeout)
            .operation_timeout(CREDENTIALS_TIME + self.connect_timeout + self.request_timeout)
            .build()
    }

    /// Returns how often the SDK sends a request: once. Whoever calls the store repeats calls, within a budget.
    pub(super) fn retries() -> RetryConfig {
        RetryConfig::disabled()
    }
}

/// Whether it can be the [name of a table](https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_CreateTable.html)
/// or its ARN.
pub(super) fn is_table(name: &str) -> bool {
    let is_usual = |character: char| character.is_ascii_alphanumeric() || "_-.".contains(character);
    let is_arn =
        name.starts_with("arn:") && name.chars().all(|character| is_usual(character) || ":/".contains(character));
    is_arn || (3..=255).contains(&name.len()) && name.chars().all(is_usual)
}

fn filled(name: &'static str, expected: &'static str, value: String) -> Result<String, AddressError> {
    if value.is_empty() { Err(AddressError::Value { name, expected }) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_stands_in_the_address() {
        let text = "dynamodb:Keys.of-us_1?region=us-west-2&endpoint=http://127.0.0.1:8000/a&suffix=true&profile=my%26keys\
            &global_table=allow&connect_timeout=0.5&request_timeout=3";
        let expected = DynamoDbOptions {
            table: "Keys.of-us_1".to_owned(),
            region: Some("us-west-2".to_owned()),
            endpoint: Some("http://127.0.0.1:8000/a".to_owned()),
            suffix: Some(RegionSuffix::OfRegion),
            allow_global_table_without_suffix: true,
            profile: Some("my&keys".to_owned()),
            connect_timeout: Duration::from_millis(500),
            request_timeout: Duration::from_secs(3),
        };
        assert_eq!(text.parse(), Ok(expected));
        for default in ["dynamodb:", "dynamodb:EncryptionKey", "dynamodb:?suffix=false&global_table=refuse"] {
            assert_eq!(default.parse(), Ok(DynamoDbOptions::default()), "{default}");
        }
        let arn = "arn:aws:dynamodb:us-west-2:111122223333:table/EncryptionKey";
        assert_eq!(format!("dynamodb:{arn}").parse::<DynamoDbOptions>().unwrap().table, arn);
    }

    #[test]
    fn the_suffix_is_that_of_the_region_or_what_is_named() {
        for (text, expected) in [("", None), ("suffix=true", Some("us-west-2")), ("suffix=blue", Some("blue"))] {
            let options: DynamoDbOptions = format!("dynamodb:Keys?{text}").parse().unwrap();
            assert_eq!(options.suffix_in("us-west-2").as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["dynamo:Keys", "dynamodb://host/Keys", "dynamodb:ab", "dynamodb:Ke ys", "dynamodb:Keys'", ""] {
            assert_eq!(text.parse::<DynamoDbOptions>(), Err(AddressError::Table), "{text}");
        }
        for option in ["sufix=true", "consistent=false", "x"] {
            let refused = format!("dynamodb:Keys?{option}").parse::<DynamoDbOptions>();
            assert!(matches!(refused, Err(AddressError::UnknownOption { .. })), "{option}: {refused:?}");
        }
        for option in [
            "region=",
            "profile",
            "suffix",
            "endpoint=",
            "endpoint=host:8000",
            "endpoint=http://",
            "endpoint=https:///x",
            "endpoint=http://alice:hunter2@host",
            "global_table=yes",
            "request_timeout=0",
        ] {
            let refused = format!("dynamodb:Keys?{option}").parse::<DynamoDbOptions>();
            assert!(matches!(refused, Err(AddressError::Value { .. })), "{option}: {refused:?}");
            assert!(!format!("{refused:?}").contains("hunter2"));
        }
    }
}
