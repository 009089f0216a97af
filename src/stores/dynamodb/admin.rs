//! What operators do: list, revoke, shred, replace wrapped keys.

use async_trait::async_trait;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use super::failures::{LISTING, REPLACING, REVOKING, SHREDDING, failure};
use super::item::{CREATED, ID, Item, address, item, key_of, key_text, number, read, read_as_revoked, row, text};
use super::store::{ATTRIBUTES, DynamoDbMetastore, Table};
use crate::error::StoreError;
use crate::ids::{KeyId, KeyMeta};
use crate::record::{EnvelopeKeyRecord, TOMBSTONE_CREATED, base64_text};
use crate::stores::place::transient;
use crate::stores::rows::{check_tombstone, check_wrapped_key, corrupt, judge_replacement};
use crate::stores::{KeyAdmin, KeyRow, Replacement, Revocation};

/// Items of one page; a page ends at 1 MiB anyway.
const PAGE: usize = 1000;

/// How often a change that others come between is begun anew.
const ATTEMPTS: usize = 16;

/// How often it is looked for rows of a shredded key. Once finds all that anybody encrypts under, see [`Table::look`]; those
/// found later were stored after the tombstone, by programs that are about to take them back, or may not.
const ROUNDS: usize = 3;

// Nothing but this field changes, so nobody's change is lost.
const REVOKE: &str = "SET KeyRecord.Revoked = :true";
const IS_RECORD: &str = "attribute_exists(Id) AND attribute_type(KeyRecord, :map)";
// The text that was read, whatever its base64 looks like. A comparison with what is missing is false.
const REPLACE: &str = "SET KeyRecord.#key = :new";
const IS_AS_READ: &str = "KeyRecord.#key = :old";
// A tombstone that is there is kept, whatever else is there is overwritten. A comparison with what is missing is false.
const IS_NO_TOMBSTONE: &str = "attribute_not_exists(Id) OR \
    NOT (KeyRecord.Created = :created AND KeyRecord.#key = :nothing AND KeyRecord.Revoked = :true)";

/// Listings come in an order that DynamoDB keeps to, in which versions of one key stand together, the oldest first. Items
/// whose `Created` is no whole number of seconds have no [`KeyMeta`] and are left out. Shredding removes them.
///
/// Listing reads the whole table, at the price of a
/// [scan](https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Scan.html). The rights that operators need are
/// `dynamodb:Scan`, `UpdateItem` and `DeleteItem` beside those of encrypting.
///
/// Point-in-time recovery, backups and streams keep what is deleted for as long as they are set to. In a global table, shred
/// a key in the region that its id ends in: a tombstone written elsewhere is seen there a second later, and what was stored in
/// that second stays until the key is shredded again.
#[async_trait]
impl KeyAdmin for DynamoDbMetastore {
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        let table = &self.table;
        let scan = table.client().scan().table_name(table.name()).consistent_read(true);
        let scan = scan.projection_expression(ATTRIBUTES);
        let mut rows = Vec::new();
        let mut start = after.map(address);
        while rows.len() < limit {
            let most = i32::try_from(PAGE.min(limit - rows.len())).unwrap_or(i32::MAX);
            let page = scan.clone().limit(most).set_exclusive_start_key(start.take()).send().await;
            let page = page.map_err(|error| failure(LISTING, &table.place, &error))?;
            rows.extend(page.items.iter().flatten().filter_map(row));
            start = page.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() {
                break;
            }
        }
        Ok(rows)
    }

    async fn versions(&self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
        let items = self.table.read(LISTING, self.table.versions(id)).await?;
        Ok(items.iter().filter_map(row).collect())
    }

    async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, StoreError> {
        let table = &self.table;
        for _ in 0..ATTEMPTS {
            let Some(before) = table.load(REVOKING, key).await? else { return Ok(Revocation::NotFound) };
            if read(key, &before).is_ok_and(|record| record.revoked) {
                return Ok(Revocation::AlreadyRevoked);
            }
            let _ = read_as_revoked(key, before)?;
            let request = table.client().update_item().table_name(table.name()).set_key(Some(address(key)));
            let answer = request
                .update_expression(REVOKE)
                .condition_expression(IS_RECORD)
                .expression_attribute_values(":true", AttributeValue::Bool(true))
                .expression_attribute_values(":map", text("M"))
                .send()
                .await;
            match answer {
                Ok(_) => return Ok(Revocation::Revoked),
                // It was deleted, or replaced by what is no record, since it was read.
                Err(error) if is_other(&error) => {}
                Err(error) => return Err(failure(REVOKING, &table.place, &error)),
            }
        }
        Err(transient(REVOKING, &table.place, None, "the row changes all the time"))
    }

    async fn shred(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError> {
        check_tombstone(SHREDDING, tombstone)?;
        let mut destroyed = Vec::from_iter(self.table.bury(id, tombstone).await?);
        for _ in 0..ROUNDS {
            let mut others = self.table.read(SHREDDING, self.table.versions(id)).await?;
            others.retain(|item| key_of(item).is_none_or(|key| key.created != TOMBSTONE_CREATED));
            if others.is_empty() {
                break;
            }
            for item in others {
                destroyed.extend(self.table.delete(item).await?);
            }
        }
        destroyed.sort();
        destroyed.dedup();
        Ok(destroyed)
    }

    async fn replace_wrapped_key(&self, key: &KeyMeta, old: &[u8], new: &[u8]) -> Result<Replacement, StoreError> {
        check_wrapped_key(REPLACING, new)?;
        let table = &self.table;
        for _ in 0..ATTEMPTS {
            let Some(before) = table.load(REPLACING, key).await? else { return Ok(Replacement::NotFound) };
            if let Some(outcome) = judge_replacement(&read(key, &before)?, old, new) {
                return Ok(outcome);
            }
            let before = key_text(&before).ok_or_else(|| corrupt(key, "it has no key"))?;
            let request = table.client().update_item().table_name(table.name()).set_key(Some(address(key)));
            let answer = request
                .update_expression(REPLACE)
                .condition_expression(IS_AS_READ)
                .expression_attribute_names("#key", "Key")
                .expression_attribute_values(":old", text(before))
                .expression_attribute_values(":new", text(base64_text(new)))
                .send()
                .await;
            match answer {
                Ok(_) => return Ok(Replacement::Replaced),
                // Its key is another text since it was read, or it is gone.
                Err(error) if is_other(&error) => {}
                Err(error) => return Err(failure(REPLACING, &table.place, &error)),
            }
        }
        Err(transient(REPLACING, &table.place, None, "the row changes all the time"))
    }
}

/// Whether an update found an item other than the one that its condition asks for.
fn is_other(error: &SdkError<UpdateItemError, HttpResponse>) -> bool {
    error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception)
}

impl Table {
    /// Puts the tombstone in place, unless one is there; returns which key it has overwritten.
    async fn bury(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Option<KeyMeta>, StoreError> {
        let key = KeyMeta { id: id.clone(), created: TOMBSTONE_CREATED };
        let request = self.client().put_item().table_name(self.name()).set_item(Some(item(&key, tombstone)));
        let answer = request
            .condition_expression(IS_NO_TOMBSTONE)
            .expression_attribute_names("#key", "Key")
            .expression_attribute_values(":created", number(TOMBSTONE_CREATED))
            .expression_attribute_values(":nothing", text(""))
            .expression_attribute_values(":true", AttributeValue::Bool(true))
            .return_values(ReturnValue::AllOld)
            .send()
            .await;
        match answer {
            Ok(answer) => Ok(answer.attributes.filter(|item| !item.is_empty()).map(|_| key)),
            Err(error) if error.as_service_error().is_some_and(PutItemError::is_conditional_check_failed_exception) => {
                Ok(None)
            }
            Err(error) => Err(failure(SHREDDING, &self.place, &error)),
        }
    }

    /// Deletes an item; returns its key if it was there, and has one.
    async fn delete(&self, mut item: Item) -> Result<Option<KeyMeta>, StoreError> {
        let key = key_of(&item);
        item.retain(|name, _| name == ID || name == CREATED);
        let request = self.client().delete_item().table_name(self.name()).set_key(Some(item));
        let answer = request.return_values(ReturnValue::AllOld).send().await;
        let answer = answer.map_err(|error| failure(SHREDDING, &self.place, &error))?;
        Ok(key.filter(|_| answer.attributes.is_some_and(|item| !item.is_empty())))
    }
}
