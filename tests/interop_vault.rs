//! One SQLite file and one Transit key, two implementations: this crate and the crate `asherah` 1.0.0.
//!
//! Needs `KEYWARD_INTEROP_VAULT`, the path of that crate's program `asherah-interop` with its features `sqlite` and `vault`;
//! `scripts/test` builds it and runs `cargo test --test interop_vault -- --ignored`.
#![cfg(all(unix, feature = "sqlite", feature = "vault"))]

mod servers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use keyward::kms::{KmsAdmin, VaultKms, VaultOptions, VaultSecret};
use keyward::stores::SqliteMetastore;
use keyward::{DataRowRecord, KeyId, SessionFactory};
use serde_json::json;
use servers::{OpenBao, ROOT, TestResult};

/// A key table and a Transit key of their own, and both implementations on them.
struct World {
    server: &'static OpenBao,
    key: String,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> TestResult<Option<Self>> {
        let Some(server) = OpenBao::shared()? else { return Ok(None) };
        Ok(Some(Self { server, key: server.new_key()?, folder: tempfile::tempdir()? }))
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("keys.db")
    }

    /// Has the peer encrypt or decrypt; `None` when it refuses.
    fn peer(&self, action: &str, input: &[u8]) -> TestResult<Option<Vec<u8>>> {
        let program = std::env::var_os("KEYWARD_INTEROP_VAULT")
            .ok_or("KEYWARD_INTEROP_VAULT is not set; scripts/test sets it")?;
        let output = Command::new(Path::new(&program))
            .args([action, "alice", &BASE64.encode(input)])
            .env_clear()
            .envs([("SERVICE_NAME", "svc"), ("PRODUCT_ID", "prod"), ("Metastore", "sqlite"), ("KMS", "vault")])
            .env("SQLITE_PATH", self.database())
            .env("VAULT_ADDR", self.server.url())
            .env("VAULT_TOKEN", ROOT)
            .env("VAULT_TRANSIT_KEY", &self.key)
            .output()?;
        if !output.status.success() {
            eprintln!("the peer refused: {}", String::from_utf8_lossy(&output.stderr));
            return Ok(None);
        }
        Ok(Some(BASE64.decode(output.stdout.trim_ascii())?))
    }

    fn kms(&self) -> TestResult<Arc<VaultKms>> {
        let mut options = VaultOptions::new(&self.server.url(), &self.key);
        assert!(options.give_secret(VaultSecret::Given(ROOT.into())));
        Ok(Arc::new(VaultKms::new(options)?))
    }

    async fn factory(&self) -> TestResult<SessionFactory> {
        let store = SqliteMetastore::open(self.database()).await?;
        Ok(SessionFactory::builder("svc", "prod").metastore(store).kms(self.kms()?).build().await?)
    }

    async fn encrypt(&self, payload: &[u8]) -> TestResult<Vec<u8>> {
        let factory = self.factory().await?;
        let record = factory.session("alice").await?.encrypt(payload).await?;
        factory.close().await?;
        Ok(record.to_json().into())
    }

    async fn decrypt(&self, record: &[u8]) -> TestResult<Vec<u8>> {
        let factory = self.factory().await?;
        let payload = factory.session("alice").await?.decrypt(&DataRowRecord::from_json(record)?).await?;
        factory.close().await?;
        Ok(payload)
    }

    /// Returns the system keys of the table, as they are wrapped.
    async fn system_keys(&self) -> TestResult<Vec<Vec<u8>>> {
        let rows = keyward::stores::KeyAdmin::versions(
            &SqliteMetastore::open(self.database()).await?,
            &KeyId::new("_SK_svc_prod"),
        )
        .await?;
        rows.into_iter().map(|row| Ok(row.record?.encrypted_key)).collect()
    }
}

#[tokio::test]
#[ignore = "needs the program of the crate asherah; scripts/test builds it and runs this"]
async fn a_peer_opens_what_we_made_and_the_reverse_also_after_a_rotation() -> TestResult {
    for peer_is_first in [true, false] {
        let Some(world) = World::new()? else { return Ok(()) };
        let mut records = Vec::new();
        for turn in [peer_is_first, !peer_is_first] {
            let payload = format!("tea for {turn}").into_bytes();
            let record = match turn {
                true => world.peer("encrypt", &payload)?.ok_or("the peer encrypts")?,
                false => world.encrypt(&payload).await?,
            };
            records.push((record, payload));
        }
        let keys = world.system_keys().await?;
        assert_eq!(keys.len(), 1, "whoever comes second uses the key of the first");
        assert!(keys[0].starts_with(b"vault:v1:"), "{}", String::from_utf8_lossy(&keys[0]));

        world.server.ask("POST", &format!("transit/keys/{}/rotate", world.key), &json!({}))?;
        for (record, payload) in &records {
            assert_eq!(world.peer("decrypt", record)?.as_ref(), Some(payload));
            assert_eq!(&world.decrypt(record).await?, payload);
        }
        let anew = world.kms()?.repair_key(&keys[0]).await?.ok_or("it was outdated")?;
        assert!(anew.starts_with(b"vault:v2:"), "{}", String::from_utf8_lossy(&anew));
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs the program of the crate asherah; scripts/test builds it and runs this"]
async fn neither_opens_what_another_transit_key_has_wrapped() -> TestResult {
    let Some(mut world) = World::new()? else { return Ok(()) };
    let record = world.encrypt(b"tea").await?;
    let key = std::mem::replace(&mut world.key, world.server.new_key()?);
    assert_eq!(world.peer("decrypt", &record)?, None);
    assert!(world.decrypt(&record).await.is_err());
    world.key = key;
    assert_eq!(world.decrypt(&record).await?, b"tea");
    Ok(())
}
