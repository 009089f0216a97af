//! Which master key is used in which region.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::arn::KeyArn;
use crate::error::KmsError;

/// The master key of each region, in the order in which they were given.
///
/// Reads what the configurations of all implementations hold: text, `us-west-2=ARN,us-east-1=ARN`; a map of JSON or TOML,
/// `{"us-west-2":"ARN"}`; a list of `{"region":"us-west-2","keyArn":"ARN"}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegionMap(Vec<KeyArn>);

impl RegionMap {
    /// Adds a key.
    ///
    /// # Errors
    /// [`KmsError::Settings`] when `arn` names no key, or one of another region, or the region has one already.
    pub fn add(&mut self, region: &str, arn: &str) -> Result<(), KmsError> {
        let (region, key) = (region.trim(), arn.trim().parse::<KeyArn>()?);
        if !key.region().eq_ignore_ascii_case(region) {
            let what = format!("the key {key} of region {:?} is in {}", shown(region), key.region());
            return Err(KmsError::Settings { what, advice: "name the key that is in the region" });
        }
        if self.0.iter().any(|known| known.region() == key.region()) {
            let what = format!("the region {} has two master keys", key.region());
            return Err(KmsError::Settings { what, advice: "name one; the other may be a former one" });
        }
        self.0.push(key);
        Ok(())
    }

    /// Returns the keys, that of the preferred region first.
    ///
    /// # Errors
    /// [`KmsError::Settings`] when there is none, or several and none is preferred, or the preferred one is not among them.
    pub(super) fn ordered(&self, preferred: Option<&str>) -> Result<Vec<KeyArn>, KmsError> {
        let settings = |what: String, advice| KmsError::Settings { what, advice };
        let mut keys = self.0.clone();
        match (&keys[..], preferred) {
            ([], _) => {
                return Err(settings("no region has a master key".to_owned(), "name one at least: REGION=ARN"));
            }
            ([_, _, ..], None) => {
                let names: Vec<&str> = self.regions().collect();
                return Err(settings(
                    format!("of several regions none is preferred: {}", names.join(", ")),
                    "name the nearest, preferred=REGION: it is asked first",
                ));
            }
            _ => {}
        }
        if let Some(preferred) = preferred.map(str::trim) {
            let Some(at) = keys.iter().position(|key| key.region().eq_ignore_ascii_case(preferred)) else {
                let names: Vec<&str> = self.regions().collect();
                let what = format!(
                    "the preferred region {:?} is none of those with a master key: {}",
                    shown(preferred),
                    names.join(", ")
                );
                return Err(settings(what, "prefer one of them"));
            };
            keys[..=at].rotate_right(1);
        }
        Ok(keys)
    }

    /// Returns the names of the regions.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(KeyArn::region)
    }
}

/// Returns what is shown of what should be the name of a region.
fn shown(region: &str) -> String {
    region.chars().take(32).collect()
}

/// `REGION=ARN,REGION=ARN`, or a map or list in JSON.
impl std::str::FromStr for RegionMap {
    type Err = KmsError;

    fn from_str(text: &str) -> Result<Self, KmsError> {
        let text = text.trim();
        if text.starts_with(['{', '[']) {
            return serde_json::from_str(text).map_err(|error| {
                let what = format!("the region map is not usable: {error}");
                KmsError::Settings { what, advice: "write {\"REGION\":\"ARN\",…}" }
            });
        }
        let mut map = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((region, arn)) = part.split_once('=') else {
                let what = "a part of the region map has no `=`".to_owned();
                return Err(KmsError::Settings { what, advice: "write REGION=ARN,REGION=ARN" });
            };
            map.add(region, arn)?;
        }
        Ok(map)
    }
}

impl<'de> Deserialize<'de> for RegionMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Entry {
            region: String,
            #[serde(alias = "keyArn")]
            arn: String,
        }

        impl<'de> Visitor<'de> for Read {
            type Value = RegionMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from regions to the ARNs of their keys")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RegionMap, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<M: MapAccess<'de>>(self, mut entries: M) -> Result<RegionMap, M::Error> {
                let mut map = RegionMap::default();
                while let Some((region, arn)) = entries.next_entry::<String, String>()? {
                    map.add(&region, &arn).map_err(serde::de::Error::custom)?;
                }
                Ok(map)
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut entries: S) -> Result<RegionMap, S::Error> {
                let mut map = RegionMap::default();
                while let Some(Entry { region, arn }) = entries.next_element()? {
                    map.add(&region, &arn).map_err(serde::de::Error::custom)?;
                }
                Ok(map)
            }
        }

        deserializer.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arn(region: &str) -> String {
        format!("arn:aws:kms:{region}:111122223333:key/1234")
    }

    fn order(map: &RegionMap, preferred: Option<&str>) -> Vec<String> {
        map.ordered(preferred).unwrap().iter().map(|key| key.region().to_owned()).collect()
    }

    #[test]
    fn a_map_is_text_or_json_or_toml_and_keeps_its_order() {
        let (b, a) = (arn("us-west-2"), arn("eu-west-1"));
        let text: RegionMap = format!(" us-west-2 = {b} ,\neu-west-1={a},").parse().unwrap();
        for other in [
            format!(r#"{{"us-west-2":"{b}","eu-west-1":"{a}"}}"#),
            format!(r#"[{{"region":"us-west-2","keyArn":"{b}"}},{{"region":"eu-west-1","arn":"{a}"}}]"#),
        ] {
            assert_eq!(other.parse::<RegionMap>().unwrap(), text, "{other}");
        }
        assert_eq!(order(&text, Some("us-west-2")), ["us-west-2", "eu-west-1"]);
        assert_eq!(order(&text, Some("EU-WEST-1")), ["eu-west-1", "us-west-2"]);
    }

    #[test]
    fn the_preferred_region_comes_first_and_the_others_stay_in_order() {
        let text: Vec<String> = ["a", "b", "c", "d"].iter().map(|region| format!("{region}={}", arn(region))).collect();
        let map: RegionMap = text.join(",").parse().unwrap();
        assert_eq!(order(&map, Some("c")), ["c", "a", "b", "d"]);
        let one: RegionMap = text[0].parse().unwrap();
        assert_eq!(order(&one, None), ["a"]);
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_to_do() {
        let two = format!("a={},b={}", arn("a"), arn("b"));
        for (text, preferred, words) in [
            ("", None, "no region has a master key"),
            (two.as_str(), None, "none is preferred: a, b"),
            (two.as_str(), Some("c"), "none of those with a master key: a, b"),
        ] {
            let error = text.parse::<RegionMap>().unwrap().ordered(preferred).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        for (text, words) in [
            (format!("a={},a={}", arn("a"), arn("a")), "two master keys"),
            (format!("a={}", arn("b")), "is in b"),
            ("a".to_owned(), "no `=`"),
            ("a=alias/x".to_owned(), "an alias"),
            (r#"{"a":1}"#.to_owned(), "expected a string"),
            (format!(r#"{{"a":"{0}","a":"{0}"}}"#, arn("a")), "two master keys"),
        ] {
            let error = text.parse::<RegionMap>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
