//! How tokens are got and kept.
//!
//! Whoever needs the token looks after it, one at a time, and so does a factory when nobody needs it. Where there is none, a
//! process that asked for nothing while its token ended logs in again when it asks next.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::failures::{self, Request, refused, unexpected};
use super::http::{Answer, Body, Http};
use super::lease::{Due, Lease, Terms};
use super::options::{VaultAuth, VaultSecret};
use super::wire::{Granted, json, own_terms};
use crate::error::{KmsFailure, KmsFailureKind};

/// A token; a copy is the same one as long as it points to the same place.
pub(super) type Token = Arc<SecretString>;

/// The token of one server, and how to get another.
pub(super) struct Login {
    auth: VaultAuth,
    held: Mutex<Option<Held>>,
    /// Held by who gets or renews the token.
    flight: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Held {
    token: Token,
    lease: Lease,
}

#[derive(Serialize)]
struct AppRoleBody<'a> {
    role_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_id: Option<&'a str>,
}

#[derive(Serialize)]
struct KubernetesBody<'a> {
    role: &'a str,
    jwt: &'a str,
}

#[derive(Serialize)]
struct CertificateBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

impl Login {
    pub(super) fn new(auth: VaultAuth) -> Self {
        Self { auth, held: Mutex::default(), flight: tokio::sync::Mutex::default() }
    }

    /// Returns a token that is valid as far as is known, getting or renewing it where that is due.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn token(&self, http: &Http) -> Result<Token, KmsFailure> {
        let Some(held) = self.held() else { return self.log_in(http, None).await };
        match held.lease.due(Instant::now()) {
            Due::Nothing => Ok(held.token),
            Due::Over => self.log_in(http, None).await,
            Due::Renewal | Due::Replacement => {
                // Whoever comes meanwhile goes on with the token that there is.
                if let Ok(_flight) = self.flight.try_lock() {
                    return Ok(self.extend(http, held).await);
                }
                Ok(held.token)
            }
        }
    }

    /// Gets or renews the token where that is due, and returns after what time that will be.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn look_after(&self, http: &Http) -> Result<Duration, KmsFailure> {
        self.token(http).await?;
        Ok(self.held().map_or(Duration::ZERO, |held| held.lease.left(Instant::now())))
    }

    /// Returns another token than `stale`, which the server does not take; `None` when there is no other.
    ///
    /// # Errors
    /// Why logging in failed.
    pub(super) async fn replace(&self, http: &Http, stale: &Token) -> Result<Option<Token>, KmsFailure> {
        if matches!(self.auth, VaultAuth::Token(VaultSecret::Given(_))) {
            return Ok(None);
        }
        let fresh = self.log_in(http, Some(stale)).await?;
        Ok((fresh.expose_secret() != stale.expose_secret()).then_some(fresh))
    }

    /// Whether the server says that it takes a token; of one that may not ask that it does not.
    pub(super) async fn is_taken(&self, http: &Http, token: &Token) -> Result<bool, KmsFailure> {
        let answer = http.send("auth/token/lookup-self", Some(token), None).await?;
        match answer.status.as_u16() {
            403 => Ok(false),
            _ => success(http, Request::LookUpSelf, &answer).map(|()| true),
        }
    }

    /// Logs in, whatever token there is; for a token that is given, looks at it.
    ///
    /// # Errors
    /// Why that failed.
    pub(super) async fn try_out(&self, http: &Http) -> Result<(), KmsFailure> {
        let held = self.obtain(http).await?;
        self.hold(held);
        Ok(())
    }

    fn held(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, held: Held) -> Token {
        let token = Arc::clone(&held.token);
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        token
    }

    /// Logs in, unless another has done so meanwhile.
    async fn log_in(&self, http: &Http, stale: Option<&Token>) -> Result<Token, KmsFailure> {
        // Who takes longer than a login may stand still with its runtime: this one then logs in beside it.
        let _flight = tokio::time::timeout(http.deadline(), self.flight.lock()).await.ok();
        if let Some(held) = self.held()
            && held.lease.due(Instant::now()) != Due::Over
            && stale.is_none_or(|stale| !Arc::ptr_eq(stale, &held.token))
        {
            return Ok(held.token);
        }
        Ok(self.hold(self.obtain(http).await?))
    }

    /// Renews the token or gets another; goes on with the one that there is where neither can be done.
    async fn extend(&self, http: &Http, held: Held) -> Token {
        let held = self.held().unwrap_or(held);
        let due = held.lease.due(Instant::now());
        if due == Due::Nothing {
            // Another did, between the look and the lock.
            return held.token;
        }
        // Whatever comes of this, the next call goes on with the token that there is.
        self.hold(Held { lease: held.lease.put_off(Instant::now()), token: Arc::clone(&held.token) });
        let next = async {
            match due {
                Due::Renewal => self.renew(http, &held).await,
                _ => self.supersede(http, &held).await,
            }
        };
        // The other half of the time of a request is left for what the token is for.
        match tokio::time::timeout(http.deadline() / 2, next).await {
            Ok(Ok(next)) => return self.hold(next),
            Ok(Err(failure)) => tracing::warn!(%failure, "the token of the key management service is not renewed yet"),
            Err(_) => tracing::warn!("the token of the key management service is not renewed yet: no answer in time"),
        }
        held.token
    }

    async fn renew(&self, http: &Http, held: &Held) -> Result<Held, KmsFailure> {
        let body = Body::from(Zeroizing::new(b"{}".to_vec()));
        let answer = http.send("auth/token/renew-self", Some(&held.token), Some(body)).await?;
        if let Err(failure) = success(http, Request::RenewSelf, &answer) {
            return if failure.kind.is_transient() { Err(failure) } else { self.supersede(http, held).await };
        }
        let granted = serde_json::from_slice::<Granted<'_>>(&answer.body).ok().map(|granted| granted.auth.terms());
        let terms = granted.ok_or_else(|| unexpected(http.place(), answer.status))?;
        let renewed = Held { token: Arc::clone(&held.token), lease: Lease::begin(terms, Instant::now()) };
        // The longest time that a token may have comes to its end.
        if renewed.lease.is_shorter_than(&held.lease) && self.is_login() {
            return self.obtain(http).await;
        }
        Ok(renewed)
    }

    /// Gets another token where the method can; leaves this one alone otherwise.
    async fn supersede(&self, http: &Http, held: &Held) -> Result<Held, KmsFailure> {
        if self.is_login() {
            return self.obtain(http).await;
        }
        Ok(Held { token: Arc::clone(&held.token), lease: held.lease.left_alone() })
    }

    fn is_login(&self) -> bool {
        !matches!(self.auth, VaultAuth::Token(_))
    }

    async fn obtain(&self, http: &Http) -> Result<Held, KmsFailure> {
        let place = http.place();
        match &self.auth {
            VaultAuth::Token(secret) => {
                let token = Arc::new(read(place, secret).await?);
                let answer = http.send("auth/token/lookup-self", Some(&token), None).await?;
                let lease = match (answer.status.as_u16(), success(http, Request::LookUpSelf, &answer)) {
                    (_, Ok(())) => match own_terms(&answer.body) {
                        Some(Some(terms)) => Lease::begin(terms, Instant::now()),
                        Some(None) => Lease::ENDLESS,
                        None => return Err(unexpected(place, answer.status)),
                    },
                    // It may not look at itself; what it may do shows when it is used.
                    (403, Err(failure)) if failure.kind == KmsFailureKind::AccessDenied => Lease::ENDLESS,
                    (_, Err(failure)) => return Err(failure),
                };
                Ok(Held { token, lease })
            }
            VaultAuth::AppRole { role_id, secret_id, mount } => {
                let secret = match secret_id {
                    Some(secret) => Some(read(place, secret).await?),
                    None => None,
                };
                let secret_id = secret.as_ref().map(ExposeSecret::expose_secret);
                let size = role_id.len() + secret_id.map_or(0, str::len);
                self.ask(http, mount, json(&AppRoleBody { role_id, secret_id }, size).into()).await
            }
            VaultAuth::Kubernetes { role, jwt, mount } => {
                let jwt = read_file(place, jwt).await?;
                let jwt = jwt.expose_secret();
                self.ask(http, mount, json(&KubernetesBody { role, jwt }, role.len() + jwt.len()).into()).await
            }
            VaultAuth::Certificate { role, mount, .. } => {
                // They may have been replaced since.
                http.forget_certificates();
                let name = role.as_deref();
                self.ask(http, mount, json(&CertificateBody { name }, name.map_or(0, str::len)).into()).await
            }
        }
    }

    async fn ask(&self, http: &Http, mount: &str, body: Body) -> Result<Held, KmsFailure> {
        let answer = http.send(&format!("auth/{}/login", mount.trim_end_matches('/')), None, Some(body)).await?;
        success(http, Request::Login, &answer)?;
        let Ok(Granted { auth }) = serde_json::from_slice::<Granted<'_>>(&answer.body) else {
            return Err(unexpected(http.place(), answer.status));
        };
        let lease = match auth.terms() {
            Terms { ttl: 0, .. } => Lease::ENDLESS,
            terms => Lease::begin(terms, Instant::now()),
        };
        tracing::debug!(place = http.place(), "logged in to the key management service");
        Ok(Held { token: Arc::new(auth.client_token.into()), lease })
    }
}

/// Tells apart what is no success.
fn success(http: &Http, request: Request, answer: &Answer) -> Result<(), KmsFailure> {
    if answer.status.is_success() {
        return Ok(());
    }
    Err(refused(http.place(), request, answer).into_failure(http.place()))
}

async fn read(place: &str, secret: &VaultSecret) -> Result<SecretString, KmsFailure> {
    match secret {
        VaultSecret::Given(secret) => Ok(secret.clone()),
        VaultSecret::File(path) => read_file(place, path).await,
    }
}

async fn read_file(place: &str, path: &Path) -> Result<SecretString, KmsFailure> {
    let owned: PathBuf = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(owned).map(Zeroizing::new)).await;
    let reason = match read {
        Ok(Ok(text)) if text.trim().is_empty() => "is empty".to_owned(),
        Ok(Ok(text)) => return Ok(text.trim().into()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "reading it was given up".to_owned(),
    };
    Err(failures::file(place, format!("{}: {reason}", path.display())))
}
