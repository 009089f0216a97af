//! Versions of the Transit key.

use keyward::kms::{KeyManagementService, KmsAdmin, KmsError, KmsFailureKind, WrapFinding};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::stage::{OpenBao, ROOT, TestResult, failure, says, service, wrapped};

#[tokio::test]
async fn what_was_wrapped_before_a_rotation_opens_and_is_wrapped_anew() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let kms = service(&server.url(), &key, ROOT)?;
    let old = wrapped(&kms).await?;
    assert_eq!(kms.inspect_key(&old).await?, []);
    assert_eq!(kms.repair_key(&old).await?, None);
    for _ in 0..11 {
        server.ask("POST", &format!("transit/keys/{key}/rotate"), &json!({}))?;
    }
    let plain = kms.decrypt_key(&old).await?;
    let new = wrapped(&kms).await?;
    assert!(new.starts_with(b"vault:v12:"), "{}", String::from_utf8_lossy(&new));
    assert_eq!(kms.inspect_key(&new).await?, []);
    let findings = kms.inspect_key(&old).await?;
    assert_eq!(findings, [WrapFinding::Outdated { version: 1, latest: 12 }]);
    assert!(findings[0].is_repairable());

    let anew = kms.repair_key(&old).await?.ok_or("it was outdated")?;
    assert!(anew.starts_with(b"vault:v12:"), "{}", String::from_utf8_lossy(&anew));
    assert_eq!(kms.inspect_key(&anew).await?, []);
    assert_eq!(kms.decrypt_key(&anew).await?.expose_secret(), plain.expose_secret());
    assert_eq!(kms.decrypt_key(&old).await?.expose_secret(), plain.expose_secret(), "and the old one still opens");
    Ok(())
}

#[tokio::test]
async fn a_version_that_is_shut_off_is_told_from_tampering() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let kms = service(&server.url(), &key, ROOT)?;
    let old = wrapped(&kms).await?;
    server.ask("POST", &format!("transit/keys/{key}/rotate"), &json!({}))?;
    let minimum = |version: u32| {
        server.ask("POST", &format!("transit/keys/{key}/config"), &json!({"min_decryption_version": version}))
    };
    minimum(2)?;
    for failed in [failure(kms.decrypt_key(&old).await)?, failure(kms.repair_key(&old).await)?] {
        says(&failed, KmsFailureKind::KeyDisabled, &["min_decryption_version", "too old"], &[&key]);
    }
    assert_eq!(kms.inspect_key(&old).await?, [WrapFinding::Outdated { version: 1, latest: 2 }]);
    minimum(1)?;
    let anew = kms.repair_key(&old).await?.ok_or("it was outdated")?;
    minimum(2)?;
    assert_eq!(kms.decrypt_key(&anew).await?.expose_secret().len(), 32);
    Ok(())
}

#[tokio::test]
async fn what_no_version_has_wrapped_is_undecryptable() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let kms = service(&server.url(), &key, ROOT)?;
    let wrapped = String::from_utf8(wrapped(&kms).await?)?;
    // The engine takes version 0 for version 1.
    for version in ["v0", "v2", "v01", "v+1", "v", "w1", "v99999999999999999999"] {
        let changed = wrapped.replace("v1", version);
        for failed in [
            kms.decrypt_key(changed.as_bytes()).await.map(drop),
            kms.inspect_key(changed.as_bytes()).await.map(drop),
            kms.repair_key(changed.as_bytes()).await.map(drop),
        ] {
            assert!(matches!(failed, Err(KmsError::Undecryptable { .. })), "{version}: {failed:?}");
        }
    }
    Ok(())
}
