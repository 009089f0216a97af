//! The tolerant reader: every legal shape, at the cost of a general JSON parser.

use std::borrow::Cow;

use serde::Deserialize;

use super::canonical::decode_base64_into;
use super::{DataRowRecord, EnvelopeKeyRecord};
use crate::error::RecordError;
use crate::ids::{KeyId, KeyMeta};

#[derive(Deserialize)]
struct DataRow<'a> {
    #[serde(rename = "Key", borrow)]
    key: EnvelopeKey<'a>,
    #[serde(rename = "Data", borrow)]
    data: Cow<'a, str>,
}

#[derive(Deserialize)]
struct EnvelopeKey<'a> {
    #[serde(rename = "Created")]
    created: i64,
    #[serde(rename = "Key", borrow)]
    key: Cow<'a, str>,
    #[serde(rename = "ParentKeyMeta", borrow)]
    parent: Option<Parent<'a>>,
    #[serde(rename = "Revoked")]
    revoked: Option<bool>,
}

#[derive(Deserialize)]
struct Parent<'a> {
    #[serde(rename = "KeyId", borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "Created")]
    created: i64,
}

impl Parent<'_> {
    fn into_meta(self) -> KeyMeta {
        KeyMeta { id: KeyId::new(&self.id), created: self.created }
    }
}

pub(super) fn data_row_record(json: &[u8]) -> Result<DataRowRecord, RecordError> {
    let row: DataRow<'_> = serde_json::from_slice(json).map_err(|error| not_json(&error))?;
    let parent = row.key.parent.ok_or(RecordError::NoParent)?.into_meta();
    let encrypted_key = base64("Key", &row.key.key)?;
    let data = base64("Data", &row.data)?;
    Ok(DataRowRecord::from_parts(row.key.created, encrypted_key, parent, data))
}

pub(super) fn envelope_key_record(json: &[u8]) -> Result<EnvelopeKeyRecord, RecordError> {
    let key: EnvelopeKey<'_> = serde_json::from_slice(json).map_err(|error| not_json(&error))?;
    Ok(EnvelopeKeyRecord {
        created: key.created,
        encrypted_key: base64("Key", &key.key)?,
        parent_key: key.parent.map(Parent::into_meta),
        revoked: key.revoked.unwrap_or(false),
    })
}

/// Decodes a field; line breaks inside base64, which some writers wrap it with, are passed over.
pub(crate) fn base64(field: &'static str, text: &str) -> Result<Vec<u8>, RecordError> {
    let mut bytes = Vec::new();
    if text.contains(['\r', '\n']) {
        let joined = text.replace(['\r', '\n'], "");
        decode_base64_into(field, joined.as_bytes(), &mut bytes)?;
    } else {
        decode_base64_into(field, text.as_bytes(), &mut bytes)?;
    }
    Ok(bytes)
}

/// Keeps where and why; the message of the parser tells names and types of fields, never their contents.
pub(super) fn not_json(error: &serde_json::Error) -> RecordError {
    let reason = match error.classify() {
        serde_json::error::Category::Data => {
            let message = error.to_string();
            match message.split_once('`') {
                Some((before, field)) if message.contains("field") => {
                    format!("{before}`{}`", field.split('`').next().unwrap_or_default())
                }
                _ => "a field has the wrong type".to_owned(),
            }
        }
        serde_json::error::Category::Eof => "the text ends too early".to_owned(),
        _ => "not JSON".to_owned(),
    };
    RecordError::Json { line: error.line(), column: error.column(), reason }
}
