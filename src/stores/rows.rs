//! Judgement on rows that all stores share: pure.

use crate::error::StoreError;
#[cfg(any(feature = "dynamodb", feature = "mysql", feature = "postgres", feature = "sqlite"))]
use crate::ids::KeyMeta;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
use crate::record::with_revoked;
use crate::record::{EnvelopeKeyRecord, TOMBSTONE_CREATED};

/// 0001-01-01 00:00:00, the first time whose digits sort as times do.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(super) const FIRST: i64 = -62_135_596_800;
/// 9999-12-31 23:59:59, the last one.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(super) const LAST: i64 = 253_402_300_799;

/// Refuses to shred behind anything but a tombstone that [`Metastore::store`](super::Metastore::store) will see.
pub(super) fn check_tombstone(operation: &'static str, record: &EnvelopeKeyRecord) -> Result<(), StoreError> {
    if is_buried(record) {
        return Ok(());
    }
    let advice = Some("make it with EnvelopeKeyRecord::tombstone");
    Err(StoreError::Permanent { operation, advice, source: "the record to put in place is no tombstone".into() })
}

/// Whether it is a tombstone where [`Metastore::store`](super::Metastore::store) looks for one.
pub(super) fn is_buried(record: &EnvelopeKeyRecord) -> bool {
    record.is_tombstone() && record.created == TOMBSTONE_CREATED
}

/// Makes the error of a row that is no key record.
#[cfg(any(feature = "dynamodb", feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(super) fn corrupt(key: &KeyMeta, source: impl Into<crate::error::BoxError>) -> StoreError {
    StoreError::Corrupt { id: key.id.to_string(), created: Some(key.created), source: source.into() }
}

/// Checks that a record stands in the row of its creation time.
#[cfg(any(feature = "dynamodb", feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(super) fn check_created(key: &KeyMeta, record: EnvelopeKeyRecord) -> Result<EnvelopeKeyRecord, StoreError> {
    if record.created != key.created {
        return Err(corrupt(key, format!("the record says it was created {}", record.created)));
    }
    Ok(record)
}

/// Reads the text of a row, naming the row when it is no key record.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(super) fn parse_row(key: &KeyMeta, text: &[u8]) -> Result<EnvelopeKeyRecord, StoreError> {
    let record = EnvelopeKeyRecord::from_json(text).map_err(|error| corrupt(key, error))?;
    check_created(key, record)
}

/// Returns the text of a row once it is revoked, `None` when it is.
///
/// A record that only its `Revoked` makes unreadable is revoked like any other.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(super) fn revoked_text(key: &KeyMeta, text: &[u8]) -> Result<Option<String>, StoreError> {
    let before = parse_row(key, text);
    if before.as_ref().is_ok_and(|record| record.revoked) {
        return Ok(None);
    }
    let after = with_revoked(text).ok().filter(|after| parse_row(key, after.as_bytes()).is_ok());
    match (after, before) {
        (Some(after), _) => Ok(Some(after)),
        (None, Err(corrupt)) => Err(corrupt),
        (None, Ok(_)) => Err(corrupt(key, "its text cannot be changed")),
    }
}
