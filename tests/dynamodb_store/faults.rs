//! Answers that are lost on their way.

use std::time::Duration;

use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use keyward::kms::StaticKms;
use keyward::stores::{DynamoDbMetastore, KeyAdmin, Metastore, StoreOutcome};
use keyward::{KeyId, SessionFactory};

use crate::answers::{Answer, Answers};
use crate::dynamodb_support::{client, options};
use crate::servers::{Fault, Proxy, TestResult};
use crate::{chain, key, record, stages};

fn is_put(request: &[u8]) -> bool {
    request.windows(7).any(|bytes| bytes == b"PutItem")
}

#[tokio::test]
async fn an_insert_whose_answer_is_lost_is_transient_and_was_made() -> TestResult {
    for stage in stages().await? {
        let proxy = Proxy::start(stage.server.port)?;
        let client = client(&format!("http://127.0.0.1:{}", proxy.port()), "us-west-2");
        let store = DynamoDbMetastore::from_client(client, options(&stage.table)).await?;
        proxy.cut_after(1, is_put);
        let lost = store.store(&KeyId::new("alice"), &record(5, b"k")).await.expect_err("the answer is lost");
        assert!(lost.is_transient(), "{}", chain(&lost));
        assert_eq!(proxy.cuts(), 1, "it is sent once");
        assert_eq!(stage.store.load(&key("alice", 5)).await?, Some(record(5, b"k")));
        assert_eq!(store.store(&KeyId::new("alice"), &record(5, b"k")).await?, StoreOutcome::Duplicate);
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_ends_too_soon_is_transient_whatever_it_was() -> TestResult {
    for status in [200, 400, 500] {
        let server = Answers::with_table(move |_| Answer::text(status, "{}").cut())?;
        let store = server.store().await?;
        let record = record(5, b"k");
        for failed in [
            store.store(&KeyId::new("alice"), &record).await.expect_err("half an answer"),
            store.load(&key("alice", 5)).await.expect_err("half an answer"),
        ] {
            assert!(failed.is_transient() && chain(&failed).contains("network between"), "{}", chain(&failed));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_session_outlasts_lost_answers_and_makes_no_key_twice() -> TestResult {
    for stage in stages().await? {
        let proxy = Proxy::start(stage.server.port)?;
        let client = client(&format!("http://127.0.0.1:{}", proxy.port()), "us-west-2");
        let store = DynamoDbMetastore::from_client(client, options(&stage.table)).await?;
        let builder = SessionFactory::builder("svc", "prod").metastore(store);
        let factory = builder.kms(StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?).build().await?;
        proxy.cut_after(2, is_put);
        let session = factory.session("alice").await?;
        let record = session.encrypt(b"tea").await?;
        assert_eq!(*session.decrypt(&record).await?, *b"tea");
        assert_eq!(stage.store.list(None, 9).await?.len(), 2, "a system key and an intermediate key");
        factory.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_says_nothing_or_is_not_there_is_transient() -> TestResult {
    for stage in stages().await? {
        let proxy = Proxy::start(stage.server.port)?;
        let client = client(&format!("http://127.0.0.1:{}", proxy.port()), "us-west-2");
        let limits = TimeoutConfig::builder().read_timeout(Duration::from_millis(200)).build();
        let config = client.config().to_builder().timeout_config(limits).build();
        let client = aws_sdk_dynamodb::Client::from_conf(config);
        let store = DynamoDbMetastore::from_client(client, options(&stage.table)).await?;
        for (fault, reason) in [(Fault::HalfOpen, "timeout"), (Fault::Refuse, "error")] {
            proxy.set(fault);
            if fault == Fault::Refuse {
                proxy.cut_all();
            }
            let failed = store.load(&key("alice", 5)).await.expect_err("no answer");
            let text = chain(&failed);
            assert!(failed.is_transient() && text.contains(reason) && text.contains("network between"), "{text}");
        }
        proxy.set(Fault::None);
        assert_eq!(store.load(&key("alice", 5)).await?, None);
    }
    Ok(())
}
