//! The ways to log in.

use std::fs;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward::kms::{KeyManagementService, KmsError, KmsFailureKind, VaultAuth, VaultKms, VaultOptions, VaultSecret};
use serde_json::{Value, json};

use crate::stage::{
    HttpAnswer, HttpServer, OpenBao, ROOT, Role, TestResult, all_of, failure, options, says, service, service_of,
    works, wrap,
};
use crate::tls::authority;

const NOTHING: &[u8] = b"vault:v1:AAAA";

#[tokio::test]
async fn a_token_comes_as_it_is_or_from_a_file() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let token = server.token(&json!({"policies": [all_of(server, &key)?]}))?;
    works(&service(&server.url(), &key, &token)?).await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("token");
    let from_file = || service_of(&format!("vault:{}/{key}?token_file={}", server.url(), path.display()));
    says(
        &failure(from_file()?.decrypt_key(NOTHING).await)?,
        KmsFailureKind::Credentials,
        &[&path.display().to_string(), "No such file"],
        &[],
    );
    fs::write(&path, " \n")?;
    says(&failure(from_file()?.decrypt_key(NOTHING).await)?, KmsFailureKind::Credentials, &["is empty"], &[]);
    fs::write(&path, format!("{token}\n"))?;
    works(&from_file()?).await?;

    for wrong in ["s.nobody", "with space", "lïnes"] {
        let refused = failure(VaultKms::connect(options(&server.url(), &key, wrong)?).await)?;
        says(&refused, KmsFailureKind::Credentials, &[&server.url()], &[wrong]);
    }
    let none = VaultKms::new(format!("vault:{}/{key}", server.url()).parse()?);
    assert!(matches!(none, Err(KmsError::Settings { .. })), "{none:?}");
    Ok(())
}

#[tokio::test]
async fn an_app_role_logs_in_with_its_secret_id_or_without() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let role = Role::new(server, &key, &json!({}))?;
    let kms = role.service(&server.url(), &key)?;
    assert!(!format!("{kms:?}").contains(&role.secret_id));
    works(&kms).await?;
    assert_eq!(role.logins(server)?, 1, "one login for all calls");

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("secret-id");
    fs::write(&path, format!("{}\n", role.secret_id))?;
    let address = role.address(&server.url(), &key);
    works(&service_of(&format!("{address}&secret_id_file={}", path.display()))?).await?;

    fs::write(&path, "5ec4e7")?;
    let wrong = service_of(&format!("{address}&secret_id_file={}", path.display()))?;
    for (kms, word) in [(wrong, "invalid role or secret ID"), (service_of(&address)?, "missing secret_id")] {
        let words = [&server.url(), word, "check role, secret id"];
        let failed = failure(kms.decrypt_key(NOTHING).await)?;
        says(&failed, KmsFailureKind::Credentials, &words, &["5ec4e7", &role.secret_id]);
    }
    let nowhere = service_of(&address.replace(&role.mount, "nowhere"))?;
    says(&failure(nowhere.decrypt_key(NOTHING).await)?, KmsFailureKind::AccessDenied, &["auth_mount"], &[]);

    let bare = Role::new(
        server,
        &key,
        &json!({"bind_secret_id": false, "secret_id_bound_cidrs": [], "token_bound_cidrs": ["127.0.0.0/8"]}),
    )?;
    works(&service_of(&bare.address(&server.url(), &key))?).await?;
    Ok(())
}

/// The token of a service account, as Kubernetes makes one but for the signature, which is for Kubernetes to check.
fn service_account_token(name: &str) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": format!("system:serviceaccount:shop:{name}"),
        "iat": 1_700_000_000,
        "nbf": 1_700_000_000,
        "exp": 4_000_000_000_u64,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": name, "uid": format!("uid-of-{name}")}},
    });
    let head = json!({"alg": "RS256", "typ": "JWT", "kid": "one"});
    format!("{}.{}.{}", part(head), part(claims), URL_SAFE_NO_PAD.encode([7; 256]))
}

/// What Kubernetes answers to a review of `token`, of a service account of this name.
fn review(request: &str, token: &str, name: &str) -> HttpAnswer {
    let status = match request.contains(token) {
        true => json!({"authenticated": true, "user": {
            "username": format!("system:serviceaccount:shop:{name}"),
            "uid": format!("uid-of-{name}"),
            "groups": ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"],
        }}),
        false => json!({"authenticated": false, "error": "invalid bearer token"}),
    };
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status});
    HttpAnswer { head: "201 Created\r\ncontent-type: application/json".to_owned(), body: body.to_string() }
}

#[tokio::test]
async fn a_service_account_of_kubernetes_logs_in() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let token = service_account_token("till");
    let known = token.clone();
    let kubernetes = HttpServer::start(move |request| review(request, &known, "till"))?;
    let mount = server.name("cluster");
    server.ask("POST", &format!("sys/auth/{mount}"), &json!({"type": "kubernetes"}))?;
    let folder = tempfile::tempdir()?;
    authority(folder.path(), "ca")?;
    let config = json!({
        "kubernetes_host": kubernetes.url(),
        "kubernetes_ca_cert": fs::read_to_string(folder.path().join("ca.crt"))?,
        "disable_local_ca_jwt": true,
        "token_reviewer_jwt": service_account_token("vault"),
    });
    server.ask("POST", &format!("auth/{mount}/config"), &config)?;
    let role = json!({
        "bound_service_account_names": "till", "bound_service_account_namespaces": "shop",
        "token_policies": [all_of(server, &key)?], "token_ttl": "1h",
    });
    server.ask("POST", &format!("auth/{mount}/role/app"), &role)?;

    let path = folder.path().join("token");
    fs::write(&path, &token)?;
    let address =
        format!("vault:{}/{key}?auth=kubernetes&role=app&auth_mount={mount}&jwt_file={}", server.url(), path.display());
    works(&service_of(&address)?).await?;
    assert_eq!(kubernetes.requests(), 1, "Kubernetes was asked who it is");

    fs::write(&path, service_account_token("thief"))?;
    let failed = failure(service_of(&address)?.decrypt_key(NOTHING).await)?;
    assert!(matches!(failed.kind, KmsFailureKind::AccessDenied | KmsFailureKind::Credentials), "{failed}");
    says(&failed, failed.kind, &[&server.url()], &[&service_account_token("thief")]);
    let failed = failure(service_of(&address.replace("role=app", "role=none"))?.decrypt_key(NOTHING).await)?;
    says(&failed, KmsFailureKind::Credentials, &["invalid role", "check role"], &[]);
    Ok(())
}

#[tokio::test]
async fn a_secret_goes_where_the_method_takes_one() -> TestResult {
    let mut options: VaultOptions = "vault:https://vault/k?auth=kubernetes&role=r".parse()?;
    assert!(!options.give_secret(VaultSecret::Given("s.5ec4e7".into())));
    let mut options: VaultOptions = "vault:https://vault/k?auth=approle&role_id=r".parse()?;
    assert!(options.give_secret(VaultSecret::Given("5ec4e7".into())));
    assert!(matches!(&options.auth, Some(VaultAuth::AppRole { secret_id: Some(_), .. })));
    assert!(!format!("{options:?} {options}").contains("5ec4e7"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_callers_log_in_once() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let key = server.new_key()?;
    let wrapped = Arc::new(wrap(&service(&server.url(), &key, ROOT)?).await??);
    let role = Role::new(server, &key, &json!({}))?;
    let kms = role.service(&server.url(), &key)?;
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (kms, wrapped) = (Arc::clone(&kms), Arc::clone(&wrapped));
            tokio::spawn(async move { kms.decrypt_key(&wrapped).await.map(drop) })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    assert_eq!(role.logins(server)?, 1);
    Ok(())
}
