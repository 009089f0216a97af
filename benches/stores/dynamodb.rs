//! moto, which stands for DynamoDB, and the AWS SDK by itself.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::{Client, Config};
use keyward::TOMBSTONE_CREATED;
use keyward::stores::{DynamoDbMetastore, DynamoDbOptions};

use crate::race::{Amounts, Call, Entry};
use crate::servers::{DynamoDb, DynamoDbKind};
use crate::side::{BenchResult, Row, Rows, Side, expect_one};
use crate::table::Contest;

const ATTRIBUTES: &str = "Id, Created, KeyRecord";
const OF_ID: &str = "Id = :id";
const BETWEEN: &str = "Id = :id AND Created BETWEEN :first AND :last";
const IS_NEW: &str = "attribute_not_exists(Id)";

pub(crate) async fn measure() -> BenchResult {
    let Some(server) = DynamoDb::start(DynamoDbKind::Moto)? else { return Ok(()) };
    let table = server.table();
    create(&client(&server.endpoint()), &table).await?;
    let mut options = DynamoDbOptions::default();
    options.table.clone_from(&table);
    let ours: Arc<dyn Side> = Arc::new(DynamoDbMetastore::from_client(client(&server.endpoint()), options).await?);
    let driver: Arc<dyn Side> = Arc::new(Driver { client: client(&server.endpoint()), table });
    let rows = Rows::new();
    rows.put(&*driver).await?;
    let contest = Contest {
        title: "moto, an imitation of DynamoDB that answers one request at a time and slowly",
        stores: vec![
            Entry::new("aws-sdk-dynamodb, PutItem and Query of both rows", &driver, Call::StoreAndFollowUp),
            Entry::new("aws-sdk-dynamodb, PutItem", &driver, Call::Store),
        ],
        loads: vec![("aws-sdk-dynamodb", driver)],
        ours,
        load_amounts: Amounts { rounds: 40, batch: 10, each: 1 },
        store_amounts: Amounts { rounds: 40, batch: 10, each: 1 },
    };
    contest.run(&rows).await
}

/// Returns a client whose credentials nobody has.
fn client(endpoint: &str) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-west-2"))
        .credentials_provider(Credentials::new("AKIAEXAMPLE", "example", None, None, "bench"))
        .endpoint_url(endpoint)
        .retry_config(RetryConfig::disabled());
    Client::from_conf(config.build())
}

/// Makes the table.
async fn create(client: &Client, table: &str) -> BenchResult {
    use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
    let mut request = client.create_table().table_name(table).billing_mode(BillingMode::PayPerRequest);
    for (name, key, kind) in
        [("Id", KeyType::Hash, ScalarAttributeType::S), ("Created", KeyType::Range, ScalarAttributeType::N)]
    {
        let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build()?;
        let element = KeySchemaElement::builder().attribute_name(name).key_type(key).build()?;
        request = request.attribute_definitions(attribute).key_schema(element);
    }
    // It is there when moto has answered.
    request.send().await?;
    Ok(())
}

struct Driver {
    client: Client,
    table: String,
}

#[async_trait]
impl Side for Driver {
    async fn load(&self, _: usize, row: &Row) -> BenchResult {
        let request = self.client.get_item().table_name(&self.table).consistent_read(true);
        let request = request.key("Id", id(row)).key("Created", number(row.key.created));
        expect_one(request.projection_expression(ATTRIBUTES).send().await?.item.is_some())
    }

    async fn load_latest(&self, _: usize, row: &Row) -> BenchResult {
        let request = self.client.query().table_name(&self.table).consistent_read(true);
        let request = request.projection_expression(ATTRIBUTES).key_condition_expression(OF_ID);
        let request = request.expression_attribute_values(":id", id(row)).scan_index_forward(false).limit(1);
        expect_one(request.send().await?.items().len() == 1)
    }

    async fn store(&self, _: usize, row: &Row) -> BenchResult {
        let created = number(row.key.created);
        let request = self.client.put_item().table_name(&self.table).condition_expression(IS_NEW);
        let request = request.item("Id", id(row)).item("Created", created).item("KeyRecord", record(row)?);
        request.send().await?;
        Ok(())
    }

    async fn follow_up(&self, _: usize, row: &Row) -> BenchResult {
        let request = self.client.query().table_name(&self.table).consistent_read(true);
        let request = request.projection_expression(ATTRIBUTES).key_condition_expression(BETWEEN);
        let request = request
            .expression_attribute_values(":id", id(row))
            .expression_attribute_values(":first", number(row.key.created))
            .expression_attribute_values(":last", number(TOMBSTONE_CREATED));
        expect_one(request.send().await?.items().len() == 1)
    }
}

fn id(row: &Row) -> AttributeValue {
    AttributeValue::S(row.key.id.as_str().to_owned())
}

fn number(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Returns the record as a map, its key in the base64 of its text.
fn record(row: &Row) -> BenchResult<AttributeValue> {
    let text: serde_json::Value = serde_json::from_str(&row.text)?;
    let key = text["Key"].as_str().ok_or("a record has a key")?.to_owned();
    let parent = row.record.parent_key.as_ref().ok_or("an intermediate key has a parent")?;
    let parent = [
        ("KeyId".to_owned(), AttributeValue::S(parent.id.as_str().to_owned())),
        ("Created".to_owned(), number(parent.created)),
    ];
    let fields = [
        ("Created".to_owned(), number(row.record.created)),
        ("Key".to_owned(), AttributeValue::S(key)),
        ("ParentKeyMeta".to_owned(), AttributeValue::M(parent.into())),
    ];
    Ok(AttributeValue::M(fields.into()))
}
