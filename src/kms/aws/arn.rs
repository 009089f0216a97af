//! Names of master keys.

use std::fmt;

use crate::error::KmsError;

/// The [ARN](https://docs.aws.amazon.com/kms/latest/developerguide/concepts-key-id.html) of a key in AWS KMS:
/// `arn:aws:kms:REGION:ACCOUNT:key/ID`.
///
/// Its `Debug` text is whole; its `Display` text has the end of the id alone.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyArn {
    text: String,
    region: std::ops::Range<usize>,
}

const FORM: &str = "name the key as arn:aws:kms:REGION:ACCOUNT:key/ID; `aws kms describe-key` shows it as Arn";
const ALIAS: &str = "an alias may come to stand for another key, and what was wrapped before would not open: name the key itself, \
    which `aws kms describe-key --key-id alias/…` shows as Arn";

impl KeyArn {
    /// Returns the region that the key is in.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.text[self.region.clone()]
    }

    /// Returns the whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl std::str::FromStr for KeyArn {
    type Err = KmsError;

    fn from_str(text: &str) -> Result<Self, KmsError> {
        let refused = |advice| KmsError::Settings { what: format!("{} is not the ARN of a key", short(text)), advice };
        if text.contains(":alias/") || text.starts_with("alias/") {
            return Err(refused(ALIAS));
        }
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let [arn, partition, service, region, account, key] = parts[..] else { return Err(refused(FORM)) };
        let is_word = |word: &str| {
            !word.is_empty() && word.chars().all(|character| character.is_ascii_alphanumeric() || character == '-')
        };
        let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        let is_key = key.strip_prefix("key/").is_some_and(is_word);
        let is_arn = arn == "arn" && partition.starts_with("aws") && is_word(partition) && service == "kms";
        if !is_arn || !is_word(region) || !is_account || !is_key {
            return Err(refused(FORM));
        }
        let begin = arn.len() + partition.len() + service.len() + 3;
        Ok(Self { text: text.to_owned(), region: begin..begin + region.len() })
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&short(&self.text))
    }
}

impl fmt::Debug for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns the end of a name: enough to tell keys apart, too little to be of use elsewhere.
pub(super) fn short(name: &str) -> String {
    let count = name.chars().count();
    if count <= 8 { "…".to_owned() } else { format!("…{}", name.chars().skip(count - 4).collect::<String>()) }
}

/// Shortens every ARN in a text of a service.
pub(super) fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("arn:") {
        out.push_str(&rest[..at]);
        let arn = &rest[at..];
        let is_end = |character: char| character.is_whitespace() || "'\",;()[]{}<>".contains(character);
        let end = arn.find(is_end).unwrap_or(arn.len());
        out.push_str("arn:");
        out.push_str(&short(arn[..end].trim_end_matches('.')));
        rest = &arn[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn an_arn_names_its_region_and_shows_its_end() {
        let arn: KeyArn = ARN.parse().unwrap();
        assert_eq!((arn.region(), arn.as_str()), ("us-west-2", ARN));
        assert_eq!(arn.to_string(), "…90ab");
        for other in ["arn:aws-cn:kms:cn-north-1:111122223333:key/a", "arn:aws-us-gov:kms:x:111122223333:key/mrk-12"] {
            assert!(other.parse::<KeyArn>().is_ok(), "{other}");
        }
    }

    #[test]
    fn what_names_no_key_is_refused_with_what_to_do() {
        for text in [
            "",
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:us-west-2:111122223333",
            "arn:aws:kms:us-west-2:1111:key/a",
            "arn:aws:kms::111122223333:key/a",
            "arn:aws:s3:us-west-2:111122223333:key/a",
            "arn:aws:kms:us-west-2:111122223333:key/",
            "arn:aws:kms:us-west-2:111122223333:key/a b",
        ] {
            let error = text.parse::<KeyArn>().unwrap_err().to_string();
            assert!(error.contains("arn:aws:kms:REGION"), "{error}");
            assert!(!error.contains("111122223333"), "{error}");
        }
        for alias in ["alias/mine", "arn:aws:kms:us-west-2:111122223333:alias/mine"] {
            assert!(alias.parse::<KeyArn>().unwrap_err().to_string().contains("alias may come to stand"), "{alias}");
        }
    }

    #[test]
    fn arns_in_texts_are_shortened() {
        let text = format!("User: arn:aws:sts::111122223333:assumed-role/x/y may not on resource: {ARN}.");
        assert_eq!(redact(&text), "User: arn:…/x/y may not on resource: arn:…90ab");
        assert_eq!(redact("Key 'arn:aws:kms:x' arn:"), "Key 'arn:…ms:x' arn:…");
    }
}
