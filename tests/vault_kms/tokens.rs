//! Tokens that end: renewed in time, got anew afterwards.

use std::fs;
use std::time::{Duration, Instant};

use keyward::SessionFactory;
use keyward::kms::{KeyManagementService, KmsFailureKind};
use keyward::stores::InMemoryMetastore;
use serde_json::json;

use crate::stage::{
    OpenBao, OpenBaoSetup, ROOT, Role, TestResult, all_of, eventually, failure, is_taken, says, service, service_of,
    wrapped,
};

/// Calls again and again for a while.
async fn keep_calling(kms: &impl KeyManagementService, wrapped: &[u8], time: Duration) -> TestResult {
    let began = Instant::now();
    while began.elapsed() < time {
        kms.decrypt_key(wrapped).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_token_in_use_is_renewed_and_outlives_its_time() -> TestResult {
    let Some(server) = OpenBao::start(&OpenBaoSetup::default())? else { return Ok(()) };
    let key = server.new_key()?;
    let by_root = wrapped(&service(&server.url(), &key, ROOT)?).await?;
    let role = Role::new(&server, &key, &json!({"token_ttl": "6s", "token_max_ttl": "1h"}))?;
    let kms = role.service(&server.url(), &key)?;
    keep_calling(&kms, &by_root, Duration::from_secs(11)).await?;
    assert_eq!(role.logins(&server)?, 1);
    let renewals = server.asked("auth/token/renew-self")?;
    // Eleven seconds, each four a renewal of six.
    assert!((2..=3).contains(&renewals), "{renewals}");
    Ok(())
}

#[tokio::test]
async fn a_periodic_token_that_is_given_is_renewed() -> TestResult {
    let Some(server) = OpenBao::start(&OpenBaoSetup::default())? else { return Ok(()) };
    let key = server.new_key()?;
    let by_root = wrapped(&service(&server.url(), &key, ROOT)?).await?;
    let token = server.token(&json!({"policies": [all_of(&server, &key)?], "period": "3s"}))?;
    let kms = service(&server.url(), &key, &token)?;
    keep_calling(&kms, &by_root, Duration::from_secs(5)).await?;
    assert!(server.asked("auth/token/renew-self")? > 0);
    // One that does not end is left alone.
    let before = server.asked("auth/token/renew-self")?;
    keep_calling(&service(&server.url(), &key, ROOT)?, &by_root, Duration::from_secs(1)).await?;
    assert_eq!(server.asked("auth/token/renew-self")?, before);
    Ok(())
}

#[tokio::test]
async fn a_factory_keeps_a_token_alive_that_nobody_uses() -> TestResult {
    let Some(server) = OpenBao::start(&OpenBaoSetup::default())? else { return Ok(()) };
    let key = server.new_key()?;
    let token = server.token(&json!({"policies": [all_of(&server, &key)?], "period": "12s"}))?;
    let factory = SessionFactory::builder("svc", "prod")
        .metastore(InMemoryMetastore::new())
        .kms(service(&server.url(), &key, &token)?)
        .build()
        .await?;
    // The second comes after its time, and nobody asks for a key.
    eventually("renewals", || Ok(server.asked("auth/token/renew-self")? >= 2)).await?;
    assert!(is_taken(&server, &token)?);
    assert_eq!(factory.status().kms_calls, 0);
    factory.session("alice").await?.encrypt(b"tea").await?;
    factory.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_any_longer_is_replaced_before_it_ends() -> TestResult {
    let Some(server) = OpenBao::start(&OpenBaoSetup::default())? else { return Ok(()) };
    let key = server.new_key()?;
    let by_root = wrapped(&service(&server.url(), &key, ROOT)?).await?;
    for settings in
        [json!({"token_ttl": "3s", "token_max_ttl": "4s"}), json!({"token_ttl": "3s", "token_type": "batch"})]
    {
        let role = Role::new(&server, &key, &settings)?;
        let kms = role.service(&server.url(), &key)?;
        let refusals = server.asked("auth/token/lookup-self")?;
        keep_calling(&kms, &by_root, Duration::from_secs(6)).await?;
        let logins = role.logins(&server)?;
        assert!((2..=4).contains(&logins), "{settings}: {logins}");
        assert_eq!(server.asked("auth/token/lookup-self")?, refusals, "{settings}: no call was refused meanwhile");
    }
    Ok(())
}

#[tokio::test]
async fn an_idle_process_logs_in_again_when_its_token_has_ended() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let by_root = wrapped(&service(&server.url(), &key, ROOT)?).await?;
    let role = Role::new(server, &key, &json!({"token_ttl": "2s", "token_max_ttl": "2s"}))?;
    let kms = role.service(&server.url(), &key)?;
    kms.decrypt_key(&by_root).await?;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    kms.decrypt_key(&by_root).await?;
    assert_eq!(role.logins(server)?, 2);
    Ok(())
}

#[tokio::test]
async fn a_token_that_was_revoked_is_replaced_within_the_call() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let by_root = wrapped(&service(&server.url(), &key, ROOT)?).await?;
    let role = Role::new(server, &key, &json!({"token_ttl": "1h"}))?;
    let kms = role.service(&server.url(), &key)?;
    kms.decrypt_key(&by_root).await?;
    for logins in [2, 3] {
        server.ask("POST", &format!("sys/leases/revoke-prefix/auth/{}", role.mount), &json!({}))?;
        kms.decrypt_key(&by_root).await?;
        assert_eq!(role.logins(server)?, logins);
    }
    // Where the role is gone, a call ends after one attempt.
    server.ask("DELETE", &format!("auth/{}/role/app", role.mount), &json!(null))?;
    server.ask("POST", &format!("sys/leases/revoke-prefix/auth/{}", role.mount), &json!({}))?;
    let failed = failure(kms.decrypt_key(&by_root).await)?;
    says(&failed, KmsFailureKind::Credentials, &["check role, secret id"], &[&role.secret_id]);
    assert_eq!(role.logins(server)?, 4);
    Ok(())
}

#[tokio::test]
async fn a_role_that_may_not_do_it_logs_in_once_and_no_more() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let (key, other) = (server.new_key()?, server.new_key()?);
    let by_root = wrapped(&service(&server.url(), &key, ROOT)?).await?;
    let role = Role::new(server, &other, &json!({}))?;
    let kms = role.service(&server.url(), &key)?;
    for _ in 0..3 {
        assert_eq!(failure(kms.decrypt_key(&by_root).await)?.kind, KmsFailureKind::AccessDenied);
    }
    assert_eq!(role.logins(server)?, 1);
    Ok(())
}

#[tokio::test]
async fn a_given_token_that_ends_is_told_and_a_file_of_one_is_read_again() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let by_root = wrapped(&service(&server.url(), &key, ROOT)?).await?;
    let policy = all_of(server, &key)?;
    let short = || server.token(&json!({"policies": [policy], "explicit_max_ttl": "3s"}));
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("token");
    let (given, in_file) = (short()?, short()?);
    fs::write(&path, &in_file)?;
    let by_token = service(&server.url(), &key, &given)?;
    let by_file = service_of(&format!("vault:{}/{key}?token_file={}", server.url(), path.display()))?;
    by_token.decrypt_key(&by_root).await?;
    by_file.decrypt_key(&by_root).await?;
    eventually("the end of tokens", || Ok(!is_taken(server, &given)? && !is_taken(server, &in_file)?)).await?;
    for kms in [&by_token, &by_file] {
        let failed = failure(kms.decrypt_key(&by_root).await)?;
        says(&failed, KmsFailureKind::Credentials, &["give a token that is valid"], &[&given, &in_file]);
    }
    fs::write(&path, server.token(&json!({"policies": [policy]}))?)?;
    by_file.decrypt_key(&by_root).await?;
    Ok(())
}

#[tokio::test]
async fn a_token_file_that_was_replaced_is_read_when_the_old_token_is_revoked() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let by_root = wrapped(&service(&server.url(), &key, ROOT)?).await?;
    let policy = all_of(server, &key)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("token");
    let [old, new] = [server.token(&json!({"policies": [policy]}))?, server.token(&json!({"policies": [policy]}))?];
    fs::write(&path, &old)?;
    let kms = service_of(&format!("vault:{}/{key}?token_file={}", server.url(), path.display()))?;
    kms.decrypt_key(&by_root).await?;
    server.ask("POST", "auth/token/revoke", &json!({"token": old}))?;
    let failed = failure(kms.decrypt_key(&by_root).await)?;
    assert_eq!(failed.kind, KmsFailureKind::Credentials, "{failed}");
    fs::write(&path, &new)?;
    kms.decrypt_key(&by_root).await?;
    Ok(())
}
