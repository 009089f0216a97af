//! What another implementation wrote, under a Transit key that was backed up: `tests/vectors/asherah-sqlite-vault.json`.

use std::sync::Arc;

use keyward::stores::{InMemoryMetastore, Metastore, StoreOutcome};
use keyward::{DataRowRecord, EnvelopeKeyRecord, KeyId, SessionFactory};
use serde_json::{Value, json};

use crate::stage::{OpenBao, ROOT, TestResult, service};

#[tokio::test]
async fn records_of_the_crate_asherah_decrypt() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let vectors: Value = serde_json::from_str(include_str!("../vectors/asherah-sqlite-vault.json"))?;
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("a text");
    let key = server.name("recorded");
    server.ask("POST", &format!("transit/restore/{key}"), &json!({"backup": vectors["transit_backup"]}))?;

    let store = InMemoryMetastore::new();
    for row in vectors["metastore"].as_array().ok_or("rows")? {
        let record = EnvelopeKeyRecord::from_json(text(&row["key_record"])?.as_bytes())?;
        assert_eq!(store.store(&KeyId::new(&text(&row["id"])?), &record).await?, StoreOutcome::Stored);
    }
    let kms = service(&server.url(), &key, ROOT)?;
    let builder = SessionFactory::builder(&text(&vectors["service"])?, &text(&vectors["product"])?);
    let factory = builder.metastore(Arc::new(store)).kms(kms).build().await?;
    for record in vectors["records"].as_array().ok_or("records")? {
        let session = factory.session(&text(&record["partition"])?).await?;
        let payload = session.decrypt(&DataRowRecord::from_json(text(&record["record"])?.as_bytes())?).await?;
        assert_eq!(payload, text(&record["payload"])?.as_bytes());
    }
    factory.close().await?;
    Ok(())
}
