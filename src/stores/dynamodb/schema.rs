//! How the table is made.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata};
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, PointInTimeRecoverySpecification, ScalarAttributeType,
};
use tokio::time::{Instant, sleep};

use super::failures::{INSPECTING, MIGRATING, NO_TABLE, failure, is_hidden};
use super::item::{CREATED, ID};
use super::store::{DynamoDbMetastore, Table};
use super::table::{Found, Sight};
use crate::error::StoreError;
use crate::stores::place::{permanent, transient};
use crate::stores::{SchemaAdmin, TableReport};

/// How long a new table may take to be there; ten seconds are usual.
const MAKING: Duration = Duration::from_secs(120);

/// How long recovery of a new table may be refused because its backups are being set up.
const SETTING_UP: Duration = Duration::from_secs(30);

/// How often it is looked whether they are.
const LOOK: Duration = Duration::from_millis(500);

#[async_trait]
impl SchemaAdmin for DynamoDbMetastore {
    fn schema(&self) -> String {
        let table = &self.table;
        format!(
            "{}\n{}\n# Keys that are shredded can be restored for as many days as recovery is set to, 35 unless it is less.\n{}\n",
            table.creation(),
            table.command("wait table-exists", ""),
            table.recovery(),
        )
    }

    async fn inspect(&self) -> Result<TableReport, StoreError> {
        let table = &self.table;
        match table.see(INSPECTING).await? {
            None => Ok(TableReport { facts: vec![table.place.clone()], ..TableReport::default() }),
            Some(mut found) => {
                let mut unknown = Vec::new();
                table.look_closer(&mut found, &mut unknown).await;
                let facts = [found.facts(table), unknown].concat();
                Ok(TableReport { exists: true, differences: found.compare(table), facts })
            }
        }
    }

    /// Makes a table on demand, protected against deletion, with point-in-time recovery where the service has it. An
    /// existing table is protected against deletion; its recovery and its billing are left to whoever pays for them.
    async fn apply(&self) -> Result<Vec<String>, StoreError> {
        let table = &self.table;
        let mut done = Vec::new();
        match table.see(MIGRATING).await? {
            None => {
                if table.create().await? {
                    done.push(format!("made the table {}", table.name()));
                }
                table.wait().await?;
                done.push(table.make_recoverable().await?);
            }
            Some(found) => {
                if found.is_coming() {
                    table.wait().await?;
                }
                if found.table.deletion_protection_enabled() != Some(true) {
                    done.push(table.protect().await?);
                }
            }
        }
        Ok(done)
    }
}

impl Table {
    /// Returns the command that makes the table.
    pub(super) fn creation(&self) -> String {
        self.command(
            "create-table",
            " --attribute-definitions AttributeName=Id,AttributeType=S AttributeName=Created,AttributeType=N \
             --key-schema AttributeName=Id,KeyType=HASH AttributeName=Created,KeyType=RANGE \
             --billing-mode PAY_PER_REQUEST --deletion-protection-enabled",
        )
    }

    /// Returns the command that makes the table restorable.
    pub(super) fn recovery(&self) -> String {
        let on = " --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true";
        self.command("update-continuous-backups", on)
    }

    /// Looks at the table, which has to be allowed.
    async fn see(&self, operation: &'static str) -> Result<Option<Box<Found>>, StoreError> {
        match self.describe(operation).await? {
            Sight::None => Ok(None),
            Sight::Table(found) => Ok(Some(found)),
            Sight::Hidden(reason) => {
                let advice = "allow dynamodb:DescribeTable on the table";
                Err(permanent(operation, &self.place, advice, format!("the table is not shown ({reason})")))
            }
        }
    }

    /// Makes the table; `false` when somebody else does.
    async fn create(&self) -> Result<bool, StoreError> {
        let unbuilt = |error: BuildError| permanent(MIGRATING, &self.place, None, error);
        let mut request = self.client().create_table().table_name(self.name());
        for (name, key, kind) in
            [(ID, KeyType::Hash, ScalarAttributeType::S), (CREATED, KeyType::Range, ScalarAttributeType::N)]
        {
            let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build();
            let element = KeySchemaElement::builder().attribute_name(name).key_type(key).build();
            request = request.attribute_definitions(attribute.map_err(unbuilt)?).key_schema(element.map_err(unbuilt)?);
        }
        let request = request.billing_mode(BillingMode::PayPerRequest).deletion_protection_enabled(true);
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(CreateTableError::is_resource_in_use_exception) => {
                Ok(false)
            }
            Err(error) => Err(failure(MIGRATING, &self.place, error)),
        }
    }

    /// Waits until the table is made.
    async fn wait(&self) -> Result<(), StoreError> {
        let start = Instant::now();
        loop {
            match self.see(MIGRATING).await? {
                Some(found) if !found.is_coming() => return Ok(()),
                // The service may not show a table yet that is being made.
                _ if start.elapsed() < MAKING => sleep(LOOK).await,
                Some(_) => {
                    return Err(transient(MIGRATING, &self.place, None, format!("it is not made after {MAKING:?}")));
                }
                None => return Err(permanent(MIGRATING, &self.place, NO_TABLE, "it was made and is not there")),
            }
        }
    }

    /// Turns point-in-time recovery on; returns what became of it.
    async fn make_recoverable(&self) -> Result<String, StoreError> {
        let start = Instant::now();
        loop {
            let on = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build();
            let on = on.map_err(|error| permanent(MIGRATING, &self.place, None, error))?;
            let request = self.client().update_continuous_backups().table_name(self.name());
            let error = match request.point_in_time_recovery_specification(on).send().await {
                Ok(_) => return Ok("turned point-in-time recovery on".to_owned()),
                Err(error) => error,
            };
            let refused = error.as_service_error();
            if refused.is_some_and(|error| error.is_continuous_backups_unavailable_exception())
                && start.elapsed() < SETTING_UP
            {
                sleep(LOOK).await;
            } else if is_hidden(&error)
                || refused.is_some_and(|error| error.is_continuous_backups_unavailable_exception())
            {
                return Ok(format!("could not turn point-in-time recovery on; do it with: {}", self.recovery()));
            } else {
                return Err(failure(MIGRATING, &self.place, error));
            }
        }
    }

    /// Protects an existing table against deletion; returns what became of it.
    async fn protect(&self) -> Result<String, StoreError> {
        let name = self.name();
        let request = self.client().update_table().table_name(name).deletion_protection_enabled(true);
        match request.send().await {
            Ok(_) => Ok(format!("protected the table {name} against deletion")),
            // A service that does not know what is asked for finds that nothing is.
            Err(error) if error.code() == Some("ValidationException") => {
                Ok(format!("could not protect the table {name} against deletion: the service cannot"))
            }
            Err(error) => Err(failure(MIGRATING, &self.place, error)),
        }
    }
}
