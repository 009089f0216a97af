//! What operators do: list, revoke, shred, replace wrapped keys.

use async_trait::async_trait;
use tokio_postgres::{Error, Row};

use super::failures::{LISTING, REPLACING, REVOKING, SHREDDING};
use super::pool::Lease;
use super::store::{self, ATTEMPTS, ID, PostgresMetastore, SELECT, read};
use super::values::{FIRST, LAST, Param};
use crate::error::StoreError;
use crate::ids::{KeyId, KeyMeta};
use crate::record::{EnvelopeKeyRecord, TOMBSTONE_CREATED};
use crate::stores::place::permanent;
use crate::stores::rows::{Edit, check_tombstone, check_wrapped_key, is_buried, revoke, rewrap};
use crate::stores::{KeyAdmin, KeyRow, Replacement, Revocation};

// In the order of the primary key's index, which is that of the column's collation.
const AFTER: &str = "WHERE (id, created) > ($1::text, $2) \
    AND created BETWEEN '0001-01-01' AND '9999-12-31 23:59:59' AND created = date_trunc('second', created) \
    ORDER BY id, created LIMIT $3";
const VERSIONS: &str = "ORDER BY created";
// Only as long as the text is what was read: nobody's change is lost.
const UPDATE: &str = "UPDATE encryption_key SET key_record = $3 ";
const AS_READ: &str = "AND created = $2 AND key_record::text = $4";
const BURY: &str = "INSERT INTO encryption_key (id, created, key_record) VALUES ($1, $2, $3) \
    ON CONFLICT (id, created) DO UPDATE SET key_record = EXCLUDED.key_record";
const DELETE: &str = "DELETE FROM encryption_key ";
const OTHERS: &str = "AND created <> $2";

/// Rows whose `created` is infinite, has a fraction of a second or lies outside the years 1 to 9999 have no [`KeyMeta`] and
/// are left out of listings. Shredding removes them.
///
/// Deleted rows stay in the files of the server until it vacuums the table, and in its write-ahead log, replicas and
/// backups for as long as those are kept.
#[async_trait]
impl KeyAdmin for PostgresMetastore {
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        let (id, created) = after.map_or(("", FIRST - 1), |key| (key.id.as_str(), key.created.clamp(FIRST - 1, LAST)));
        let limit = Param::Limit(i64::try_from(limit).unwrap_or(i64::MAX));
        let lease = self.pool.get(LISTING).await?;
        let params = [Param::Text(id), Param::Created(created), limit];
        let answer = lease.query(&format!("{SELECT}{AFTER}"), &self.columns, &params).await;
        lease.finish(LISTING, answer.and_then(|rows| rows_with_keys(&rows)))
    }

    async fn versions(&self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
        let lease = self.pool.get(LISTING).await?;
        let answer = self.rows_of(&lease, id).await;
        lease.finish(LISTING, answer)
    }

    async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, StoreError> {
        self.edit(REVOKING, key, Revocation::NotFound, |text| revoke(key, text)).await
    }

    async fn shred(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError> {
        check_tombstone(SHREDDING, tombstone)?;
        let lease = self.pool.get(SHREDDING).await?;
        let answer = self.bury(&lease, id, tombstone).await;
        lease.finish(SHREDDING, answer)
    }

    async fn replace_wrapped_key(&self, key: &KeyMeta, old: &[u8], new: &[u8]) -> Result<Replacement, StoreError> {
        check_wrapped_key(REPLACING, new)?;
        self.edit(REPLACING, key, Replacement::NotFound, |text| rewrap(key, text, old, new)).await
    }
}

impl PostgresMetastore {
    /// Changes the text of a record as `edit` says, unless somebody else changes it meanwhile: then once more; `absent` when
    /// there is none.
    async fn edit<R>(
        &self,
        operation: &'static str,
        key: &KeyMeta,
        absent: R,
        edit: impl Fn(&[u8]) -> Result<Edit<R>, StoreError>,
    ) -> Result<R, StoreError> {
        if !(FIRST..=LAST).contains(&key.created) {
            return Ok(absent); // no such row can have been stored
        }
        let place = [Param::Text(key.id.as_str()), Param::Created(key.created)];
        for _ in 0..ATTEMPTS {
            let lease = self.pool.get(operation).await?;
            let text = async {
                let sql = format!("{SELECT}{ID}AND created = $2");
                let rows = lease.query(&sql, &self.columns, &place).await?;
                rows.first().map(|row| row.try_get::<_, String>(2)).transpose()
            };
            let text = text.await;
            let Some(before) = lease.finish(operation, text)? else { return Ok(absent) };
            let (after, outcome) = match edit(before.as_bytes())? {
                Edit::Write(after, outcome) => (after, outcome),
                Edit::Leave(outcome) => return Ok(outcome),
            };
            let lease = self.pool.get(operation).await?;
            let params = [place[0], place[1], Param::Record(&after), Param::Text(&before)];
            let answer = lease.execute(&format!("{UPDATE}{ID}{AS_READ}"), &self.columns, &params).await;
            if lease.finish(operation, answer)? == 1 {
                return Ok(outcome);
            }
        }
        Err(permanent(operation, &self.pool.place, store::UNCHANGED, format!("key {key} is still as it was")))
    }

    async fn rows_of(&self, lease: &Lease<'_>, id: &KeyId) -> Result<Vec<KeyRow>, Error> {
        let sql = format!("{SELECT}{ID}{VERSIONS}");
        let rows = lease.query(&sql, &self.columns, &[Param::Text(id.as_str())]).await?;
        rows_with_keys(&rows)
    }

    /// Writes the tombstone, then deletes all other rows; writers look for it after they have inserted.
    async fn bury(&self, lease: &Lease<'_>, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, Error> {
        let is_tombstone = |row: &KeyRow| row.record.as_ref().is_ok_and(is_buried);
        let place = [Param::Text(id.as_str()), Param::Created(TOMBSTONE_CREATED)];
        let before = self.rows_of(lease, id).await?;
        let mut destroyed: Vec<KeyMeta> = Vec::new();
        if !before.iter().any(is_tombstone) {
            // A key of that very time is overwritten.
            destroyed.extend(before.into_iter().map(|row| row.key).filter(|key| key.created == TOMBSTONE_CREATED));
            let text = tombstone.to_json();
            lease.execute(BURY, &self.columns, &[place[0], place[1], Param::Record(&text)]).await?;
        }
        let sql = format!("{DELETE}{ID}{OTHERS} RETURNING id::text, created, key_record::text");
        for row in lease.query(&sql, &self.columns, &place).await? {
            destroyed.extend(read(&row)?.1.map(|row| row.key));
        }
        destroyed.sort();
        Ok(destroyed)
    }
}

fn rows_with_keys(rows: &[Row]) -> Result<Vec<KeyRow>, Error> {
    rows.iter().filter_map(|row| read(row).map(|(_, row)| row).transpose()).collect()
}
