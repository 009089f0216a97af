//! What other programs do with tables of DynamoDB.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::collections::HashMap;
use std::error::Error;

use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableStatus,
};
use aws_sdk_dynamodb::{Client, Config};
use keyward::stores::DynamoDbOptions;
use serde_json::Value;

pub(crate) type TestResult<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;
pub(crate) type Item = HashMap<String, AttributeValue>;

/// Returns a client whose credentials nobody else has.
pub(crate) fn client(endpoint: &str, region: &str) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .credentials_provider(Credentials::new("AKIAEXAMPLE", "hunter2", None, None, "test"))
        .endpoint_url(endpoint)
        .retry_config(RetryConfig::disabled());
    Client::from_conf(config.build())
}

/// Returns options for this table.
pub(crate) fn options(table: &str) -> DynamoDbOptions {
    let mut options = DynamoDbOptions::default();
    table.clone_into(&mut options.table);
    options
}

/// Writes an item as it is.
pub(crate) async fn put(client: &Client, table: &str, item: Item) -> TestResult {
    client.put_item().table_name(table).set_item(Some(item)).send().await?;
    Ok(())
}

/// Reads an item as it is.
pub(crate) async fn get(client: &Client, table: &str, id: &str, created: i64) -> TestResult<Option<Item>> {
    let request = client.get_item().table_name(table).consistent_read(true);
    let created = AttributeValue::N(created.to_string());
    Ok(request.key("Id", AttributeValue::S(id.to_owned())).key("Created", created).send().await?.item)
}

/// Returns an item of these keys; what it holds as `KeyRecord` is up to the caller.
pub(crate) fn item(id: &str, created: i64, key_record: Option<AttributeValue>) -> Item {
    let mut item = Item::from([
        ("Id".to_owned(), AttributeValue::S(id.to_owned())),
        ("Created".to_owned(), AttributeValue::N(created.to_string())),
    ]);
    item.extend(key_record.map(|record| ("KeyRecord".to_owned(), record)));
    item
}

/// Returns what stands for a JSON value; numbers of any size are taken.
pub(crate) fn attribute(value: &Value) -> AttributeValue {
    match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(value) => AttributeValue::Bool(*value),
        Value::Number(number) => AttributeValue::N(number.to_string()),
        Value::String(text) => AttributeValue::S(text.clone()),
        Value::Array(values) => AttributeValue::L(values.iter().map(attribute).collect()),
        Value::Object(fields) => {
            AttributeValue::M(fields.iter().map(|(name, value)| (name.clone(), attribute(value))).collect())
        }
    }
}

/// Writes attributes in the order of their names.
pub(crate) fn sorted(item: &Item) -> String {
    let text = |value: &AttributeValue| match value {
        AttributeValue::M(fields) => sorted(fields),
        other => format!("{other:?}"),
    };
    let mut fields: Vec<String> = item.iter().map(|(name, value)| format!("{name}: {}", text(value))).collect();
    fields.sort();
    format!("{{{}}}", fields.join(", "))
}

/// Makes a table as other implementations have it, and waits until it is there.
pub(crate) async fn create(client: &Client, table: &str) -> TestResult {
    let mut request = client.create_table().table_name(table).billing_mode(BillingMode::PayPerRequest);
    for (name, key, kind) in
        [("Id", KeyType::Hash, ScalarAttributeType::S), ("Created", KeyType::Range, ScalarAttributeType::N)]
    {
        let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build()?;
        let element = KeySchemaElement::builder().attribute_name(name).key_type(key).build()?;
        request = request.attribute_definitions(attribute).key_schema(element);
    }
    request.send().await?;
    loop {
        let found = client.describe_table().table_name(table).send().await?.table;
        if found.is_some_and(|table| table.table_status == Some(TableStatus::Active)) {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}
