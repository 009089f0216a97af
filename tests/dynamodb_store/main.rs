//! DynamoDB beyond the contract of all stores.
//!
//! * On servers: `items.rs` reads what others wrote and refuses what is none, `regions.rs` has two of them, `table.rs` makes
//!   and judges tables, `faults.rs` loses answers.
//! * `refusals.rs` meets what no server of the tests says, by a server of its own (`answers.rs`) that says it.
//! * `surroundings.rs` connects as the surroundings of a process have it, in processes that are started for it.
#![cfg(feature = "dynamodb")]

mod answers;
#[path = "../dynamodb_support/mod.rs"]
mod dynamodb_support;
mod faults;
mod items;
mod refusals;
mod regions;
#[path = "../servers/mod.rs"]
mod servers;
mod surroundings;
mod table;

use aws_sdk_dynamodb::Client;
use keyward::stores::{DynamoDbMetastore, StoreError};
use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};

use crate::dynamodb_support::{client, create, options};
use crate::servers::{DynamoDb, DynamoDbKind, TestResult};

/// A table on a server, and a client of another program.
struct Stage {
    server: &'static DynamoDb,
    client: Client,
    table: String,
    store: DynamoDbMetastore,
}

/// Returns a stage on each server that there is.
async fn stages() -> TestResult<Vec<Stage>> {
    let mut stages = Vec::new();
    for kind in [DynamoDbKind::Moto, DynamoDbKind::Dynalite] {
        let Some(server) = DynamoDb::shared(kind)? else { continue };
        let (client, table) = (client(&server.endpoint(), "us-west-2"), server.table());
        create(&client, &table).await?;
        let store = DynamoDbMetastore::from_client(client.clone(), options(&table)).await?;
        stages.push(Stage { server, client, table, store });
    }
    Ok(stages)
}

fn key(id: &str, created: i64) -> KeyMeta {
    KeyMeta { id: KeyId::new(id), created }
}

fn record(created: i64, encrypted_key: &[u8]) -> EnvelopeKeyRecord {
    EnvelopeKeyRecord { created, encrypted_key: encrypted_key.to_vec(), parent_key: None, revoked: false }
}

/// Returns an error and its causes in one line, which names no secret.
fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(!text.contains("hunter2") && !format!("{error:?}").contains("hunter2"), "{text}");
    text
}
