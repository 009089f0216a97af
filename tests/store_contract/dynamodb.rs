//! Tables of what speaks DynamoDB: moto, and dynalite as a second opinion.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use keyward::stores::DynamoDbMetastore;

use crate::dynamodb_support::{attribute, client, get, item, options, put, sorted};
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
    table.create().await?;
    let store = DynamoDbMetastore::from_client(table.client.clone(), options(&table.name)).await?;
    let behind = Some(Box::new(table) as Box<dyn Behind>);
    Ok(Some(Stage { behind, times: (i64::MIN, i64::MAX), is_ordered: false, ..Stage::new(Arc::new(store)) }))
}

impl Table {
    async fn create(&self) -> TestResult {
        let mut request = self.client.create_table().table_name(&self.name).billing_mode(BillingMode::PayPerRequest);
        for (name, key, kind) in
            [("Id", KeyType::Hash, ScalarAttributeType::S), ("Created", KeyType::Range, ScalarAttributeType::N)]
        {
            let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build()?;
            let element = KeySchemaElement::builder().attribute_name(name).key_type(key).build()?;
            request = request.attribute_definitions(attribute).key_schema(element);
        }
        request.send().await?;
        while self
            .client
            .describe_table()
            .table_name(&self.name)
            .send()
            .await?
            .table
            .is_none_or(|table| table.table_status.is_none_or(|status| status.as_str() != "ACTIVE"))
        {
            tokio::task::yield_now().await;
        }
        Ok(())
    }
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
