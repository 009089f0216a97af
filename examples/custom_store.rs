//! A metastore of one's own, on Redis: what a program writes that keeps its keys in a database which Keyward does not know.
//!
//! `Metastore` is all that encrypting and decrypting need: two loads, and one insert that must not replace a row. `KeyAdmin` is for
//! operators: `SessionFactory::keys` takes it. Each key id is a hash of creation times and records, and a sorted set lists the
//! ids. What must not be interrupted is a Lua script, which Redis runs as one.
//!
//! Redis loses what it has confirmed unless it runs with `appendonly yes` and `appendfsync always`: a lost key is lost data.
//!
//! ```sh
//! redis-server --appendonly yes --appendfsync always &
//! cargo run --example custom_store -- redis://127.0.0.1/
//! ```
#![cfg_attr(test, allow(dead_code, reason = "tests use the store alone"))]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward::kms::StaticKms;
use keyward::stores::{KeyAdmin, KeyRow, Metastore, Replacement, Revocation, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta, SessionFactory, TOMBSTONE_CREATED};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, RedisError, Script};
use serde_json::value::RawValue;

/// The set of all ids. An id alone names its hash, behind this prefix.
const IDS: &str = "encryption_key";

/// Inserts a record unless one of its time is there, or the tombstone is: 1 when it did.
const STORE: &str = r"
local buried = redis.call('HGET', KEYS[1], ARGV[3])
if buried then
    local is_json, record = pcall(cjson.decode, buried)
    if is_json and type(record) == 'table' and record.Revoked == true and record.Key == '' then return 0 end
end
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('ZADD', KEYS[2], 0, ARGV[4])
return 1";

/// Replaces a record as long as it is the one that was read: 1 when it was.
const REPLACE: &str = r"
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1";

/// Puts the tombstone in the place of everything, keeping one that is there; returns the times of what was destroyed.
const SHRED: &str = r"
local destroyed = {}
for _, created in ipairs(redis.call('HKEYS', KEYS[1])) do
    local stays = false
    if created == ARGV[1] then
        local is_json, record = pcall(cjson.decode, redis.call('HGET', KEYS[1], created))
        stays = is_json and type(record) == 'table' and record.Revoked == true and record.Key == ''
    end
    if not stays then
        redis.call('HDEL', KEYS[1], created)
        table.insert(destroyed, created)
    end
end
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[3])
return destroyed";

/// A metastore in Redis; cloning shares its connection.
#[derive(Clone)]
pub(crate) struct RedisMetastore {
    connection: ConnectionManager,
    place: String,
}

impl RedisMetastore {
    /// Connects to a server; `url` is `redis://user:password@host:port/database`.
    ///
    /// The connection is driven by the runtime that this is called in, which must go on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn connect(url: &str) -> Result<Self, StoreError> {
        // Errors name the server, never the password.
        let place = format!("redis at {}", url.rsplit_once('@').map_or(url, |(_, place)| place));
        let refused = |error: RedisError| failure("connecting to Redis", &place, &error);
        // Keyward repeats calls itself; a call that hangs is given up.
        let settings = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(Duration::from_secs(2)))
            .set_response_timeout(Some(Duration::from_secs(2)));
        let client = redis::Client::open(url).map_err(refused)?;
        let connection = ConnectionManager::new_with_config(client, settings).await.map_err(refused)?;
        Ok(Self { connection, place })
    }

    /// Reads all versions of a key, the oldest first.
    async fn rows(&self, operation: &'static str, id: &KeyId) -> Result<Vec<(i64, String)>, StoreError> {
        let rows: Vec<(i64, String)> =
            self.connection.clone().hgetall(hash(id)).await.map_err(self.failed(operation))?;
        let mut rows = rows;
        rows.sort_unstable_by_key(|(created, _)| *created);
        Ok(rows)
    }

    /// Sets a field of the record that was read, if nobody has changed the record since; all other fields stay, those that
    /// Keyward does not know too.
    async fn set(
        &self,
        operation: &'static str,
        key: &KeyMeta,
        before: &str,
        (field, value): (&str, String),
    ) -> Result<bool, StoreError> {
        let mut record: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(before).map_err(|error| corrupt(key, error))?;
        record.insert(field.to_owned(), RawValue::from_string(value).map_err(|error| corrupt(key, error))?);
        let after = serde_json::to_string(&record).map_err(|error| corrupt(key, error))?;
        let script = Script::new(REPLACE);
        let mut call = script.key(hash(&key.id));
        call.arg(key.created).arg(before).arg(after);
        call.invoke_async(&mut self.connection.clone()).await.map_err(self.failed(operation))
    }

    /// Reads the text of one version of a key.
    async fn text(&self, operation: &'static str, key: &KeyMeta) -> Result<Option<String>, StoreError> {
        self.connection.clone().hget(hash(&key.id), key.created).await.map_err(self.failed(operation))
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(RedisError) -> StoreError + '_ {
        move |error| failure(operation, &self.place, &error)
    }
}

#[async_trait]
impl Metastore for RedisMetastore {
    async fn load(&self, key: &KeyMeta) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        self.text("loading a key", key).await?.map(|text| read(key, &text)).transpose()
    }

    async fn load_latest(&self, id: &KeyId) -> Result<Option<EnvelopeKeyRecord>, StoreError> {
        let latest = self.rows("loading a key", id).await?.pop();
        latest.map(|(created, text)| read(&KeyMeta { id: id.clone(), created }, &text)).transpose()
    }

    async fn store(&self, id: &KeyId, record: &EnvelopeKeyRecord) -> Result<StoreOutcome, StoreError> {
        let inserted: bool = Script::new(STORE)
            .key(hash(id))
            .key(IDS)
            .arg(record.created)
            .arg(record.to_json())
            .arg(TOMBSTONE_CREATED)
            .arg(id.as_str())
            .invoke_async(&mut self.connection.clone())
            .await
            .map_err(self.failed("storing a key"))?;
        Ok(if inserted { StoreOutcome::Stored } else { StoreOutcome::Duplicate })
    }

    fn kind(&self) -> &'static str {
        "redis"
    }

    fn place(&self) -> &str {
        &self.place
    }
}

#[async_trait]
impl KeyAdmin for RedisMetastore {
    async fn list(&self, after: Option<&KeyMeta>, limit: usize) -> Result<Vec<KeyRow>, StoreError> {
        let mut listed = Vec::new();
        let mut from = after.map_or_else(|| "-".to_owned(), |key| format!("[{}", key.id));
        while listed.len() < limit {
            let ids: Vec<String> = self
                .connection
                .clone()
                .zrangebylex_limit(IDS, from, "+", 0, 100)
                .await
                .map_err(self.failed("listing keys"))?;
            let Some(last) = ids.last() else { break };
            from = format!("({last}");
            for id in ids {
                let rows = self.versions(&KeyId::new(&id)).await?;
                listed.extend(rows.into_iter().filter(|row| after.is_none_or(|after| row.key > *after)));
            }
        }
        listed.truncate(limit);
        Ok(listed)
    }

    async fn versions(&self, id: &KeyId) -> Result<Vec<KeyRow>, StoreError> {
        let row = |(created, text): (i64, String)| {
            let key = KeyMeta { id: id.clone(), created };
            KeyRow { record: read(&key, &text), key }
        };
        Ok(self.rows("listing keys", id).await?.into_iter().map(row).collect())
    }

    async fn revoke(&self, key: &KeyMeta) -> Result<Revocation, StoreError> {
        let operation = "revoking a key";
        loop {
            let Some(before) = self.text(operation, key).await? else { return Ok(Revocation::NotFound) };
            if read(key, &before)?.revoked {
                return Ok(Revocation::AlreadyRevoked);
            }
            if self.set(operation, key, &before, ("Revoked", "true".to_owned())).await? {
                return Ok(Revocation::Revoked);
            }
        }
    }

    async fn replace_wrapped_key(&self, key: &KeyMeta, old: &[u8], new: &[u8]) -> Result<Replacement, StoreError> {
        let operation = "replacing a wrapped key";
        if new.is_empty() {
            let (advice, source) = (Some("give it a wrapped key"), "the one to put in place is empty".into());
            return Err(StoreError::Permanent { operation, advice, source });
        }
        loop {
            let Some(before) = self.text(operation, key).await? else { return Ok(Replacement::NotFound) };
            let record = read(key, &before)?;
            if record.is_tombstone() {
                return Ok(Replacement::NotFound);
            }
            if record.encrypted_key != old {
                return Ok(Replacement::Changed);
            }
            if self.set(operation, key, &before, ("Key", format!("\"{}\"", STANDARD.encode(new)))).await? {
                return Ok(Replacement::Replaced);
            }
        }
    }

    async fn shred(&self, id: &KeyId, tombstone: &EnvelopeKeyRecord) -> Result<Vec<KeyMeta>, StoreError> {
        if !tombstone.is_tombstone() || tombstone.created != TOMBSTONE_CREATED {
            let advice = Some("make it with EnvelopeKeyRecord::tombstone");
            let source = "the record to put in place is no tombstone".into();
            return Err(StoreError::Permanent { operation: "shredding a key", advice, source });
        }
        let mut destroyed: Vec<i64> = Script::new(SHRED)
            .key(hash(id))
            .key(IDS)
            .arg(TOMBSTONE_CREATED)
            .arg(tombstone.to_json())
            .arg(id.as_str())
            .invoke_async(&mut self.connection.clone())
            .await
            .map_err(self.failed("shredding a key"))?;
        destroyed.sort_unstable();
        Ok(destroyed.into_iter().map(|created| KeyMeta { id: id.clone(), created }).collect())
    }
}

fn hash(id: &KeyId) -> String {
    format!("{IDS}:{id}")
}

/// Reads a record. One that is none is an error, never absent: in the place of an absent key a new one is made.
fn read(key: &KeyMeta, text: &str) -> Result<EnvelopeKeyRecord, StoreError> {
    let record = EnvelopeKeyRecord::from_json(text.as_bytes()).map_err(|error| corrupt(key, error))?;
    if record.created == key.created { Ok(record) } else { Err(corrupt(key, "it says it was created at another time")) }
}

fn corrupt(key: &KeyMeta, source: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::Corrupt { id: key.id.to_string(), created: Some(key.created), source: source.into() }
}

/// Sorts an error: what may pass is repeated by Keyward, what will not is told at once.
fn failure(operation: &'static str, place: &str, error: &RedisError) -> StoreError {
    let is_transient =
        error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || error.is_cluster_error();
    let source = format!("{place}: {error}").into();
    if is_transient {
        StoreError::Transient { operation, advice: Some("is the server running?"), source }
    } else {
        StoreError::Permanent { operation, advice: None, source }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).ok_or("give the address of a Redis server: redis://127.0.0.1/")?;
    let store = RedisMetastore::connect(&url).await?;
    let factory = SessionFactory::builder("my-service", "my-product")
        .metastore(store.clone())
        .kms(StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?)
        .build()
        .await?;
    let session = factory.session("alice").await?;
    let record = session.encrypt(b"tea").await?;
    println!("{}", String::from_utf8_lossy(&record.to_json()));
    assert_eq!(session.decrypt(&record).await?, b"tea");
    for row in store.list(None, 10).await? {
        println!("{} created {}", row.key.id, row.key.created);
    }
    factory.close().await?;
    Ok(())
}
