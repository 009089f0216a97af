//! Changes records in their text, keeping every field that this crate does not know.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::canonical::base64_text;
use super::tolerant::not_json;
use crate::error::RecordError;
use crate::ids::KeyMeta;

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
const REVOKED: &str = "Revoked";
const KEY: &str = "Key";
const PARENT: &str = "ParentKeyMeta";

/// The fields of an object in their order, each with its text.
struct Fields(Vec<(String, Box<RawValue>)>);

/// Returns the JSON text of an envelope key record with `Revoked` true; all other fields stand there as they did, in their
/// order.
///
/// Whatever `Revoked` was before, of any type and any number of times, is left out. `true` comes last: readers that
/// take names in any case, or the last of several, take it.
///
/// # Errors
/// [`RecordError`] when the text is no JSON object.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(crate) fn with_revoked(json: &[u8]) -> Result<String, RecordError> {
    let write = || {
        let Fields(mut fields) = serde_json::from_slice(json)?;
        fields.retain(|(name, _)| name != REVOKED);
        fields.push((REVOKED.to_owned(), serde_json::from_str("true")?));
        serde_json::to_string(&Fields(fields))
    };
    write().map_err(|error| not_json(&error))
}

/// Returns the JSON text of an envelope key record with another wrapped key; all other fields stand there as they did, in
/// their order.
///
/// # Errors
/// [`RecordError`] when the text is no JSON object.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(crate) fn with_wrapped_key(json: &[u8], encrypted_key: &[u8]) -> Result<String, RecordError> {
    let write = || {
        let Fields(mut fields) = serde_json::from_slice(json)?;
        for (_, value) in fields.iter_mut().filter(|(name, _)| name == KEY) {
            *value = to_raw_value(&base64_text(encrypted_key))?;
        }
        serde_json::to_string(&Fields(fields))
    };
    write().map_err(|error| not_json(&error))
}

/// Returns the JSON text of a data row record whose key is wrapped by another intermediate key; all other fields stand there
/// as they did, in their order.
///
/// # Errors
/// [`RecordError`] when the text is no record.
pub(crate) fn with_parent(json: &[u8], encrypted_key: &[u8], parent: &KeyMeta) -> Result<Vec<u8>, RecordError> {
    let write = || {
        let Fields(mut fields) = serde_json::from_slice(json)?;
        for (_, key) in fields.iter_mut().filter(|(name, _)| name == KEY) {
            let Fields(mut inner) = serde_json::from_str(key.get())?;
            for (name, value) in &mut inner {
                match name.as_str() {
                    KEY => *value = to_raw_value(&base64_text(encrypted_key))?,
                    // An object of two: the order of the canonical shape.
                    PARENT => {
                        let id = serde_json::to_string(parent.id.as_str())?;
                        let text = format!(r#"{{"KeyId":{id},"Created":{}}}"#, parent.created);
                        *value = RawValue::from_string(text)?;
                    }
                    _ => {}
                }
            }
            *key = to_raw_value(&Fields(inner))?;
        }
        serde_json::to_vec(&Fields(fields))
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
    use crate::ids::KeyId;
    use crate::record::DataRowRecord;
    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    use crate::record::EnvelopeKeyRecord;

    #[test]
    fn a_canonical_record_stays_canonical_under_another_key() {
        let old = KeyMeta { id: KeyId::new("_IK_a_s_p"), created: 1 };
        let new = KeyMeta { id: KeyId::new("_IK_\"é\"_s_p"), created: 2 };
        let record = DataRowRecord::from_parts(5, vec![1; 60], old, vec![9; 100]);
        let changed = record.with_key(vec![2; 60], new.clone());
        assert_eq!(with_parent(&record.to_json(), &[2; 60], &new), Ok(changed.to_json()));
    }

    #[test]
    fn what_else_a_record_holds_is_kept() {
        let before = r#" {"row":7,"Key":{"New":[1],"ParentKeyMeta":{"KeyId":"a","Created":1},"Key":"AA==","Created":5},
            "Data":"AAEC","Note":"\u0041"} "#;
        let after = r#"{"row":7,"Key":{"New":[1],"ParentKeyMeta":{"KeyId":"b","Created":2},"Key":"AQI=","Created":5},"Data":"AAEC","Note":"\u0041"}"#;
        let parent = KeyMeta { id: KeyId::new("b"), created: 2 };
        assert_eq!(with_parent(before.as_bytes(), &[1, 2], &parent), Ok(after.as_bytes().to_vec()));
        assert!(with_parent(b"[]", &[1, 2], &parent).is_err());
    }

    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
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
            assert!(with_wrapped_key(no_object.as_bytes(), &[1]).is_err(), "{no_object}");
        }
    }

    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    #[test]
    fn another_wrapped_key_leaves_every_other_field_as_it_was() {
        let cases = [
            (
                r#"{"Revoked":true,"Created":5,"Key":"AAEC","ParentKeyMeta":{"KeyId":"a","Created":3}}"#,
                r#"{"Revoked":true,"Created":5,"Key":"AQI=","ParentKeyMeta":{"KeyId":"a","Created":3}}"#,
            ),
            (
                r#" { "New" : [{"x":1e999}], "K\u0065y" : "AA\nEC", "key":"B", "Created":5 } "#,
                r#"{"New":[{"x":1e999}],"Key":"AQI=","key":"B","Created":5}"#,
            ),
            (r#"{"Inner":{"Key":"A"},"Key":null}"#, r#"{"Inner":{"Key":"A"},"Key":"AQI="}"#),
            ("{}", "{}"),
        ];
        for (before, after) in cases {
            assert_eq!(with_wrapped_key(before.as_bytes(), &[1, 2]).as_deref(), Ok(after), "{before}");
        }
        let record = EnvelopeKeyRecord { created: 5, encrypted_key: vec![7; 60], parent_key: None, revoked: true };
        let changed = EnvelopeKeyRecord { encrypted_key: vec![8; 61], ..record.clone() };
        assert_eq!(with_wrapped_key(record.to_json().as_bytes(), &[8; 61]), Ok(changed.to_json()));
    }
}
