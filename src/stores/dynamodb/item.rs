//! Records as items: pure.
//!
//! An item has the attributes `Id` (a string), `Created` (a number of seconds) and `KeyRecord`, a map of `Created`, `Key` (a
//! string, in base64), `ParentKeyMeta` (a map of `KeyId` and `Created`; a system key has none) and `Revoked`, which is left
//! out when it is false.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::error::{RecordError, StoreError};
use crate::ids::{KeyId, KeyMeta};
use crate::record::{EnvelopeKeyRecord, base64, base64_text};
use crate::stores::KeyRow;
use crate::stores::rows::{check_created, corrupt};

pub(super) type Item = HashMap<String, AttributeValue>;

pub(super) const ID: &str = "Id";
pub(super) const CREATED: &str = "Created";
pub(super) const KEY_RECORD: &str = "KeyRecord";
const KEY: &str = "Key";
const PARENT: &str = "ParentKeyMeta";
const PARENT_ID: &str = "KeyId";
const REVOKED: &str = "Revoked";

/// Why an item holds no record. Names attributes, never what is in them.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Fault {
    #[error("the item has no {0}")]
    Missing(&'static str),
    #[error("its {attribute} is {found}, not {expected}")]
    Type { attribute: &'static str, expected: &'static str, found: &'static str },
    #[error("its {0} is no whole number of seconds")]
    Seconds(&'static str),
    #[error("its KeyRecord.Revoked is a number other than 0 and 1")]
    Revoked,
    #[error("its KeyRecord.Key is not base64")]
    Base64(#[source] RecordError),
}

/// Returns the attributes that address an item.
pub(super) fn address(key: &KeyMeta) -> Item {
    HashMap::from([(ID.to_owned(), text(key.id.as_str())), (CREATED.to_owned(), number(key.created))])
}

/// Returns the item of a record.
pub(super) fn item(key: &KeyMeta, record: &EnvelopeKeyRecord) -> Item {
    let mut fields = Item::from([
        (CREATED.to_owned(), number(record.created)),
        (KEY.to_owned(), text(base64_text(&record.encrypted_key))),
    ]);
    if let Some(parent) = &record.parent_key {
        let meta = Item::from([
            (PARENT_ID.to_owned(), text(parent.id.as_str())),
            (CREATED.to_owned(), number(parent.created)),
        ]);
        fields.insert(PARENT.to_owned(), AttributeValue::M(meta));
    }
    if record.revoked {
        fields.insert(REVOKED.to_owned(), AttributeValue::Bool(true));
    }
    let mut item = address(key);
    item.insert(KEY_RECORD.to_owned(), AttributeValue::M(fields));
    item
}

/// Returns which version of which key an item is; `None` when it was created at no whole second.
pub(super) fn key_of(item: &Item) -> Option<KeyMeta> {
    let id = string(item, ID, ID).ok()?;
    Some(KeyMeta { id: KeyId::new(id), created: seconds(item, CREATED, CREATED).ok()? })
}

/// Reads an item, naming its key when it is no record.
pub(super) fn read(key: &KeyMeta, item: &Item) -> Result<EnvelopeKeyRecord, StoreError> {
    let record = record(item).map_err(|fault| corrupt(key, fault))?;
    check_created(key, record)
}

/// Reads an item as a row; `None` when it was created at no whole second.
pub(super) fn row(item: &Item) -> Option<KeyRow> {
    let key = key_of(item)?;
    Some(KeyRow { record: read(&key, item), key })
}

/// Reads an item as it will be once it is revoked.
pub(super) fn read_as_revoked(key: &KeyMeta, mut item: Item) -> Result<EnvelopeKeyRecord, StoreError> {
    if let Some(AttributeValue::M(fields)) = item.get_mut(KEY_RECORD) {
        fields.insert(REVOKED.to_owned(), AttributeValue::Bool(true));
    }
    read(key, &item)
}

/// Returns the base64 of the wrapped key as it stands in an item.
pub(super) fn key_text(item: &Item) -> Option<&str> {
    item.get(KEY_RECORD)?.as_m().ok()?.get(KEY)?.as_s().ok().map(String::as_str)
}

/// Takes what other implementations have written: `Revoked` and `ParentKeyMeta` may be NULL, `Revoked` 0 or 1, the base64
/// broken into lines; unknown attributes are passed over.
fn record(item: &Item) -> Result<EnvelopeKeyRecord, Fault> {
    let fields = match item.get(KEY_RECORD).ok_or(Fault::Missing(KEY_RECORD))? {
        AttributeValue::M(fields) => fields,
        other => return Err(wrong(KEY_RECORD, "a map", other)),
    };
    let parent_key = match fields.get(PARENT) {
        None | Some(AttributeValue::Null(_)) => None,
        Some(AttributeValue::M(meta)) => Some(KeyMeta {
            id: KeyId::new(string(meta, PARENT_ID, "KeyRecord.ParentKeyMeta.KeyId")?),
            created: seconds(meta, CREATED, "KeyRecord.ParentKeyMeta.Created")?,
        }),
        Some(other) => return Err(wrong("KeyRecord.ParentKeyMeta", "a map", other)),
    };
    let revoked = match fields.get(REVOKED) {
        None | Some(AttributeValue::Null(_)) => false,
        Some(AttributeValue::Bool(revoked)) => *revoked,
        Some(AttributeValue::N(number)) => match number.as_str() {
            "0" => false,
            "1" => true,
            _ => return Err(Fault::Revoked),
        },
        Some(other) => return Err(wrong("KeyRecord.Revoked", "a boolean", other)),
    };
    let key = string(fields, KEY, "KeyRecord.Key")?;
    Ok(EnvelopeKeyRecord {
        created: seconds(fields, CREATED, "KeyRecord.Created")?,
        encrypted_key: base64(KEY, key).map_err(Fault::Base64)?,
        parent_key,
        revoked,
    })
}

fn string<'a>(fields: &'a Item, name: &str, attribute: &'static str) -> Result<&'a str, Fault> {
    match fields.get(name).ok_or(Fault::Missing(attribute))? {
        AttributeValue::S(text) => Ok(text),
        other => Err(wrong(attribute, "a string", other)),
    }
}

fn seconds(fields: &Item, name: &str, attribute: &'static str) -> Result<i64, Fault> {
    match fields.get(name).ok_or(Fault::Missing(attribute))? {
        AttributeValue::N(number) => number.parse().map_err(|_| Fault::Seconds(attribute)),
        other => Err(wrong(attribute, "a number", other)),
    }
}

fn wrong(attribute: &'static str, expected: &'static str, found: &AttributeValue) -> Fault {
    let found = match found {
        AttributeValue::S(_) => "a string",
        AttributeValue::N(_) => "a number",
        AttributeValue::B(_) => "binary",
        AttributeValue::Bool(_) => "a boolean",
        AttributeValue::Null(_) => "NULL",
        AttributeValue::M(_) => "a map",
        AttributeValue::L(_) => "a list",
        _ => "a set",
    };
    Fault::Type { attribute, expected, found }
}

pub(super) fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn number(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

#[cfg(test)]
mod tests;
