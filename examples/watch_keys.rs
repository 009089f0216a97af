//! Encrypts ten times a second on the store of the command, and tells when the key changes.
//!
//! Run it in one terminal, in a folder where `keyward encrypt --partition alice` was run once, and operate on keys in another:
//! `keyward keys revoke`, `rotate` or `shred`. It obeys within its check interval, two seconds.

use std::time::Duration;

use keyward::kms::LocalKms;
use keyward::stores::SqliteMetastore;
use keyward::{CryptoPolicy, Error, SessionFactory};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policy = CryptoPolicy { revoke_check_interval: Duration::from_secs(2), ..CryptoPolicy::default() };
    let factory = SessionFactory::builder("keyward", "default")
        .metastore(SqliteMetastore::open("keyward.db").await?)
        .kms(LocalKms::open_or_create("keyward.key")?)
        .policy(policy)
        .build()
        .await?;
    let session = factory.session("alice").await?;
    let (mut key, began) = (None, std::time::Instant::now());
    while began.elapsed() < Duration::from_secs(60) {
        match session.encrypt(b"tea").await {
            Ok(record) if key.as_ref() != Some(record.parent_key()) => {
                println!("{:>6.1} s: encrypting under {}", began.elapsed().as_secs_f32(), record.parent_key());
                key = Some(record.parent_key().clone());
            }
            Ok(_) => {}
            Err(error @ Error::Shredded { .. }) => {
                println!("{:>6.1} s: {error}", began.elapsed().as_secs_f32());
                break;
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    factory.close().await?;
    Ok(())
}
