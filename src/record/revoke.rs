//! Revokes a record in its text, keeping every field that this crate does not know.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::tolerant::not_json;
use crate::error::RecordError;

const REVOKED: &str = "Revoked";

/// The fields of an object in their order, each with its text.
struct Fields(Vec<(String, Box<RawValue>)>);

/// Returns the JSON text of a record with `Revoked` true; all other fields stand there as they did, in their order.
///
/// Whatever `Revoked` was before, of any type and any number of times, is left out. `true` comes last: readers that
/// take names in any case, or the last of several, take it.
///
/// # Errors
/// [`RecordError`] when the text is no JSON object.
pub(crate) fn with_revoked(json: &[u8]) -> Result<String, RecordError> {
    let write = || {
        let Fields(mut fields) = serde_json::from_slice(json)?;
        fields.retain(|(name, _)| name != REVOKED);
        fields.push((REVOKED.to_owned(), serde_json::from_str("true")?));
        serde_json::to_string(&Fields(fields))
    };
    write().map_err(|error| not_json(&error))
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, text)| (name, text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_field_is_kept_as_it_was() {
        let cases = [
            (r#"{"Created":5,"Key":"AAEC"}"#, r#"{"Created":5,"Key":"AAEC","Revoked":true}"#),
            (r#"{"Revoked":false,"Created":5,"Key":""}"#, r#"{"Created":5,"Key":"","Revoked":true}"#),
            (r#" { "Revoked" : null , "Key" : "\u0041" } "#, r#"{"Key":"\u0041","Revoked":true}"#),
            (r#"{"Revoked":"no","Revoked":[],"Key":"A"}"#, r#"{"Key":"A","Revoked":true}"#),
            (
                r#"{"New":[{"x":1e999}],"revoked":false,"Key":"A","Big":123456789012345678901234567890}"#,
                r#"{"New":[{"x":1e999}],"revoked":false,"Key":"A","Big":123456789012345678901234567890,"Revoked":true}"#,
            ),
            (r#"{"Key":"A","Key":"B"}"#, r#"{"Key":"A","Key":"B","Revoked":true}"#),
            ("{}", r#"{"Revoked":true}"#),
        ];
        for (before, after) in cases {
            assert_eq!(with_revoked(before.as_bytes()).as_deref(), Ok(after), "{before}");
        }
        for no_object in ["", "{", "null", "[]", "5", r#"{"Key":"A"}x"#, "\u{0}"] {
            assert!(with_revoked(no_object.as_bytes()).is_err(), "{no_object}");
        }
    }
}
