//! Tables of what speaks DynamoDB: moto, and dynalite as a second opinion.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use keyward::stores::DynamoDbMetastore;

use crate::dynamodb_support::{attribute, client, create, get, item, options, put, sorted};
use crate::servers::{DynamoDb, DynamoDbKind};
use crate::stage::{Behind, Stage, TestResult};

mod moto {
    crate::contract!(stage);
    async fn stage() -> crate::stage::TestResult<Option<crate::stage::Stage>> {
        super::stage(crate::servers::DynamoDbKind::Moto).await
    }
}
mod dynalite {
    crate::contract!(stage);
    async fn stage() -> crate::stage::TestResult<Option<crate::stage::Stage>> {
        super::stage(crate::servers::DynamoDbKind::Dynalite).await
    }
}

/// A table, as another program uses it.
struct Table {
    client: Client,
    name: String,
}

async fn stage(kind: DynamoDbKind) -> TestResult<Option<Stage>> {
    let Some(server) = DynamoDb::shared(kind)? else { return Ok(None) };
    let table = Table { client: client(&server.endpoint(), "us-west-2"), name: server.table() };
    create(&table.client, &table.name).await?;
    let store = DynamoDbMetastore::from_client(table.client.clone(), options(&table.name)).await?;
    let behind = Some(Box::new(table) as Box<dyn Behind>);
    Ok(Some(Stage { behind, times: (i64::MIN, i64::MAX), is_ordered: false, ..Stage::new(Arc::new(store)) }))
}

#[async_trait]
impl Behind for Table {
    /// What is no JSON becomes a string where a map should be.
    async fn write(&self, id: &str, created: i64, text: &str) -> TestResult<bool> {
        // The largest number that DynamoDB holds is 9.9e125.
        let text = text.replace("1e400", "1e100");
        let record = match serde_json::from_str(&text) {
            Ok(value) => attribute(&value),
            Err(_) => AttributeValue::S(text),
        };
        put(&self.client, &self.name, item(id, created, Some(record))).await?;
        Ok(true)
    }

    async fn text(&self, id: &str, created: i64) -> TestResult<String> {
        let item = get(&self.client, &self.name, id, created).await?.ok_or("no such item")?;
        Ok(sorted(&item))
    }
}
