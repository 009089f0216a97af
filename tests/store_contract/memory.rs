//! The store in memory.

use std::sync::Arc;

use keyward::stores::InMemoryMetastore;

use crate::stage::{Stage, TestResult};

crate::contract!(stage, operating::a_listing_goes_on_after_a_key_that_is_not_there);

async fn stage() -> TestResult<Option<Stage>> {
    let stage = Stage::new(Arc::new(InMemoryMetastore::new()));
    Ok(Some(Stage { times: (i64::MIN, i64::MAX), ..stage }))
}
