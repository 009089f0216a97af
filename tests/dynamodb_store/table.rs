//! Tables: how they are made, and what is said about those that differ.

use keyward::stores::{DynamoDbMetastore, Metastore, SchemaAdmin, Severity, StoreError};
use serde_json::{Value, json};

use crate::answers::{Answer, Answers, table};
use crate::dynamodb_support::{client, options};
use crate::servers::{DynamoDb, DynamoDbKind, TestResult};
use crate::{chain, key, stages};

#[tokio::test]
async fn a_missing_table_is_seen_and_refused() -> TestResult {
    for kind in [DynamoDbKind::Moto, DynamoDbKind::Dynalite] {
        let Some(server) = DynamoDb::shared(kind)? else { continue };
        let client = client(&server.endpoint(), "us-west-2");
        let refused = DynamoDbMetastore::from_client(client, options("nowhere")).await.expect_err("there is none");
        let text = chain(&refused);
        assert!(matches!(refused, StoreError::Permanent { .. }) && text.contains("keyward migrate"), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_table_of_others_is_used_and_told_what_it_lacks() -> TestResult {
    for stage in stages().await? {
        let report = stage.store.inspect().await?;
        assert!(report.exists);
        assert_eq!(report.severity(), Some(Severity::Risky), "{report:?}");
        assert!(report.differences.iter().any(|found| found.about.contains("deletion protection")), "{report:?}");
        assert!(report.facts.iter().any(|fact| fact.contains(&stage.table)), "{report:?}");
    }
    Ok(())
}

async fn report(described: &Value, address: &str) -> TestResult<keyward::stores::TableReport> {
    let told = table(described);
    // It is looked at by what would not use it: whoever connects sees a good table first.
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let answers = Answers::start(move |request| match request.operation.as_str() {
        "DescribeTable" if calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 => {
            Answer::ok(&table(&json!({})))
        }
        "DescribeTable" => Answer::ok(&told),
        "DescribeContinuousBackups" => Answer::ok(&json!({"ContinuousBackupsDescription": {
            "ContinuousBackupsStatus": "ENABLED",
            "PointInTimeRecoveryDescription": {"PointInTimeRecoveryStatus": "ENABLED"},
        }})),
        "DescribeTimeToLive" => {
            Answer::ok(&json!({"TimeToLiveDescription": told["Table"].get("TTL").cloned().unwrap_or(json!({}))}))
        }
        _ => Answer::error(400, "AccessDeniedException", "not you"),
    })?;
    Ok(answers.store_with(address.parse()?).await?.inspect().await?)
}

#[tokio::test]
async fn each_difference_is_told_with_what_it_means() -> TestResult {
    assert_eq!(report(&json!({}), "dynamodb:").await?.differences, []);
    let keys = |id: &str, created: &str| json!([{"AttributeName": id, "KeyType": "HASH"}, {"AttributeName": created, "KeyType": "RANGE"}]);
    let types = |id: &str, created: &str| json!([{"AttributeName": "Id", "AttributeType": id}, {"AttributeName": "Created", "AttributeType": created}]);
    let cases = [
        (
            json!({"KeySchema": [{"AttributeName": "Id", "KeyType": "HASH"}]}),
            Severity::Broken,
            "not Id (HASH) and Created",
        ),
        (json!({"KeySchema": keys("Created", "Id")}), Severity::Broken, "not Id (HASH) and Created"),
        (json!({"KeySchema": keys("id", "created")}), Severity::Broken, "not Id (HASH) and Created"),
        (json!({"AttributeDefinitions": types("B", "N")}), Severity::Broken, "Id is binary, not a string"),
        (json!({"AttributeDefinitions": types("S", "S")}), Severity::Broken, "Created is a string, not a number"),
        (json!({"TableStatus": "INACCESSIBLE_ENCRYPTION_CREDENTIALS"}), Severity::Broken, "cannot be used"),
        (json!({"Replicas": [{"RegionName": "eu-west-1"}]}), Severity::Broken, "replicated to eu-west-1"),
        (json!({"TTL": {"TimeToLiveStatus": "ENABLED", "AttributeName": "Created"}}), Severity::Broken, "expire by"),
        (json!({"TTL": {"TimeToLiveStatus": "ENABLED", "AttributeName": "x"}}), Severity::Risky, "expire by"),
        (json!({"DeletionProtectionEnabled": false}), Severity::Risky, "deletion protection"),
        (json!({"BillingModeSummary": {"BillingMode": "PROVISIONED"}}), Severity::Risky, "provisioned"),
        (
            json!({"BillingModeSummary": null, "ProvisionedThroughput": {"ReadCapacityUnits": 5, "WriteCapacityUnits": 5}}),
            Severity::Risky,
            "provisioned",
        ),
    ];
    for (described, severity, about) in cases {
        let report = report(&described, "dynamodb:").await?;
        assert_eq!(report.severity(), Some(severity), "{described}: {report:?}");
        assert!(report.differences[0].about.contains(about), "{described}: {report:?}");
    }
    let replicated = json!({"Replicas": [{"RegionName": "eu-west-1"}]});
    assert_eq!(report(&replicated, "dynamodb:?suffix=true").await?.severity(), None);
    assert_eq!(report(&replicated, "dynamodb:?global_table=allow").await?.severity(), Some(Severity::Risky));
    Ok(())
}

#[tokio::test]
async fn what_may_not_be_looked_at_is_told() -> TestResult {
    let answers = Answers::with_table(|_| Answer::error(400, "AccessDeniedException", "not you"))?;
    let report = answers.store().await?.inspect().await?;
    assert_eq!(report.differences, []);
    for right in ["DescribeContinuousBackups", "DescribeTimeToLive"] {
        assert!(report.facts.iter().any(|fact| fact.contains(right) && fact.contains("AccessDenied")), "{report:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_broken_table_is_refused() -> TestResult {
    let keys = json!({"KeySchema": [{"AttributeName": "Id", "KeyType": "HASH"}]});
    let answers = Answers::start(move |_| Answer::ok(&table(&keys)))?;
    let refused = answers.store().await.expect_err("it has no Created");
    let text = chain(&refused);
    assert!(matches!(refused, StoreError::Permanent { .. }) && text.contains("keyward migrate"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_there_is_protected_and_nothing_else() -> TestResult {
    for stage in stages().await? {
        let done = stage.store.apply().await?;
        assert!(done.len() == 1 && done[0].contains("against deletion"), "{done:?}");
        // dynalite knows no protection.
        let is_protected = done[0].starts_with("protected");
        assert_eq!(stage.store.apply().await?.is_empty(), is_protected);
        let found = stage.store.inspect().await?.differences;
        assert_eq!(!found.iter().any(|found| found.about.contains("deletion protection")), is_protected, "{found:?}");
        assert_eq!(stage.store.load(&key("alice", 5)).await?, None);
    }
    Ok(())
}
