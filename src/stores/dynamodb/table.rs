//! How the table is, compared with how it should be.

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{
    BillingMode, ContinuousBackupsStatus, KeyType, MultiRegionConsistency, PointInTimeRecoveryStatus,
    ScalarAttributeType, TableDescription, TableStatus, TimeToLiveStatus,
};

use super::failures::{failure, is_hidden};
use super::item::{CREATED, ID};
use super::store::Table;
use crate::error::StoreError;
use crate::stores::{Change, Difference, Severity};

/// The version of global tables that DescribeTable shows no replicas of.
const OLD_GLOBAL_TABLES: &str = "2017.11.29";

/// What one sees where the table should be.
pub(super) enum Sight {
    None,
    /// The credentials may not look, or the server cannot show.
    Hidden(String),
    Table(Box<Found>),
}

/// What is known of the table.
pub(super) struct Found {
    pub(super) table: TableDescription,
    /// Whether it can be restored as of any time; `None` where nobody may know.
    pub(super) is_recoverable: Option<bool>,
    /// By which attribute items expire.
    pub(super) expiry: Option<String>,
}

impl Table {
    /// Asks what DescribeTable tells.
    pub(super) async fn describe(&self, operation: &'static str) -> Result<Sight, StoreError> {
        match self.client().describe_table().table_name(self.name()).send().await {
            Ok(answer) => Ok(answer.table.map_or(Sight::None, |table| {
                Sight::Table(Box::new(Found { table, is_recoverable: None, expiry: None }))
            })),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                Ok(Sight::None)
            }
            Err(error) if is_hidden(&error) => Ok(Sight::Hidden(error.code().unwrap_or_default().to_owned())),
            Err(error) => Err(failure(operation, &self.place, error)),
        }
    }

    /// Asks what else there is to know; where that is refused it stays unknown, and `facts` says so.
    pub(super) async fn look_closer(&self, found: &mut Found, facts: &mut Vec<String>) {
        match self.client().describe_continuous_backups().table_name(self.name()).send().await {
            Ok(answer) => {
                let backups = answer.continuous_backups_description;
                found.is_recoverable = Some(backups.is_some_and(|backups| {
                    let recovery = backups.point_in_time_recovery_description;
                    let status = recovery.and_then(|recovery| recovery.point_in_time_recovery_status);
                    backups.continuous_backups_status == ContinuousBackupsStatus::Enabled
                        && status == Some(PointInTimeRecoveryStatus::Enabled)
                }));
            }
            Err(error) => facts.push(unknown("point-in-time recovery", "DescribeContinuousBackups", &error)),
        }
        match self.client().describe_time_to_live().table_name(self.name()).send().await {
            Ok(answer) => {
                let off = [TimeToLiveStatus::Disabled, TimeToLiveStatus::Disabling];
                let expiry = answer.time_to_live_description;
                let expiry =
                    expiry.filter(|it| it.time_to_live_status.as_ref().is_some_and(|status| !off.contains(status)));
                found.expiry = expiry.map(|expiry| expiry.attribute_name.unwrap_or_default());
            }
            Err(error) => facts.push(unknown("time to live", "DescribeTimeToLive", &error)),
        }
    }

    /// Returns a command of the AWS command line about this table.
    pub(super) fn command(&self, verb: &str, rest: &str) -> String {
        let endpoint = self.options.endpoint.as_ref().map(|endpoint| format!(" --endpoint-url '{endpoint}'"));
        let (region, name) = (&self.region, self.name());
        format!("aws dynamodb {verb} --region {region}{} --table-name {name}{rest}", endpoint.unwrap_or_default())
    }
}

fn unknown<E: ProvideErrorMetadata>(what: &str, right: &str, error: &E) -> String {
    let reason = error.code().unwrap_or("no answer");
    format!("{what}: unknown, as the service does not say ({reason}); it takes the right dynamodb:{right}")
}

impl Found {
    /// Whether the table is being made.
    pub(super) fn is_coming(&self) -> bool {
        self.table.table_status == Some(TableStatus::Creating)
    }

    /// Returns the other regions that it is replicated to.
    fn others(&self, region: &str) -> Vec<&str> {
        self.table
            .replicas()
            .iter()
            .filter_map(|replica| replica.region_name())
            .filter(|name| *name != region)
            .collect()
    }

    /// Compares with the schema: pure.
    pub(super) fn compare(&self, table: &Table) -> Vec<Difference> {
        let mut found = Vec::new();
        self.compare_keys(table, &mut found);
        self.compare_status(&mut found);
        self.compare_regions(table, &mut found);
        self.compare_safety(table, &mut found);
        found
    }

    fn compare_keys(&self, table: &Table, found: &mut Vec<Difference>) {
        let keys = self.table.key_schema().iter().map(|key| (key.attribute_name(), key.key_type()));
        let keys: Vec<_> = keys.collect();
        if keys != [(ID, &KeyType::Hash), (CREATED, &KeyType::Range)] {
            let keys: Vec<_> = keys.iter().map(|(name, kind)| format!("{name} ({kind})")).collect();
            let about = format!(
                "its key is {}, not Id (HASH) and Created (RANGE): versions of keys cannot be told apart",
                keys.join(" and ")
            );
            found.push(broken(about, Some(format!("{} # under another name", table.creation()))));
            return;
        }
        for (name, wanted) in [(ID, ScalarAttributeType::S), (CREATED, ScalarAttributeType::N)] {
            let of = |kind: &ScalarAttributeType| match kind {
                ScalarAttributeType::S => "a string",
                ScalarAttributeType::N => "a number",
                _ => "binary",
            };
            let is = self.table.attribute_definitions().iter().find(|attribute| attribute.attribute_name() == name);
            if let Some(is) = is.map(|attribute| attribute.attribute_type()).filter(|is| **is != wanted) {
                let about =
                    format!("its key attribute {name} is {}, not {}: no key can be stored", of(is), of(&wanted));
                found.push(broken(about, Some(format!("{} # under another name", table.creation()))));
            }
        }
    }

    fn compare_status(&self, found: &mut Vec<Difference>) {
        let about = match &self.table.table_status {
            Some(TableStatus::InaccessibleEncryptionCredentials) => {
                "the KMS key that the table is encrypted with cannot be used: enable it, or undo its deletion, before a week \
                 is over"
            }
            Some(TableStatus::Archiving | TableStatus::Archived) => {
                "the table was archived, as its KMS key could not be used for a week: restore its backup"
            }
            Some(TableStatus::Deleting) => "the table is being deleted",
            _ => return,
        };
        found.push(broken(about.to_owned(), None));
    }

    fn compare_regions(&self, table: &Table, found: &mut Vec<Difference>) {
        let others = self.others(&table.region);
        let is_old = self.table.global_table_version() == Some(OLD_GLOBAL_TABLES);
        let is_strong = self.table.multi_region_consistency() == Some(&MultiRegionConsistency::Strong);
        let has_suffix = table.options.suffix.is_some();
        if others.is_empty() && !is_old || is_strong || has_suffix {
            return;
        }
        let others = if others.is_empty() { "other regions".to_owned() } else { others.join(", ") };
        let about = format!(
            "the table is replicated to {others}, and ids of new keys have no region suffix: of two regions that make a key at \
             once, the one that writes last wins, and what the other has encrypted under its own is lost"
        );
        let statement = "suffix=true in the address of the store, in every region; or global_table=allow where only one region \
            writes";
        let severity = if table.options.allow_global_table_without_suffix { Severity::Risky } else { Severity::Broken };
        found.push(difference(severity, about, Some(statement.to_owned()), false));
    }

    fn compare_safety(&self, table: &Table, found: &mut Vec<Difference>) {
        if let Some(attribute) = &self.expiry {
            let severity = if attribute == CREATED { Severity::Broken } else { Severity::Risky };
            let about = format!(
                "items expire by their attribute {attribute} (time to live): keys that are deleted take with them whatever is \
                 encrypted under them"
            );
            let off = format!(" --time-to-live-specification Enabled=false,AttributeName={attribute}");
            found.push(difference(severity, about, Some(table.command("update-time-to-live", &off)), false));
        }
        if self.is_provisioned() {
            let about = "its capacity is provisioned: what is asked beyond it is refused for the moment, most of all when many \
                processes start at once";
            let change = table.command("update-table", " --billing-mode PAY_PER_REQUEST");
            found.push(difference(Severity::Risky, about.to_owned(), Some(change), false));
        }
        if self.table.deletion_protection_enabled() != Some(true) {
            let about =
                "one call deletes the table, and with it whatever is encrypted under its keys (no deletion protection)";
            let change = table.command("update-table", " --deletion-protection-enabled");
            found.push(difference(Severity::Risky, about.to_owned(), Some(change), true));
        }
        if self.is_recoverable == Some(false) {
            let about = "keys that are deleted or overwritten by mistake cannot be brought back (no point-in-time recovery); \
                with it, shredded keys can be too, for as many days as it is set to";
            found.push(difference(Severity::Risky, about.to_owned(), Some(table.recovery()), false));
        }
    }

    pub(super) fn is_provisioned(&self) -> bool {
        let summary = self.table.billing_mode_summary();
        let mode = summary.and_then(|summary| summary.billing_mode());
        let throughput = self.table.provisioned_throughput();
        let has_capacity = throughput.and_then(|it| it.read_capacity_units()).is_some_and(|units| units > 0);
        mode == Some(&BillingMode::Provisioned) || mode.is_none() && has_capacity
    }

    /// Returns what else is to be known, one line each.
    pub(super) fn facts(&self, table: &Table) -> Vec<String> {
        let described = &self.table;
        let mut facts = Vec::new();
        let status = described.table_status().map_or("of unknown status", TableStatus::as_str);
        facts.push(format!("{}, {status}", described.table_arn().unwrap_or(table.name())));
        let billing = if self.is_provisioned() { "provisioned" } else { "on demand" };
        facts.push(format!("capacity {billing}"));
        let others = self.others(&table.region);
        if !others.is_empty() {
            let consistency = described.multi_region_consistency().map_or("EVENTUAL", MultiRegionConsistency::as_str);
            facts.push(format!("replicated to {}, consistency {consistency}", others.join(", ")));
        }
        let encryption = described.sse_description().and_then(|encryption| encryption.kms_master_key_arn());
        facts.push(format!("encrypted at rest under {}", encryption.unwrap_or("a key of DynamoDB's own")));
        if described.stream_specification().is_some_and(|stream| stream.stream_enabled()) {
            facts.push(
                "changes are streamed: what reads the stream sees wrapped keys for a day after they are deleted".into(),
            );
        }
        if let Some(class) = described.table_class_summary().and_then(|summary| summary.table_class()) {
            facts.push(format!("table class {class}"));
        }
        facts
    }
}

fn broken(about: String, change: Option<String>) -> Difference {
    difference(Severity::Broken, about, change, false)
}

fn difference(severity: Severity, about: String, change: Option<String>, is_safe: bool) -> Difference {
    Difference { about, severity, change: change.map(|statement| Change { statement, is_safe }) }
}
