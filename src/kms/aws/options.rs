//! What can be set, and the address that says it.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use aws_sdk_kms::config::timeout::TimeoutConfig;
use serde::Deserialize;

use super::arn::KeyArn;
use super::regions::RegionMap;
use crate::aws::{CREDENTIALS_TIME, Plaintext, is_endpoint, is_private};
use crate::error::KmsError;
use crate::retry::{BreakerPolicy, RetryPolicy};

/// How [`AwsKms`](super::AwsKms) is set up.
///
/// An address says the same: `aws:us-west-2=ARN,us-east-1=ARN;preferred=us-west-2`. Options follow the region map, each after a
/// `;`: `preferred`, `min_regions` (a number, or `all`), `hedge` (`off`, `auto` or milliseconds), `former` (the ARN of a key
/// that was configured before; may come several times), `endpoint`, `endpoint.REGION`, `plaintext` (`allow` or `refuse`),
/// `profile`, `role` (the ARN of a role to
/// assume), `external_id`, `connect_timeout`, `request_timeout` and `operation_timeout` (in seconds). The region map may be
/// JSON.
///
/// # Defaults
/// * `preferred` none: with several regions it must be given, so that the order is never left to chance.
/// * `min_regions` all: a system key that one region cannot open is found out when the others are gone.
/// * `hedge` [`Hedge::Auto`].
/// * `endpoint`, `profile`, `role`: what the AWS SDK finds.
/// * `allow_plaintext` false; of this machine (loopback addresses, `localhost`) an endpoint may be `http://` all the same.
/// * `connect_timeout` 1 s, `request_timeout` 2 s, `operation_timeout` 9 s.
/// * `retries`: three attempts in each region, with delays of up to 250 and 500 ms between, and a breaker for each that opens
///   after 5 failures in a row. An attempt may take 8 s: 5 for credentials where none are at hand, and the time of a request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AwsKmsOptions {
    /// The master key of each region.
    pub regions: RegionMap,
    /// The region that is asked first.
    pub preferred: Option<String>,
    /// How many regions must have wrapped a system key before it is used; `None`: all. What is missing then is added by
    /// [`repair_key`](crate::kms::KmsAdmin::repair_key).
    #[serde(deserialize_with = "least")]
    pub min_regions: Option<usize>,
    /// When a region that does not answer is left behind.
    pub hedge: Hedge,
    /// Keys that were configured before, and still open what they have wrapped.
    #[serde(deserialize_with = "arns")]
    pub former: Vec<KeyArn>,
    /// Where requests to all regions are sent: `http://127.0.0.1:4566`.
    pub endpoint: Option<String>,
    /// Where those to one region are sent.
    pub endpoints: BTreeMap<String, String>,
    /// Whether an endpoint may be `http://` that is not of this machine: others on the way read data keys then.
    pub allow_plaintext: bool,
    /// The profile of the AWS configuration that credentials are taken from; those of the environment do not take its place.
    pub profile: Option<String>,
    /// The ARN of a role that is assumed with those credentials.
    pub role: Option<String>,
    /// What the role asks of whoever assumes it.
    pub external_id: Option<String>,
    /// How long connecting may take.
    #[serde(deserialize_with = "time")]
    pub connect_timeout: Duration,
    /// How long the answer to a request may take.
    #[serde(deserialize_with = "time")]
    pub request_timeout: Duration,
    /// How long wrapping or opening a key may take, with all regions that are asked for it. Less than the
    /// [`kms_timeout`](crate::SessionFactoryBuilder::kms_timeout) of the factory, so that an error names the regions.
    #[serde(deserialize_with = "time")]
    pub operation_timeout: Duration,
    /// How requests are repeated, and when a region is not asked.
    #[serde(skip)]
    pub retries: RetryPolicy,
}

/// When the next region is asked to open a key because one does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hedge {
    /// When it has failed.
    Off,
    /// When it takes longer than 95 % of its last answers did: after 50 ms at least, and 500 ms at most and at first.
    Auto,
    /// When this time has passed.
    After(Duration),
}

impl Default for AwsKmsOptions {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        let breaker = BreakerPolicy { failures: 5, first_pause: second, most_pause: 15 * second };
        let retries = RetryPolicy {
            attempts: 3,
            // Long enough for the time that credentials may take; what may take less is cut short by itself.
            attempt_timeout: CREDENTIALS_TIME + 3 * second,
            first_delay: second / 4,
            breaker: Some(breaker),
            ..RetryPolicy::default()
        };
        Self {
            regions: RegionMap::default(),
            preferred: None,
            min_regions: None,
            hedge: Hedge::Auto,
            former: Vec::new(),
            endpoint: None,
            endpoints: BTreeMap::new(),
            allow_plaintext: false,
            profile: None,
            role: None,
            external_id: None,
            connect_timeout: second,
            request_timeout: 2 * second,
            operation_timeout: 9 * second,
            retries,
        }
    }
}

impl AwsKmsOptions {
    /// Uses the master keys of these regions.
    #[must_use]
    pub fn new(regions: RegionMap) -> Self {
        Self { regions, ..Self::default() }
    }

    /// Returns the keys in the order in which they are asked.
    ///
    /// # Errors
    /// [`KmsError::Settings`] when this cannot work.
    pub(super) fn check(&self) -> Result<Vec<KeyArn>, KmsError> {
        let keys = self.regions.ordered(self.preferred.as_deref())?;
        let settings = |what, advice| Err(KmsError::Settings { what, advice });
        if let Some(least) = self.min_regions.filter(|least| !(1..=keys.len()).contains(least)) {
            let what = format!("of {} regions, {least} cannot be asked for", keys.len());
            return settings(what, "let min_regions be a number of those that there are, or leave it out for all");
        }
        if let Some(other) = self.endpoints.keys().find(|region| keys.iter().all(|key| key.region() != **region)) {
            let what = format!("there is an endpoint for the region {other:?}, which has no master key");
            return settings(what, "name one of the regions in the map");
        }
        let endpoints = || self.endpoint.iter().chain(self.endpoints.values());
        if endpoints().any(|endpoint| !is_endpoint(endpoint)) {
            return settings("an endpoint is none".to_owned(), ENDPOINT);
        }
        if !self.allow_plaintext && endpoints().any(|endpoint| !is_private(endpoint)) {
            return settings(Plaintext.to_string(), Plaintext::ADVICE);
        }
        match (&self.role, &self.external_id) {
            (Some(role), _) if !role.starts_with("arn:") => {
                settings("`role` is not the ARN of a role".to_owned(), "write it as arn:aws:iam::ACCOUNT:role/NAME")
            }
            (None, Some(_)) => settings("an `external_id` is given, and no `role`".to_owned(), "name the role"),
            _ => Ok(keys),
        }
    }

    /// Returns where requests to a region are sent, unless that is the region's own place.
    pub(super) fn endpoint_of(&self, region: &str) -> Option<&str> {
        self.endpoints.get(region).or(self.endpoint.as_ref()).map(String::as_str)
    }

    /// Returns how long what may take.
    pub(super) fn timeouts(&self) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.connect_timeout)
            .read_timeout(self.request_timeout)
            .operation_timeout(CREDENTIALS_TIME + self.connect_timeout + self.request_timeout)
            .build()
    }
}

const ENDPOINT: &str = "write it as http://127.0.0.1:4566, without user and password";
const SECONDS: &str = "write a number of seconds from 0.001 to 86400";

fn seconds(seconds: f64) -> Result<Duration, KmsError> {
    if (0.001..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(KmsError::Settings { what: "a time is out of bounds".to_owned(), advice: SECONDS })
    }
}

fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    seconds(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn arns<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<KeyArn>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

impl FromStr for Hedge {
    type Err = KmsError;

    fn from_str(text: &str) -> Result<Self, KmsError> {
        match text {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            _ => match text.parse() {
                Ok(ms @ 1..=60_000) => Ok(Self::After(Duration::from_millis(ms))),
                _ => Err(KmsError::Settings {
                    what: "`hedge` is none".to_owned(),
                    advice: "write off, auto, or a number of milliseconds up to 60000",
                }),
            },
        }
    }
}

/// A word or a number, as files have both.
#[derive(Deserialize)]
#[serde(untagged)]
enum WordOrNumber {
    Word(String),
    Number(u32),
}

impl<'de> Deserialize<'de> for Hedge {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match WordOrNumber::deserialize(deserializer)? {
            WordOrNumber::Word(word) => word,
            WordOrNumber::Number(ms) => ms.to_string(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn least<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    match WordOrNumber::deserialize(deserializer)? {
        WordOrNumber::Word(word) if word == "all" => Ok(None),
        WordOrNumber::Word(_) => Err(serde::de::Error::custom("`min_regions` is a number, or \"all\"")),
        WordOrNumber::Number(number) => Ok(Some(number as usize)),
    }
}

/// `aws:REGION=ARN,…;option=value;…`
impl FromStr for AwsKmsOptions {
    type Err = KmsError;

    fn from_str(text: &str) -> Result<Self, KmsError> {
        let settings = |what: String, advice| KmsError::Settings { what, advice };
        let text = text.strip_prefix("aws:").unwrap_or(text);
        let mut parts = text.split(';').map(str::trim);
        let mut options = Self::new(parts.next().unwrap_or_default().parse()?);
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (name.trim(), value.trim());
            if value.is_empty() {
                return Err(settings(format!("the option {name:?} has no value"), KNOWN));
            }
            let text = || Some(value.to_owned());
            match name {
                "preferred" => options.preferred = text(),
                "min_regions" if value == "all" => options.min_regions = None,
                "min_regions" => {
                    let number = value
                        .parse()
                        .map_err(|_| settings("`min_regions` is no number".to_owned(), "write a number, or all"))?;
                    options.min_regions = Some(number);
                }
                "hedge" => options.hedge = value.parse()?,
                "former" => {
                    let former = value.parse().map_err(|error| match error {
                        KmsError::Settings { what, advice } => settings(format!("{what}, that of `former`"), advice),
                        other => other,
                    });
                    options.former.push(former?);
                }
                "endpoint" => options.endpoint = text(),
                "plaintext" => {
                    options.allow_plaintext = match value {
                        "allow" => true,
                        "refuse" => false,
                        _ => return Err(settings("`plaintext` is none".to_owned(), "write allow or refuse")),
                    }
                }
                "profile" => options.profile = text(),
                "role" => options.role = text(),
                "external_id" => options.external_id = text(),
                "connect_timeout" => options.connect_timeout = seconds(value.parse().unwrap_or(0.0))?,
                "request_timeout" => options.request_timeout = seconds(value.parse().unwrap_or(0.0))?,
                "operation_timeout" => options.operation_timeout = seconds(value.parse().unwrap_or(0.0))?,
                _ => match name.strip_prefix("endpoint.") {
                    Some(region) => drop(options.endpoints.insert(region.to_owned(), value.to_owned())),
                    None => return Err(settings(format!("there is no option {name:?} of AWS KMS"), KNOWN)),
                },
            }
        }
        options.check()?;
        Ok(options)
    }
}

const KNOWN: &str = "options are preferred, min_regions, hedge, former, endpoint, endpoint.REGION, plaintext, profile, role, external_id, \
    connect_timeout, request_timeout, operation_timeout";

#[cfg(test)]
mod tests {
    use super::*;

    fn arn(region: &str) -> String {
        format!("arn:aws:kms:{region}:111122223333:key/1234")
    }

    #[test]
    fn everything_stands_in_the_address() {
        let (a, b) = (arn("us-west-2"), arn("eu-west-1"));
        let text = format!(
            "aws:us-west-2={a},eu-west-1={b};preferred=eu-west-1; min_regions=1;hedge=250;former={a};endpoint=http://h:1;\
             plaintext=allow;endpoint.us-west-2=http://h:2;profile=p;role=arn:aws:iam::111122223333:role/r;external_id=x;\
             connect_timeout=0.5;request_timeout=3;operation_timeout=20"
        );
        let options: AwsKmsOptions = text.parse().unwrap();
        let order: Vec<String> = options.check().unwrap().iter().map(|key| key.region().to_owned()).collect();
        assert_eq!(order, ["eu-west-1", "us-west-2"]);
        assert_eq!((options.min_regions, options.hedge), (Some(1), Hedge::After(Duration::from_millis(250))));
        assert_eq!((options.former.len(), options.profile.as_deref()), (1, Some("p")));
        assert_eq!(
            (options.endpoint_of("us-west-2"), options.endpoint_of("eu-west-1")),
            (Some("http://h:2"), Some("http://h:1"))
        );
        let times = [options.connect_timeout, options.request_timeout, options.operation_timeout];
        assert_eq!(times, [500, 3_000, 20_000].map(Duration::from_millis));
        let json = format!(r#"aws:{{"us-west-2":"{a}"}}"#);
        assert_eq!(json.parse::<AwsKmsOptions>().unwrap().regions.regions().collect::<Vec<_>>(), ["us-west-2"]);
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let (a, b) = (arn("us-west-2"), arn("eu-west-1"));
        let json = format!(
            r#"{{"regions":{{"us-west-2":"{a}","eu-west-1":"{b}"}},"preferred":"us-west-2","hedge":"off","request_timeout":3.0}}"#
        );
        let expected: AwsKmsOptions =
            format!("aws:us-west-2={a},eu-west-1={b};preferred=us-west-2;hedge=off;request_timeout=3").parse().unwrap();
        assert_eq!(serde_json::from_str::<AwsKmsOptions>(&json).unwrap(), expected);
        let read = |json| serde_json::from_str::<AwsKmsOptions>(json);
        let all = read(r#"{"min_regions":"all","hedge":250}"#).unwrap();
        assert_eq!((all.min_regions, all.hedge), (None, Hedge::After(Duration::from_millis(250))));
        assert_eq!(read(r#"{"min_regions":2,"hedge":"auto"}"#).unwrap().min_regions, Some(2));
        for wrong in [r#"{"prefered":"x"}"#, r#"{"min_regions":"most"}"#, r#"{"hedge":0}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_to_do() {
        let a = arn("a");
        for (options, words) in [
            ("min_regions=0", "0 cannot be asked for"),
            ("min_regions=2", "2 cannot be asked for"),
            ("min_regions=most", "no number"),
            ("hedge=fast", "milliseconds"),
            ("former=x", "not the ARN of a key"),
            ("endpoint=h:1", "an endpoint is none"),
            ("endpoint.b=http://h", "no master key"),
            ("endpoint=http://h:1", "unencrypted"),
            ("endpoint=https://h;endpoint.a=http://[::2]:1/x;plaintext=refuse", "unencrypted"),
            ("plaintext=yes", "allow or refuse"),
            ("role=app", "not the ARN of a role"),
            ("external_id=x", "no `role`"),
            ("former=alias/x", "of `former`"),
            ("prefered=a", "there is no option"),
            ("preferred", "has no value"),
            ("request_timeout=0", "out of bounds"),
        ] {
            let error = format!("aws:a={a};{options}").parse::<AwsKmsOptions>().unwrap_err().to_string();
            assert!(error.contains(words), "{options}: {error}");
        }
        for endpoint in ["https://h", "http://127.0.0.1:1/x", "http://[::1]", "http://LOCALHOST:4566"] {
            assert!(format!("aws:a={a};endpoint={endpoint}").parse::<AwsKmsOptions>().is_ok(), "{endpoint}");
        }
        assert!("aws:".parse::<AwsKmsOptions>().is_err());
    }

    /// A hundred processes start at once and ask a service that answers twenty calls in a tenth of a second; whoever is refused
    /// comes back after the delay that is drawn, as often as it may. Returns how many calls were made in each tenth, and how
    /// many processes gave up.
    fn start_at_once(policy: &RetryPolicy) -> (Vec<usize>, usize) {
        let (random, mut calls, mut given_up) = (crate::crypto::system_random(), vec![0; 100], 0);
        let mut due: Vec<(Duration, u32)> = vec![(Duration::ZERO, 1); 100];
        while !due.is_empty() {
            due.sort_unstable();
            let (at, attempt) = due.remove(0);
            let tenth = usize::try_from(at.as_millis() / 100).unwrap();
            calls[tenth] += 1;
            if calls[tenth] > 20 && attempt == policy.attempts {
                given_up += 1;
            } else if calls[tenth] > 20 {
                due.push((at + policy.drawn_delay(attempt, &random), attempt + 1));
            }
        }
        (calls, given_up)
    }

    #[test]
    fn a_hundred_processes_that_start_at_once_do_not_come_back_at_once() {
        let (calls, given_up) = start_at_once(&AwsKmsOptions::default().retries);
        // Eighty come back within a quarter of a second, and some of them once more within a half.
        assert!(calls[1..].iter().all(|calls| *calls <= 60), "{calls:?}");
        assert!(given_up <= 30, "{given_up}");
        let (_, given_up_without_delays) =
            start_at_once(&RetryPolicy { first_delay: Duration::ZERO, ..AwsKmsOptions::default().retries });
        assert_eq!(given_up_without_delays, 80);
    }
}
