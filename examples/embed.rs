//! Encrypts and decrypts one record with everything in memory: `cargo run --example embed`.

use keyward::{CryptoPolicy, SessionFactory, kms::StaticKms, stores::InMemoryMetastore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let factory = SessionFactory::builder("my-service", "my-product")
        .metastore(InMemoryMetastore::new())
        .kms(StaticKms::new(b"thisIsAStaticMasterKeyForTesting")?)
        .policy(CryptoPolicy::default())
        .build()
        .await?;

    let session = factory.session("partition-1").await?;
    let json = session.encrypt_json(b"payload").await?;
    println!("{}", String::from_utf8_lossy(&json));
    println!("{}", String::from_utf8_lossy(&session.decrypt_json(&json).await?));

    session.close().await?;
    factory.close().await?;
    println!("{:#?}", factory.status());
    Ok(())
}
