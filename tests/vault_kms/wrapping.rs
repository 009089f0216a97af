//! What is stored, and who may do what with which key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use keyward::kms::{KeyManagementService, KmsAdmin, KmsError, KmsFailureKind, VaultKms};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::stage::{OpenBao, ROOT, TestResult, all_of, failure, options, says, service, works, wrap, wrapped};

#[tokio::test]
async fn what_is_stored_is_what_the_engine_returned_and_the_reverse() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let kms = service(&server.url(), &key, ROOT)?;
    let ours = String::from_utf8(works(&kms).await?)?;
    assert!(ours.starts_with("vault:v1:"), "{ours}");
    let opened = server.ask("POST", &format!("transit/decrypt/{key}"), &json!({"ciphertext": ours}))?;
    let plain = BASE64.decode(opened["data"]["plaintext"].as_str().ok_or("a plaintext")?)?;
    assert_eq!(kms.decrypt_key(ours.as_bytes()).await?.expose_secret(), plain);

    let theirs =
        server.ask("POST", &format!("transit/encrypt/{key}"), &json!({"plaintext": BASE64.encode([7; 32])}))?;
    let theirs = theirs["data"]["ciphertext"].as_str().ok_or("a ciphertext")?;
    assert_eq!(kms.decrypt_key(theirs.as_bytes()).await?.expose_secret(), [7; 32]);
    Ok(())
}

#[tokio::test]
async fn what_is_wrapped_and_no_key_is_undecryptable() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let kms = service(&server.url(), &key, ROOT)?;
    for size in [0, 16, 31, 33, 100] {
        let plaintext = BASE64.encode(vec![7; size]);
        let answer = server.ask("POST", &format!("transit/encrypt/{key}"), &json!({"plaintext": plaintext}))?;
        let text = answer["data"]["ciphertext"].as_str().ok_or("a ciphertext")?;
        assert!(matches!(kms.decrypt_key(text.as_bytes()).await, Err(KmsError::Undecryptable { .. })), "{size}");
    }
    Ok(())
}

#[tokio::test]
async fn a_token_does_what_its_policy_allows_and_an_error_says_what_that_lacks() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let by_root = wrapped(&service(&server.url(), &key, ROOT)?).await?;
    let [encrypt, decrypt] = ["encrypt", "decrypt"].map(|word| format!("transit/{word}/{key}"));
    for (rights, encrypts, decrypts) in [
        (vec![(encrypt.as_str(), "update")], true, false),
        (vec![(&decrypt, "update")], false, true),
        (vec![], false, false),
    ] {
        for looks_at_itself in [true, false] {
            let policy = server.policy(&rights)?;
            let token = server.token(&json!({"policies": [policy], "no_default_policy": !looks_at_itself}))?;
            let kms = service(&server.url(), &key, &token)?;
            let wrapped = wrap(&kms).await?;
            assert_eq!(wrapped.is_ok(), encrypts, "{rights:?}: {wrapped:?}");
            if !encrypts {
                let words = [&server.url(), "403", &encrypt, "allow `update` on that path"];
                says(&failure(wrapped)?, KmsFailureKind::AccessDenied, &words, &[&token]);
            }
            let opened = kms.decrypt_key(&by_root).await;
            assert_eq!(opened.is_ok(), decrypts, "{rights:?}: {opened:?}");
            if !decrypts {
                let words = [decrypt.as_str(), "allow `update` on that path"];
                says(&failure(opened)?, KmsFailureKind::AccessDenied, &words, &[&token]);
            }
            let inspected = failure(kms.inspect_key(&by_root).await)?;
            says(&inspected, KmsFailureKind::AccessDenied, &["transit/keys/", "allow `read` on that path"], &[&token]);
            let repaired = failure(kms.repair_key(&by_root).await)?;
            says(
                &repaired,
                KmsFailureKind::AccessDenied,
                &["transit/rewrap/", "allow `update` on that path"],
                &[&token],
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_key_or_engine_that_is_not_there_is_told_and_not_made() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let wrapped_once = wrapped(&service(&server.url(), &key, ROOT)?).await?;
    let nobody = server.name("nobody");
    let kms = service(&server.url(), &nobody, ROOT)?;
    for failed in [failure(wrap(&kms).await?)?, failure(kms.decrypt_key(&wrapped_once).await)?] {
        says(&failed, KmsFailureKind::KeyNotFound, &[&server.url(), "check the name of the key"], &[]);
    }
    let headers = [("x-vault-token", ROOT)];
    let (status, _) = server.request("GET", &format!("transit/keys/{nobody}"), &Value::Null, &headers)?;
    assert_eq!(status, 404, "root may make keys, and encrypting made none");
    let refused = failure(VaultKms::connect(options(&server.url(), &nobody, ROOT)?).await)?;
    assert_eq!(refused.kind, KmsFailureKind::KeyNotFound);

    let policy = server.policy(&[(&format!("transit/encrypt/{nobody}"), "update")])?;
    let token = server.token(&json!({"policies": [policy]}))?;
    let failed = failure(wrap(&service(&server.url(), &nobody, &token)?).await?)?;
    says(&failed, KmsFailureKind::AccessDenied, &["is there such a key?"], &[&token]);

    let elsewhere = options(&server.url(), &format!("{key}?mount=elsewhere"), ROOT)?;
    let kms = std::sync::Arc::new(VaultKms::new(elsewhere)?);
    for failed in [failure(wrap(&kms).await?)?, failure(kms.decrypt_key(&wrapped_once).await)?] {
        says(&failed, KmsFailureKind::Refused, &["nothing is mounted there", "check mount"], &[]);
    }
    // Another engine than Transit.
    let secrets = options(&server.url(), &format!("{key}?mount=secret"), ROOT)?;
    says(&failure(VaultKms::connect(secrets).await)?, KmsFailureKind::KeyNotFound, &["and its mount"], &[]);
    Ok(())
}

#[tokio::test]
async fn a_key_that_cannot_wrap_is_refused_at_once() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    for settings in [json!({"type": "ed25519"}), json!({"derived": true})] {
        let key = server.name("key");
        server.ask("POST", &format!("transit/keys/{key}"), &settings)?;
        let failed = failure(VaultKms::connect(options(&server.url(), &key, ROOT)?).await)?;
        says(&failed, KmsFailureKind::Refused, &["make another key"], &[&key]);
    }
    Ok(())
}

#[tokio::test]
async fn keys_of_every_type_that_encrypts_wrap_and_tell_tampering() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    for name in ["aes128-gcm96", "chacha20-poly1305", "xchacha20-poly1305", "rsa-2048"] {
        let key = server.name("key");
        server.ask("POST", &format!("transit/keys/{key}"), &json!({"type": name}))?;
        let kms = service(&server.url(), &key, ROOT)?;
        let mut changed = works(&kms).await?;
        let digit = changed.iter_mut().rev().nth(20).ok_or("it is long")?;
        *digit = if *digit == b'A' { b'B' } else { b'A' };
        let opened = kms.decrypt_key(&changed).await;
        assert!(matches!(opened, Err(KmsError::Undecryptable { .. })), "{name}: {opened:?}");
    }
    Ok(())
}

#[tokio::test]
async fn namespaces_have_keys_and_logins_of_their_own() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let (key, team) = (server.new_key()?, server.name("team"));
    server.ask("POST", &format!("sys/namespaces/{team}"), &json!({}))?;
    server.ask_in(&team, "POST", "sys/mounts/transit", &json!({"type": "transit"}))?;
    server.ask_in(&team, "POST", &format!("transit/keys/{key}"), &json!({}))?;
    let path = format!("path \"transit/+/{key}\" {{ capabilities = [\"read\", \"update\"] }}");
    server.ask_in(&team, "POST", "sys/policies/acl/all", &json!({"policy": path}))?;
    let token = server.ask_in(&team, "POST", "auth/token/create", &json!({"policies": ["all"]}))?;
    let token = token["auth"]["client_token"].as_str().ok_or("a token")?;

    let inside =
        std::sync::Arc::new(VaultKms::new(options(&server.url(), &format!("{key}?namespace={team}"), token)?)?);
    let wrapped_inside = works(&inside).await?;
    let outside = service(&server.url(), &key, ROOT)?;
    assert!(matches!(outside.decrypt_key(&wrapped_inside).await, Err(KmsError::Undecryptable { .. })), "another key");

    let stranger = server.token(&json!({"policies": [all_of(server, &key)?]}))?;
    let stranger = VaultKms::new(options(&server.url(), &format!("{key}?namespace={team}"), &stranger)?)?;
    let failed = failure(stranger.decrypt_key(&wrapped_inside).await)?;
    assert!(matches!(failed.kind, KmsFailureKind::AccessDenied | KmsFailureKind::Credentials), "{failed}");
    let nowhere = VaultKms::new(options(&server.url(), &format!("{key}?namespace=nowhere"), ROOT)?)?;
    let failed = failure(nowhere.decrypt_key(&wrapped_inside).await)?;
    assert!(!failed.kind.is_transient(), "{failed}");
    Ok(())
}

#[tokio::test]
async fn a_check_tells_each_step_and_ends_at_the_first_that_fails() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let steps = |checks: &[keyward::kms::PlaceCheck]| -> Vec<(&'static str, Option<KmsFailureKind>)> {
        let steps = checks.iter().flat_map(|check| &check.steps);
        steps.map(|step| (step.name, step.outcome.as_ref().err().map(|failure| failure.kind))).collect()
    };
    let checks = service(&server.url(), &key, ROOT)?.check().await;
    assert_eq!(checks[0].place, server.url());
    assert!(checks[0].is_good() && checks[0].steps.iter().all(|step| !step.took.is_zero()), "{checks:?}");
    assert_eq!(steps(&checks), [("login", None), ("read key", None), ("encrypt", None), ("decrypt", None)]);

    let policy = server.policy(&[(&format!("transit/encrypt/{key}"), "update")])?;
    let token = server.token(&json!({"policies": [policy]}))?;
    let checks = service(&server.url(), &key, &token)?.check().await;
    let denied = Some(KmsFailureKind::AccessDenied);
    assert_eq!(steps(&checks), [("login", None), ("encrypt", None), ("decrypt", denied)]);
    let checks = service(&server.url(), &key, "s.nobody")?.check().await;
    assert_eq!(steps(&checks), [("login", Some(KmsFailureKind::Credentials))]);
    assert!(!format!("{checks:?}").contains("s.nobody"));
    Ok(())
}
