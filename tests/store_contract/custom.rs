//! The example of a store of one's own, on Redis.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use redis::AsyncCommands;

use crate::servers::Redis;
use crate::stage::{Behind, Stage, TestResult};
use custom_store::RedisMetastore;

#[path = "../../examples/custom_store.rs"]
mod custom_store;

crate::contract!(stage, operating::a_listing_goes_on_after_a_key_that_is_not_there);

/// A database of a Redis server, which has as many as the contract has stories, and more.
async fn stage() -> TestResult<Option<Stage>> {
    static SHARED: OnceLock<Result<Option<Redis>, String>> = OnceLock::new();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let shared = SHARED.get_or_init(|| Redis::start().map_err(|error| error.to_string()));
    let Some(server) = shared.as_ref().map_err(String::clone)? else { return Ok(None) };
    let url = format!("redis://127.0.0.1:{}/{}", server.port, NEXT.fetch_add(1, Ordering::Relaxed));
    let store = Arc::new(RedisMetastore::connect(&url).await?);
    let behind = Some(Box::new(redis::Client::open(url)?) as Box<dyn Behind>);
    Ok(Some(Stage { behind, times: (i64::MIN, i64::MAX), ..Stage::new(store) }))
}

#[async_trait]
impl Behind for redis::Client {
    async fn write(&self, id: &str, created: i64, text: &str) -> TestResult<bool> {
        let mut connection = self.get_multiplexed_async_connection().await?;
        let _: () = connection.hset(format!("encryption_key:{id}"), created, text).await?;
        let _: () = connection.zadd("encryption_key", id, 0).await?;
        Ok(true)
    }

    async fn text(&self, id: &str, created: i64) -> TestResult<String> {
        let mut connection = self.get_multiplexed_async_connection().await?;
        Ok(connection.hget(format!("encryption_key:{id}"), created).await?)
    }
}
