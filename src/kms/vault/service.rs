//! Wrapping and unwrapping.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretSlice};

use super::failures::{Refused, Request, denied, refused, unexpected};
use super::http::{Answer, Body, Http};
use super::login::Login;
use super::options::VaultOptions;
use super::wire::{KeyFacts, Secret, Wrapped, ciphertext, encrypt_body, key_facts, plaintext};
use crate::error::{KmsError, KmsFailure, KmsFailureKind};
use crate::kms::{KeyManagementService, SystemKey};

/// A key management service whose master key is one of the
/// [Transit](https://developer.hashicorp.com/vault/docs/secrets/transit) engine of HashiCorp Vault or OpenBao; cloning shares
/// its connections and its token.
///
/// Wrapped keys are what the engine returns, `vault:v1:…`, as the Rust implementation of Asherah stores it. The version in
/// it says which version of the Transit key wrapped it, so rotating that key needs nothing else done;
/// [`KmsAdmin`](crate::kms::KmsAdmin) tells which keys are under old versions, and has the engine wrap them anew.
///
/// It logs in at the first call. A token is renewed after two thirds of its time, by the next call or by
/// [`upkeep`](KeyManagementService::upkeep), which a factory calls; got anew where that does not work or has come to an end, and
/// got anew once when the server stops taking it. A token that is given and ends cannot
/// be: a file of one is read again. Each request is sent once, with a deadline. Needs a tokio runtime with time and network.
///
/// # Cancel safety
/// A call that is dropped may have been done by the server; nothing comes of that, but perhaps a token that nobody uses.
///
/// # Security
/// Plain keys and tokens cross TLS in bodies and headers. Buffers of this crate are wiped; those of the HTTP and TLS libraries,
/// which hold a request or an answer while it is sent or read, are freed as they are.
///
/// A token that has the right `create` beside `update` makes the engine make a missing key when it is asked to encrypt. So
/// the key is looked for before the first encryption where the token may do that (`read` on `transit/keys/KEY`); leave
/// `create` out of policies.
///
/// # Examples
/// ```no_run
/// use keyward::kms::{VaultKms, VaultOptions, VaultSecret};
///
/// # async fn example(token: secrecy::SecretString) -> Result<(), Box<dyn std::error::Error>> {
/// let mut options: VaultOptions = "vault:https://vault.example:8200/keyward?mount=transit".parse()?;
/// assert!(options.give_secret(VaultSecret::Given(token)));
/// let kms = VaultKms::connect(options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct VaultKms {
    pub(super) transit: Arc<Transit>,
}

/// A key of an engine, and how it is reached.
pub(super) struct Transit {
    pub(super) http: Http,
    pub(super) login: Login,
    mount: String,
    key: String,
    address: String,
    /// Whether the key was looked for.
    is_sought: AtomicBool,
}

impl VaultKms {
    /// Takes the options; sends nothing and reads no files.
    ///
    /// # Errors
    /// [`KmsError::Settings`] when they cannot work.
    pub fn new(mut options: VaultOptions) -> Result<Self, KmsError> {
        if let Some(fault) = options.fault() {
            let (what, advice) = fault.words();
            return Err(KmsError::Settings { what: what.to_owned(), advice });
        }
        let Some(auth) = options.auth.take() else {
            let advice = "give a token (KEYWARD_KMS_TOKEN or --kms-token-file of the command), or name another auth method: approle, \
                          kubernetes or cert";
            return Err(KmsError::Settings { what: format!("no way to log in to {} is given", options.url), advice });
        };
        options.auth = Some(auth.clone());
        let transit = Transit {
            http: Http::new(&options),
            login: Login::new(auth),
            address: options.to_string(),
            mount: options.mount.trim_end_matches('/').to_owned(),
            key: options.key,
            is_sought: AtomicBool::new(false),
        };
        Ok(Self { transit: Arc::new(transit) })
    }

    /// Logs in, and makes sure that there is a key that can wrap, where the token may look at it.
    ///
    /// # Errors
    /// [`KmsError::Settings`], and [`KmsError::Failed`] with what to do.
    pub async fn connect(options: VaultOptions) -> Result<Self, KmsError> {
        let service = Self::new(options)?;
        let transit = &service.transit;
        let connect = async {
            transit.login.token(&transit.http).await?;
            transit.seek_key().await
        };
        connect.await.map_err(|failed: Refused| failed.into_error("connect to Vault"))?;
        Ok(service)
    }
}

impl fmt::Debug for VaultKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultKms({})", self.transit.address)
    }
}

impl Transit {
    /// Returns where the server is.
    pub(super) fn place(&self) -> &str {
        self.http.place()
    }

    /// Asks for something to be done with the key; once more, under another token, when the server does not take this one.
    pub(super) async fn ask(&self, request: Request, body: Option<Body>) -> Result<Answer, Refused> {
        let path = self.path(request);
        self.ask_at(&path, request, body).await.map_err(|refused| match refused {
            Refused::Failure(mut failure) if failure.kind == KmsFailureKind::AccessDenied => {
                failure.reason.push_str(" at ");
                failure.reason.push_str(&path);
                failure.into()
            }
            other => other,
        })
    }

    fn path(&self, request: Request) -> String {
        let word = match request {
            Request::Encrypt => "encrypt",
            Request::Decrypt => "decrypt",
            Request::Rewrap => "rewrap",
            _ => "keys",
        };
        format!("{}/{word}/{}", self.mount, self.key)
    }

    async fn ask_at(&self, path: &str, request: Request, body: Option<Body>) -> Result<Answer, Refused> {
        let token = self.login.token(&self.http).await?;
        let mut answer = self.http.send(path, Some(&token), body.clone()).await?;
        if answer.status.as_u16() == 403 {
            // It may be for the token, or for what it may do.
            if self.login.is_taken(&self.http, &token).await? {
                return Err(denied(self.place(), request).into());
            }
            if let Some(token) = self.login.replace(&self.http, &token).await? {
                answer = self.http.send(path, Some(&token), body).await?;
            }
        }
        if answer.status.is_success() { Ok(answer) } else { Err(refused(self.place(), request, &answer)) }
    }

    pub(super) async fn read_key(&self) -> Result<KeyFacts, Refused> {
        let answer = self.ask(Request::ReadKey, None).await?;
        Ok(key_facts(&answer.body).ok_or_else(|| unexpected(self.place(), answer.status))?)
    }

    /// Makes sure once that there is a key that can wrap; a token that may not look at it is no reason not to go on.
    pub(super) async fn seek_key(&self) -> Result<(), Refused> {
        if self.is_sought.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.read_key().await {
            Ok(facts) => self.fit(facts)?,
            Err(Refused::Failure(failure)) if failure.kind == KmsFailureKind::AccessDenied => {
                tracing::debug!(place = self.place(), "the token may not look at the Transit key");
            }
            Err(failed) => return Err(failed),
        }
        self.is_sought.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn fit(&self, facts: KeyFacts) -> Result<(), KmsFailure> {
        let failure = |kind, reason: &str| KmsFailure::new(self.place(), kind, reason);
        if facts.soft_deleted {
            let advice = "restore the key: it is marked as deleted";
            return Err(failure(KmsFailureKind::KeyDisabled, "the key is deleted").advise(advice));
        }
        if facts.derived || !facts.supports_encryption {
            let advice = "make another key: `vault write -f transit/keys/KEY`";
            return Err(
                failure(KmsFailureKind::Refused, "the key encrypts nothing, or not without a context").advise(advice)
            );
        }
        Ok(())
    }

    pub(super) async fn encrypt(&self, body: Secret) -> Result<Vec<u8>, Refused> {
        self.seek_key().await?;
        let answer = self.ask(Request::Encrypt, Some(body.into())).await?;
        Ok(ciphertext(&answer.body).ok_or_else(|| unexpected(self.place(), answer.status))?)
    }

    pub(super) async fn decrypt(&self, encrypted: &[u8]) -> Result<SecretSlice<u8>, Refused> {
        let wrapped = Wrapped::read(encrypted).ok_or(Refused::Undecryptable)?;
        let answer = self.ask(Request::Decrypt, Some(wrapped.body().into())).await?;
        let key = plaintext(&answer.body).ok_or_else(|| unexpected(self.place(), answer.status))?;
        // What opens and is no key was not wrapped by this service.
        if key.expose_secret().len() == 32 { Ok(key) } else { Err(Refused::Undecryptable) }
    }
}

#[async_trait]
impl KeyManagementService for VaultKms {
    async fn encrypt_key(&self, key: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
        let body = key.with_bytes(encrypt_body)?;
        self.transit.encrypt(body).await.map_err(|failed| failed.into_error(Request::Encrypt.operation()))
    }

    async fn decrypt_key(&self, encrypted: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
        self.transit.decrypt(encrypted).await.map_err(|failed| failed.into_error(Request::Decrypt.operation()))
    }

    fn kind(&self) -> &'static str {
        "vault"
    }

    /// Logs in, or renews the token where that is due.
    async fn upkeep(&self) -> Result<Duration, KmsError> {
        let Transit { login, http, .. } = &*self.transit;
        login.look_after(http).await.map_err(|failed| Refused::from(failed).into_error("keep the token of Vault"))
    }

    /// Has a key of zeroes wrapped.
    async fn probe(&self) -> Option<Result<(), KmsError>> {
        let probe = self.transit.encrypt(encrypt_body(&[0; 32])).await;
        Some(probe.map(drop).map_err(|failed| failed.into_error(Request::Encrypt.operation())))
    }
}
