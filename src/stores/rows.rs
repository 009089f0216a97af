//! Judgement on rows that all stores share: pure.

use super::Replacement;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
use super::Revocation;
use crate::error::StoreError;
#[cfg(any(feature = "dynamodb", feature = "mysql", feature = "postgres", feature = "sqlite"))]
use crate::ids::KeyMeta;
use crate::record::{EnvelopeKeyRecord, TOMBSTONE_CREATED};
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
use crate::record::{with_revoked, with_wrapped_key};

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

/// What an operator's change makes of the text of a row.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(super) enum Edit<R> {
    /// It is to be this, and then this has become of the change.
    Write(String, R),
    /// It stays as it is.
    Leave(R),
}

/// Revokes the record of a row.
///
/// A record that only its `Revoked` makes unreadable is revoked like any other.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(super) fn revoke(key: &KeyMeta, text: &[u8]) -> Result<Edit<Revocation>, StoreError> {
    let before = parse_row(key, text);
    if before.as_ref().is_ok_and(|record| record.revoked) {
        return Ok(Edit::Leave(Revocation::AlreadyRevoked));
    }
    let after = with_revoked(text).ok().filter(|after| parse_row(key, after.as_bytes()).is_ok());
    match (after, before) {
        (Some(after), _) => Ok(Edit::Write(after, Revocation::Revoked)),
        (None, Err(corrupt)) => Err(corrupt),
        (None, Ok(_)) => Err(corrupt(key, "its text cannot be changed")),
    }
}

/// Puts another wrapped key into the record of a row.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(super) fn rewrap(key: &KeyMeta, text: &[u8], old: &[u8], new: &[u8]) -> Result<Edit<Replacement>, StoreError> {
    if let Some(outcome) = judge_replacement(&parse_row(key, text)?, old, new) {
        return Ok(Edit::Leave(outcome));
    }
    let after = with_wrapped_key(text, new).map_err(|error| corrupt(key, error))?;
    Ok(Edit::Write(after, Replacement::Replaced))
}

/// Tells what becomes of the replacement of a wrapped key where nothing is to be written; `None` where `new` is.
pub(super) fn judge_replacement(record: &EnvelopeKeyRecord, old: &[u8], new: &[u8]) -> Option<Replacement> {
    if record.is_tombstone() {
        return Some(Replacement::NotFound);
    }
    if record.encrypted_key != old {
        return Some(Replacement::Changed);
    }
    (old == new).then_some(Replacement::Replaced)
}

/// Refuses to replace a wrapped key by nothing: a revoked record without key is a tombstone.
pub(super) fn check_wrapped_key(operation: &'static str, new: &[u8]) -> Result<(), StoreError> {
    if !new.is_empty() {
        return Ok(());
    }
    let advice = Some("give it what a key management service has wrapped");
    Err(StoreError::Permanent { operation, advice, source: "the wrapped key to put in place is empty".into() })
}
