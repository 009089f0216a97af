//! Regions: what requests are signed for, and what ids of keys end in.

use keyward::kms::StaticKms;
use keyward::stores::{DynamoDbMetastore, KeyAdmin, Metastore, RegionSuffix, StoreError};
use keyward::{KeyId, SessionFactory};
use serde_json::json;

use crate::answers::{Answer, Answers, header, table};
use crate::dynamodb_support::{client, create, options};
use crate::servers::{DynamoDb, DynamoDbKind, TestResult};
use crate::{chain, key};

async fn factory(store: DynamoDbMetastore, readable: &[&str]) -> TestResult<SessionFactory> {
    let builder = SessionFactory::builder("svc", "prod").metastore(store);
    let builder = builder.kms(StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?);
    Ok(builder.readable_region_suffixes(readable.iter().copied()).build().await?)
}

#[tokio::test]
async fn each_region_has_keys_of_its_own_and_reads_those_of_others() -> TestResult {
    let Some(server) = DynamoDb::shared(DynamoDbKind::Moto)? else { return Ok(()) };
    let table = server.table();
    let mut stores = Vec::new();
    for region in ["us-west-2", "us-east-1"] {
        let client = client(&server.endpoint(), region);
        create(&client, &table).await?;
        let mut options = options(&table);
        let plain = DynamoDbMetastore::from_client(client.clone(), options.clone()).await?;
        assert_eq!(plain.region_suffix(), None);
        options.suffix = Some(RegionSuffix::OfRegion);
        let store = DynamoDbMetastore::from_client(client, options).await?;
        assert_eq!(store.region_suffix(), Some(region));
        assert_eq!(store.place(), format!("dynamodb:{table} in {region}"));
        stores.push((plain, store));
    }
    let [(plain, west), (_, east)] = &stores[..] else { return Err("two regions".into()) };

    // A record from before there were suffixes is read with them.
    let before = factory(plain.clone(), &[]).await?;
    let old = before.session("alice").await?.encrypt(b"tea").await?;
    let west_factory = factory(west.clone(), &["us-east-1"]).await?;
    let session = west_factory.session("alice").await?;
    assert_eq!(*session.decrypt(&old).await?, *b"tea");
    let new = session.encrypt(b"coffee").await?;
    assert_eq!(new.parent_key().id.as_str(), "_IK_alice_svc_prod_us-west-2");

    // The regions of the server are not replicated: what the other wrote is not there until it is copied.
    assert!(east.load_latest(&new.parent_key().id).await?.is_none());
    for row in west.list(None, 100).await? {
        let _ = east.store(&row.key.id, &row.record?).await?;
    }
    let east_factory = factory(east.clone(), &["us-west-2"]).await?;
    let session = east_factory.session("alice").await?;
    assert_eq!(*session.decrypt(&new).await?, *b"coffee");
    assert_eq!(*session.decrypt(&old).await?, *b"tea");
    assert_eq!(session.encrypt(b"x").await?.parent_key().id.as_str(), "_IK_alice_svc_prod_us-east-1");

    // Without being allowed to, nobody reads another region's records.
    let strict = factory(east.clone(), &[]).await?;
    assert!(strict.session("alice").await?.decrypt(&new).await.is_err());
    Ok(())
}

#[tokio::test]
async fn requests_are_signed_for_the_region_wherever_they_are_sent() -> TestResult {
    let answers = Answers::with_table(|_| Answer::ok(&json!({})))?;
    for region in ["eu-central-1", "us-gov-west-1"] {
        let client = client(&answers.endpoint(), region);
        let store = DynamoDbMetastore::from_client(client, options("EncryptionKey")).await?;
        assert_eq!(store.load(&key("alice", 5)).await?, None);
        let asked = answers.asked();
        let head = &asked.last().ok_or("it was asked")?.head;
        let signature = header(head, "authorization").ok_or("it is signed")?;
        assert!(signature.contains(&format!("/{region}/dynamodb/aws4_request")), "{signature}");
    }
    Ok(())
}

#[tokio::test]
async fn reads_are_consistent_and_of_few_attributes() -> TestResult {
    let answers = Answers::with_table(|_| Answer::ok(&json!({})))?;
    let store = answers.store().await?;
    let _ = store.load(&key("alice", 5)).await?;
    let _ = store.load_latest(&KeyId::new("alice")).await?;
    let _ = store.list(None, 5).await?;
    for request in answers.asked().iter().skip(1) {
        assert_eq!(request.body["ConsistentRead"], true, "{}", request.operation);
        assert_eq!(request.body["ProjectionExpression"], "Id, Created, KeyRecord", "{}", request.operation);
    }
    let latest = answers.asked().into_iter().find(|request| request.operation == "Query").ok_or("it was queried")?;
    assert_eq!((&latest.body["ScanIndexForward"], &latest.body["Limit"]), (&json!(false), &json!(1)));
    Ok(())
}

#[tokio::test]
async fn a_client_without_region_is_refused_before_anything_is_sent() -> TestResult {
    let answers = Answers::with_table(|_| Answer::ok(&json!({})))?;
    let config = answers.client().config().to_builder().region(None).build();
    let client = aws_sdk_dynamodb::Client::from_conf(config);
    for suffix in [Some(RegionSuffix::OfRegion), Some(RegionSuffix::Named("blue".to_owned())), None] {
        let mut options = options("EncryptionKey");
        options.suffix = suffix;
        let refused = DynamoDbMetastore::from_client(client.clone(), options).await.expect_err("no region");
        assert!(matches!(refused, StoreError::Permanent { .. }));
        let text = chain(&refused);
        assert!(text.contains("no region is known") && text.contains("AWS_REGION"), "{text}");
    }
    assert!(answers.asked().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_client_has_its_own_region_endpoint_and_profile() -> TestResult {
    let answers = Answers::with_table(|_| Answer::ok(&json!({})))?;
    for text in ["region=eu-west-1", "endpoint=http://127.0.0.1:1", "profile=x"] {
        let refused = answers.store_with(format!("dynamodb:EncryptionKey?{text}").parse()?).await;
        assert!(matches!(refused, Err(StoreError::Permanent { .. })), "{text}");
    }
    Ok(())
}

/// What DescribeTable tells of a table with replicas; the servers of the tests have none.
#[tokio::test]
async fn a_replicated_table_needs_a_suffix_or_to_be_allowed() -> TestResult {
    let eventual = json!({"GlobalTableVersion": "2019.11.21", "Replicas": [
        {"RegionName": "eu-west-1", "ReplicaStatus": "ACTIVE"}, {"RegionName": "us-west-2", "ReplicaStatus": "ACTIVE"},
    ]});
    let mut strong = eventual.clone();
    strong["MultiRegionConsistency"] = json!("STRONG");
    let old = json!({"GlobalTableVersion": "2017.11.29"});
    let alone = json!({"Replicas": [{"RegionName": "us-west-2", "ReplicaStatus": "ACTIVE"}]});
    let addresses = ["dynamodb:", "dynamodb:?suffix=true", "dynamodb:?suffix=blue", "dynamodb:?global_table=allow"];
    let cases = [
        (eventual, [false, true, true, true]),
        (old, [false, true, true, true]),
        (strong, [true; 4]),
        (alone, [true; 4]),
    ];
    for (description, expected) in cases {
        let told = table(&description);
        let answers = Answers::start(move |_| Answer::ok(&told))?;
        for (address, is_taken) in addresses.iter().zip(expected) {
            match answers.store_with(address.parse()?).await {
                Ok(_) => assert!(is_taken, "{address} {description}"),
                Err(refused) => {
                    assert!(matches!(refused, StoreError::Permanent { .. }) && !is_taken, "{address} {description}");
                    let text = chain(&refused);
                    assert!(
                        text.contains("replicated to") && text.contains("dynamodb:EncryptionKey in us-west-2"),
                        "{text}"
                    );
                }
            }
        }
    }
    Ok(())
}
