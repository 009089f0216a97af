//! Services and keys of these stories.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward::kms::{KeyManagementService, KmsError, KmsFailure, KmsFailureKind, VaultKms, VaultOptions, VaultSecret};
use keyward::stores::{InMemoryMetastore, Metastore};
use keyward::{Error, KeyId, SessionFactory};
use secrecy::ExposeSecret;
use serde_json::json;

pub(crate) use crate::servers::{Fault, HttpAnswer, HttpServer, OpenBao, OpenBaoSetup, Proxy, ROOT, TestResult};

/// Returns the options of a key with a token.
pub(crate) fn options(url: &str, key: &str, token: &str) -> TestResult<VaultOptions> {
    let mut options: VaultOptions = format!("vault:{url}/{key}").parse()?;
    assert!(options.give_secret(VaultSecret::Given(token.into())));
    Ok(options)
}

pub(crate) fn service(url: &str, key: &str, token: &str) -> TestResult<Arc<VaultKms>> {
    Ok(Arc::new(VaultKms::new(options(url, key, token)?)?))
}

/// Returns the service of an address that needs no secret beside it.
pub(crate) fn service_of(address: &str) -> TestResult<Arc<VaultKms>> {
    Ok(Arc::new(VaultKms::new(address.parse()?)?))
}

/// Has a factory make a system key and returns it as the service wrapped it.
pub(crate) async fn wrap(kms: &Arc<VaultKms>) -> TestResult<Result<Vec<u8>, Arc<KmsError>>> {
    let store = Arc::new(InMemoryMetastore::new());
    let builder = SessionFactory::builder("svc", "prod").metastore(Arc::clone(&store)).kms(Arc::clone(kms));
    let factory = builder.build().await?;
    let encrypted = factory.session("alice").await?.encrypt(b"tea").await;
    factory.close().await?;
    match encrypted {
        Ok(_) => {
            let row = store.load_latest(&KeyId::new("_SK_svc_prod")).await?;
            Ok(Ok(row.ok_or("a system key was stored")?.encrypted_key))
        }
        Err(Error::Kms(error)) => Ok(Err(error)),
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn wrapped(kms: &Arc<VaultKms>) -> TestResult<Vec<u8>> {
    Ok(wrap(kms).await??)
}

/// Wraps, unwraps and returns what was wrapped.
pub(crate) async fn works(kms: &Arc<VaultKms>) -> TestResult<Vec<u8>> {
    let wrapped = wrapped(kms).await?;
    assert_eq!(kms.decrypt_key(&wrapped).await?.expose_secret().len(), 32);
    Ok(wrapped)
}

/// Returns how the one place failed.
pub(crate) fn failure<T>(result: Result<T, impl Into<Arc<KmsError>>>) -> TestResult<KmsFailure> {
    let Err(error) = result else { return Err("it succeeded".into()) };
    let error = error.into();
    match &*error {
        KmsError::Failed { failures, .. } if failures.len() == 1 => Ok(failures[0].clone()),
        _ => Err(format!("another error: {error:?}").into()),
    }
}

/// Checks that a failure is of a kind and says all of `words`, and no secret.
#[track_caller]
pub(crate) fn says(failure: &KmsFailure, kind: KmsFailureKind, words: &[&str], secrets: &[&str]) {
    let text = format!("{failure} {failure:?}");
    assert_eq!(failure.kind, kind, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    for secret in secrets {
        assert!(!text.contains(secret), "{text}");
    }
}

/// Asks until something is so, as long as a minute.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> TestResult<bool>) -> TestResult {
    let began = Instant::now();
    while !is_so()? {
        if began.elapsed() > Duration::from_secs(60) {
            return Err(format!("{what} took too long").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Whether the server takes a token.
pub(crate) fn is_taken(server: &OpenBao, token: &str) -> TestResult<bool> {
    let headers = [("x-vault-token", token)];
    Ok(server.request("GET", "auth/token/lookup-self", &serde_json::Value::Null, &headers)?.0 == 200)
}

/// An AppRole of a mount of its own that may do everything with a key.
pub(crate) struct Role {
    pub(crate) mount: String,
    pub(crate) role_id: String,
    pub(crate) secret_id: String,
}

impl Role {
    /// Makes one whose tokens have such settings, in the words of the method.
    pub(crate) fn new(server: &OpenBao, key: &str, settings: &serde_json::Value) -> TestResult<Self> {
        let mount = server.name("machines");
        server.ask("POST", &format!("sys/auth/{mount}"), &json!({"type": "approle"}))?;
        let policy = all_of(server, key)?;
        let mut role = json!({"token_policies": [policy]});
        for (name, value) in settings.as_object().into_iter().flatten() {
            role[name] = value.clone();
        }
        let path = format!("auth/{mount}/role/app");
        server.ask("POST", &path, &role)?;
        let text = |answer: &serde_json::Value, name: &str| answer["data"][name].as_str().map(str::to_owned);
        let id = server.ask("GET", &format!("{path}/role-id"), &json!(null))?;
        let secret = match settings["bind_secret_id"].as_bool() {
            Some(false) => json!({"data": {"secret_id": "none"}}),
            _ => server.ask("POST", &format!("{path}/secret-id"), &json!({}))?,
        };
        Ok(Self {
            mount,
            role_id: text(&id, "role_id").ok_or("a role id")?,
            secret_id: text(&secret, "secret_id").ok_or("a secret id")?,
        })
    }

    /// Returns the address of a key, with this as the login.
    pub(crate) fn address(&self, url: &str, key: &str) -> String {
        format!("vault:{url}/{key}?auth=approle&role_id={}&auth_mount={}", self.role_id, self.mount)
    }

    pub(crate) fn service(&self, url: &str, key: &str) -> TestResult<Arc<VaultKms>> {
        let mut options: VaultOptions = self.address(url, key).parse()?;
        assert!(options.give_secret(VaultSecret::Given(self.secret_id.as_str().into())));
        Ok(Arc::new(VaultKms::new(options)?))
    }

    /// Returns how often somebody logged in by it.
    pub(crate) fn logins(&self, server: &OpenBao) -> TestResult<usize> {
        server.asked(&format!("auth/{}/login", self.mount))
    }
}

/// Makes a policy that lets everything be done with a key.
pub(crate) fn all_of(server: &OpenBao, key: &str) -> TestResult<String> {
    let paths = ["encrypt", "decrypt", "rewrap"].map(|word| format!("transit/{word}/{key}"));
    let read = format!("transit/keys/{key}");
    let mut rights: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), "update")).collect();
    rights.push((&read, "read"));
    server.policy(&rights)
}
