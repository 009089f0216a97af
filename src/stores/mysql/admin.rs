//! What operators do in the table in MySQL or MariaDB: list, revoke, shred, replace wrapped keys.

use mysql_async::{Params, Value};

use super::pool::Connection;
use super::table::{Found, SELECT, exact, find, insert, same_id, same_text, select};
use crate::ids::{KeyId, KeyMeta};
use crate::record::{EnvelopeKeyRecord, TOMBSTONE_CREATED};
use crate::stores::rows::{Edit, is_buried};
use crate::stores::rows::{FIRST, LAST};
use crate::stores::utc::digits;
use crate::stores::{KeyRow, StoreError, StoreOutcome};

pub(super) const LISTING: &str = "listing keys in MySQL";
pub(super) const REVOKING: &str = "revoking a key in MySQL";
pub(super) const SHREDDING: &str = "shredding a key in MySQL";
pub(super) const REPLACING: &str = "replacing a wrapped key in MySQL";

/// How often a change is tried that somebody else gets in the way of.
const ATTEMPTS: usize = 16;

// In the order of the primary key, so that a page costs no more than its rows.
const AFTER: &str = "WHERE id >= ? AND (id > ? OR created > ?) ORDER BY id, created LIMIT ?";
const ALL: &str = concat!("WHERE ", same_id!(), " ORDER BY created");

// `created` is set to itself because a column made with ON UPDATE CURRENT_TIMESTAMP, which MySQL may add by itself to the
// first TIMESTAMP of a table, would change along.
const UPDATE: &str = concat!(
    "UPDATE encryption_key SET key_record = ?, created = created WHERE ",
    same_id!(),
    " AND created = ? AND ",
    same_text!()
);

// Creation times that are no times are no reason to stay.
const DELETE: &str = concat!("DELETE FROM encryption_key WHERE ", same_id!(), " AND NOT created <=> ?");

pub(super) async fn list(
    connection: &mut Connection,
    after: Option<&KeyMeta>,
    limit: usize,
) -> Result<Vec<KeyRow>, StoreError> {
    let mut id = after.map_or(String::new(), |key| key.id.to_string());
    // A time that no row can have comes before or after all that one can have.
    let mut created = after.map_or(FIRST - 1, |key| key.created.clamp(FIRST - 1, LAST));
    let (mut rows, mut skipped) = (Vec::new(), 0);
    while rows.len() < limit {
        // Rows that no key can be made of are passed over. They cannot be told where to go on from either, so those that
        // stand at the end of a page are read again with the next.
        let wanted = (limit - rows.len()).saturating_add(skipped);
        let time = digits(created).unwrap_or_else(|| "0000-00-00 00:00:00".to_owned());
        let values = (id.as_str(), id.as_str(), time, wanted as u64);
        let page = connection.rows(&format!("{SELECT}{AFTER}"), values).await;
        let page = page.map_err(|error| connection.failure(error))?;
        let is_last = page.len() < wanted;
        skipped = 0;
        for row in page {
            match Found::read(row).as_ref().and_then(key_row) {
                Some(row) => {
                    (id, created, skipped) = (row.key.id.to_string(), row.key.created, 0);
                    rows.push(row);
                }
                None => skipped += 1,
            }
        }
        if is_last {
            break;
        }
    }
    Ok(rows)
}

pub(super) async fn versions(connection: &mut Connection, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
    let rows = select(connection, ALL, (id.as_str(), id.as_str()).into(), id).await?;
    Ok(rows.iter().filter_map(key_row).collect())
}

/// Changes the text of a record as `edit` says, unless somebody else changes it meanwhile: then once more; `absent` when there
/// is none.
pub(super) async fn edit<R>(
    connection: &mut Connection,
    key: &KeyMeta,
    absent: R,
    edit: impl Fn(&[u8]) -> Result<Edit<R>, StoreError>,
) -> Result<R, StoreError> {
    for _attempt in 0..ATTEMPTS {
        let row = find(connection, key).await?.filter(|row| row.created == Some(key.created));
        let Some(row) = row else { return Ok(absent) };
        let before = row.text(key)?;
        let (after, outcome) = match edit(before)? {
            Edit::Write(after, outcome) => (after, outcome),
            Edit::Leave(outcome) => return Ok(outcome),
        };
        if replace(connection, key, Some(before), &after).await? {
            return Ok(outcome);
        }
    }
    Err(connection.hitch("others changed the record again and again"))
}

/// Puts a tombstone in first, and then removes whatever else there is; see `store` for why in this order.
pub(super) async fn shred(
    connection: &mut Connection,
    id: &KeyId,
    tombstone: &EnvelopeKeyRecord,
) -> Result<Vec<KeyMeta>, StoreError> {
    let grave = KeyMeta { id: id.clone(), created: TOMBSTONE_CREATED };
    let dug_up = bury(connection, &grave, &tombstone.to_json()).await?;
    let rows = select(connection, ALL, (id.as_str(), id.as_str()).into(), id).await?;
    let values = (id.as_str(), id.as_str(), digits(TOMBSTONE_CREATED));
    if rows.iter().any(|row| row.created != Some(TOMBSTONE_CREATED)) {
        connection.change(DELETE, values).await.map_err(|error| connection.failure(error))?;
    }
    let destroyed = rows.into_iter().filter_map(|row| row.created).filter(|created| *created != TOMBSTONE_CREATED);
    let destroyed = destroyed.map(|created| KeyMeta { id: id.clone(), created });
    let mut destroyed: Vec<KeyMeta> = destroyed.chain(dug_up.then_some(grave)).collect();
    destroyed.sort();
    Ok(destroyed)
}

/// Makes sure that there is a tombstone; returns whether a real key, dated like one, made place for it.
async fn bury(connection: &mut Connection, grave: &KeyMeta, tombstone: &str) -> Result<bool, StoreError> {
    for _attempt in 0..ATTEMPTS {
        if insert(connection, grave, tombstone).await? == StoreOutcome::Stored {
            return Ok(false);
        }
        let Some(row) = find(connection, grave).await? else { continue };
        if row.record(grave).is_ok_and(|record| is_buried(&record)) {
            return Ok(false);
        }
        if replace(connection, grave, row.text.as_deref(), tombstone).await? {
            return Ok(true);
        }
    }
    Err(connection.hitch("others changed the row again and again"))
}

/// Replaces the text of a record that has not changed since it was read; `false` when it has.
async fn replace(
    connection: &mut Connection,
    key: &KeyMeta,
    before: Option<&[u8]>,
    after: &str,
) -> Result<bool, StoreError> {
    let Params::Positional(mut values) = exact(key, None) else { return Ok(false) };
    values.insert(0, after.into());
    values.push(Value::from(before));
    let changed = connection.change(UPDATE, values).await.map_err(|error| connection.failure(error))?;
    Ok(changed > 0)
}

/// Makes a row of a listing, unless no look-up could find it.
fn key_row(row: &Found) -> Option<KeyRow> {
    let key = KeyMeta { id: row.id.clone(), created: row.created? };
    Some(KeyRow { record: row.record(&key), key })
}
