//! Tables of what speaks DynamoDB: moto, and dynalite as a second opinion.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use keyward::stores::{DynamoDbMetastore, Metastore, RegionSuffix};
use serde_json::{Value, json};

use crate::dynamodb_support::{client, options};
use crate::peers::{Kind, TestResult};
use crate::servers::{DynamoDb, DynamoDbKind};
use crate::world::{ALL_THREE, GO, KEYWARD, PARTITIONS, RUST, Table, World, are_here, migrate, orders};

const KINDS: [DynamoDbKind; 2] = [DynamoDbKind::Moto, DynamoDbKind::Dynalite];

#[derive(Clone)]
struct InDynamoDb<'a> {
    server: &'a DynamoDb,
    table: String,
    region: &'static str,
    /// With `_`, as ids end in it.
    suffix: &'static str,
}

/// What the processes of peers and of the command find; nobody else has it.
const ENVIRONMENT: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_EC2_METADATA_DISABLED", "true")];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn the_table_that_migrate_makes_is_for_all_without_a_suffix() -> TestResult {
    cross("").await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn the_table_that_migrate_makes_is_for_all_with_a_suffix() -> TestResult {
    cross("_us-west-2").await
}

async fn cross(suffix: &'static str) -> TestResult {
    for kind in KINDS {
        let Some(server) = DynamoDb::shared(kind)? else { continue };
        for sides in orders() {
            let table = InDynamoDb { server, table: server.table(), region: "us-west-2", suffix };
            table.create(kind).await?;
            World::new(&table, sides).await?.cross().await?;
        }
    }
    Ok(())
}

/// Whoever has a suffix reads records of keys without one. The other way round, the one in Rust alone does: what it has no
/// key for, it tries with any key whose id begins as its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn a_suffix_may_be_introduced_and_is_not_read_without() -> TestResult {
    for kind in KINDS {
        let Some(server) = DynamoDb::shared(kind)? else { continue };
        for sides in ALL_THREE.into_iter().filter(|sides| are_here(sides)) {
            let before = InDynamoDb { server, table: server.table(), region: "us-west-2", suffix: "" };
            let after = InDynamoDb { suffix: "_us-west-2", ..before.clone() };
            before.create(kind).await?;
            let (mut before, mut after) = (World::new(&before, sides).await?, World::new(&after, sides).await?);
            for (number, partition) in PARTITIONS.into_iter().enumerate() {
                let writer = sides[number % sides.len()];
                let record = before.encrypt(writer, partition, b"tea").await?;
                after.assert_all_read(writer, partition, b"tea", &record).await?;
            }
            // Reading made no keys with a suffix.
            after.assert_one_row_per_key(&[""]).await?;
            for (number, partition) in PARTITIONS.into_iter().enumerate() {
                let writer = sides[number % sides.len()];
                let record = after.encrypt(writer, partition, b"tea").await?;
                after.assert_all_read(writer, partition, b"tea", &record).await?;
                before.assert_refused(KEYWARD, partition, &record).await?;
                before.assert_refused(GO, partition, &record).await?;
            }
            after.assert_one_row_per_key(&["", "_us-west-2"]).await?;
        }
    }
    Ok(())
}

/// Dynalite has one set of tables, whatever the region: it stands for a global table.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Python packages asherah; scripts/test has them and runs this"]
async fn records_of_another_region_are_read_where_that_is_allowed() -> TestResult {
    let Some(server) = DynamoDb::shared(DynamoDbKind::Dynalite)? else { return Ok(()) };
    for writer in [KEYWARD, GO, RUST].into_iter().filter(|&side| are_here(&[side])) {
        let there = InDynamoDb { server, table: server.table(), region: "us-east-1", suffix: "_us-east-1" };
        let here = InDynamoDb { region: "us-west-2", suffix: "_us-west-2", ..there.clone() };
        let neither = InDynamoDb { suffix: "", ..here.clone() };
        there.create(DynamoDbKind::Dynalite).await?;
        let mut elsewhere = World::new(&there, &[writer]).await?;
        let mut strict = World::new(&here, &[KEYWARD]).await?;
        let mut allowed = World::new(&here, &[KEYWARD]).await?;
        allowed.allow_reading("us-east-1").await?;
        let mut without = World::new(&neither, &[KEYWARD]).await?;
        without.allow_reading("us-east-1").await?;
        for partition in PARTITIONS {
            let record = elsewhere.encrypt(writer, partition, b"tea").await?;
            strict.assert_refused(KEYWARD, partition, &record).await?;
            allowed.assert_all_read(writer, partition, b"tea", &record).await?;
            without.assert_all_read(writer, partition, b"tea", &record).await?;
        }
        // The others read records of all regions.
        for reader in [GO, RUST].into_iter().filter(|&side| are_here(&[side])) {
            let mut reading = World::new(&here, &[reader]).await?;
            for partition in PARTITIONS {
                let record = elsewhere.encrypt(writer, partition, b"tea").await?;
                reading.assert_all_read(writer, partition, b"tea", &record).await?;
            }
        }
        // Reading made no keys.
        elsewhere.assert_one_row_per_key(&["_us-east-1"]).await?;
    }
    Ok(())
}

impl InDynamoDb<'_> {
    /// Makes the table with `keyward migrate --apply`; by hand where the server lacks what that turns on.
    async fn create(&self, kind: DynamoDbKind) -> TestResult {
        if kind == DynamoDbKind::Moto {
            let (table, region, endpoint) = (&self.table, self.region, self.server.endpoint());
            return migrate(&format!("dynamodb:{table}?region={region}&endpoint={endpoint}"), &ENVIRONMENT);
        }
        let client = client(&self.server.endpoint(), self.region);
        let mut request = client.create_table().table_name(&self.table).billing_mode(BillingMode::PayPerRequest);
        for (name, key, kind) in
            [("Id", KeyType::Hash, ScalarAttributeType::S), ("Created", KeyType::Range, ScalarAttributeType::N)]
        {
            let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build()?;
            let element = KeySchemaElement::builder().attribute_name(name).key_type(key).build()?;
            request = request.attribute_definitions(attribute).key_schema(element);
        }
        request.send().await?;
        let is_active = |table: &aws_sdk_dynamodb::types::TableDescription| {
            table.table_status.as_ref().is_some_and(|status| status.as_str() == "ACTIVE")
        };
        while !client.describe_table().table_name(&self.table).send().await?.table.as_ref().is_some_and(is_active) {
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

#[async_trait]
impl Table for InDynamoDb<'_> {
    fn config(&self, _: Kind) -> Value {
        json!({
            "Metastore": "dynamodb",
            "DynamoDBEndpoint": self.server.endpoint(),
            "DynamoDBRegion": self.region,
            "DynamoDBTableName": self.table,
            "EnableRegionSuffix": !self.suffix.is_empty(),
            // The one in Rust starts no more where a table was first used with another suffix, or without one.
            "ConfigDriftForceRun": true,
        })
    }

    fn environment(&self) -> &[(&str, &str)] {
        &ENVIRONMENT
    }

    async fn store(&self) -> TestResult<Arc<dyn Metastore>> {
        let mut options = options(&self.table);
        options.suffix = (!self.suffix.is_empty()).then_some(RegionSuffix::OfRegion);
        let client = client(&self.server.endpoint(), self.region);
        Ok(Arc::new(DynamoDbMetastore::from_client(client, options).await?))
    }

    async fn rows(&self) -> TestResult<Vec<(String, i64)>> {
        let client = client(&self.server.endpoint(), self.region);
        let items = client.scan().table_name(&self.table).consistent_read(true).send().await?.items.unwrap_or_default();
        let row = |item: &std::collections::HashMap<String, AttributeValue>| match (item.get("Id"), item.get("Created"))
        {
            (Some(AttributeValue::S(id)), Some(AttributeValue::N(created))) => Ok((id.clone(), created.parse()?)),
            _ => Err(format!("an item of other types: {item:?}").into()),
        };
        items.iter().map(row).collect()
    }

    fn suffix(&self) -> &str {
        self.suffix
    }
}
