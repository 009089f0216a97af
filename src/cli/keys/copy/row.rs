//! One row: whether it is there, and copying it.

use keyward::stores::{StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyMeta};

use crate::cli::open::Store;
use crate::cli::table::chain;

/// A row that may be copied.
pub(super) struct Row {
    pub(super) key: KeyMeta,
    pub(super) record: EnvelopeKeyRecord,
    /// Whether there is a row of this key to compare it with.
    pub(super) is_there: bool,
}

/// What becomes of a row, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is there, with the same bytes.
    There,
    /// It is copied.
    Copied,
    /// It was there; that it is revoked is carried over.
    Revoked,
    /// It is there, and revoked there alone.
    RevokedThere,
    /// Another key is there in its place.
    Different,
    /// What is there in its place is no key record.
    CorruptThere(String),
    /// It was stored, and is not there.
    Lost,
    /// It is no key record.
    Corrupt(String),
    /// Its id is shredded in the store that is copied from.
    Shredded,
    /// Its id is shredded in the store that is copied to.
    ShreddedThere,
    /// The system key that wraps it is another one there.
    Unusable,
    /// It is a tombstone, behind which so many keys are destroyed.
    Buried(usize),
}

/// Copies a row, or finds out what copying it would do.
///
/// # Errors
/// [`StoreError`] of the store that is copied to; the row is there or not, and copying it again finds out.
pub(super) async fn copy(to: &Store, row: &Row, execute: bool) -> Result<Outcome, StoreError> {
    let (key, record) = (&row.key, &row.record);
    if row.is_there
        && let Some(there) = load(to, key).await?
    {
        return meet(to, key, record, there, execute).await;
    }
    if !execute {
        return Ok(Outcome::Copied);
    }
    let stored = to.keys.store(&key.id, record).await?;
    match (load(to, key).await?, stored) {
        (Some(Ok(there)), StoreOutcome::Stored) if there == *record => Ok(Outcome::Copied),
        (Some(there), _) => meet(to, key, record, there, true).await,
        (None, StoreOutcome::Stored) => Ok(Outcome::Lost),
        // Somebody shredded it meanwhile.
        (None, StoreOutcome::Duplicate) => Ok(Outcome::ShreddedThere),
    }
}

/// What is there, or why it is no key record.
type There = Result<EnvelopeKeyRecord, String>;

async fn load(to: &Store, key: &KeyMeta) -> Result<Option<There>, StoreError> {
    match to.keys.load(key).await {
        Ok(there) => Ok(there.map(Ok)),
        Err(error @ StoreError::Corrupt { .. }) => Ok(Some(Err(chain(&error)))),
        Err(error) => Err(error),
    }
}

/// Deals with a row that is there already.
async fn meet(
    to: &Store,
    key: &KeyMeta,
    record: &EnvelopeKeyRecord,
    there: There,
    execute: bool,
) -> Result<Outcome, StoreError> {
    let outcome = judge(record, there);
    if outcome != Outcome::Revoked || !execute {
        return Ok(outcome);
    }
    let _ = to.admin.revoke(key).await?;
    Ok(match load(to, key).await? {
        None => Outcome::ShreddedThere,
        Some(there) => match judge(record, there) {
            Outcome::There => Outcome::Revoked,
            // It was revoked, and is not.
            Outcome::Revoked => Outcome::Lost,
            other => other,
        },
    })
}

/// Compares a record with the one that is there: pure.
fn judge(record: &EnvelopeKeyRecord, there: There) -> Outcome {
    let there = match there {
        Ok(there) => there,
        Err(fault) => return Outcome::CorruptThere(fault),
    };
    let is_same = EnvelopeKeyRecord { revoked: record.revoked, ..there.clone() } == *record;
    match (record.revoked, there.revoked) {
        _ if !is_same => Outcome::Different,
        (true, false) => Outcome::Revoked,
        (false, true) => Outcome::RevokedThere,
        _ => Outcome::There,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward::KeyId;

    #[test]
    fn records_are_the_same_when_all_but_their_revocation_is() {
        let parent = |created| Some(KeyMeta { id: KeyId::new("_SK_s_p"), created });
        let record =
            |byte, revoked| EnvelopeKeyRecord { created: 5, encrypted_key: vec![byte], parent_key: parent(1), revoked };
        let under_another = EnvelopeKeyRecord { parent_key: parent(2), ..record(1, false) };
        let cases = [
            (record(1, false), Ok(record(1, false)), Outcome::There),
            (record(1, true), Ok(record(1, true)), Outcome::There),
            (record(1, true), Ok(record(1, false)), Outcome::Revoked),
            (record(1, false), Ok(record(1, true)), Outcome::RevokedThere),
            (record(1, false), Ok(record(2, false)), Outcome::Different),
            (record(1, false), Ok(under_another), Outcome::Different),
            (record(1, false), Err("no JSON".to_owned()), Outcome::CorruptThere("no JSON".to_owned())),
        ];
        for (record, there, expected) in cases {
            assert_eq!(judge(&record, there.clone()), expected, "{record:?} {there:?}");
        }
    }
}
