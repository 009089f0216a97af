//! Checking and rewrapping.

use async_trait::async_trait;
use secrecy::ExposeSecret;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::failures::{Refused, Request, unexpected};
use super::service::{Transit, VaultKms};
use super::wire::{Wrapped, ciphertext, encrypt_body};
use crate::crypto::system_random;
use crate::error::{KmsError, KmsFailure, KmsFailureKind};
use crate::kms::{CheckStep, KmsAdmin, PlaceCheck, WrapFinding};

/// Beyond the right to encrypt and decrypt, `inspect_key` needs `read` on `transit/keys/KEY` and `repair_key` `update` on
/// `transit/rewrap/KEY`.
#[async_trait]
impl KmsAdmin for VaultKms {
    /// Logs in, looks at the key where the token may do that, wraps a key that nobody uses and unwraps it.
    async fn check(&self) -> Vec<PlaceCheck> {
        let mut steps = Vec::new();
        // The steps that were made are told whether or not there are more.
        let _ = self.transit.check(&mut steps).await;
        vec![PlaceCheck::new(self.transit.place(), steps)]
    }

    async fn inspect_key(&self, encrypted: &[u8]) -> Result<Vec<WrapFinding>, KmsError> {
        let wrapped = Wrapped::read(encrypted).ok_or(KmsError::undecryptable())?;
        let read = self.transit.read_key().await;
        let latest = read.map_err(|failed| failed.into_error(Request::ReadKey.operation()))?.latest_version;
        if wrapped.version > latest {
            return Err(KmsError::undecryptable());
        }
        let is_old = wrapped.version < latest;
        Ok(is_old.then_some(WrapFinding::Outdated { version: wrapped.version, latest }).into_iter().collect())
    }

    async fn repair_key(&self, encrypted: &[u8]) -> Result<Option<Vec<u8>>, KmsError> {
        let wrapped = Wrapped::read(encrypted).ok_or(KmsError::undecryptable())?;
        let rewrap = async {
            let answer = self.transit.ask(Request::Rewrap, Some(wrapped.body().into())).await?;
            let anew = ciphertext(&answer.body).ok_or_else(|| unexpected(self.transit.place(), answer.status))?;
            // Of the latest version already: wrapped as well as before.
            let is_newer = Wrapped::read(&anew).is_some_and(|anew| anew.version > wrapped.version);
            Ok(is_newer.then_some(anew))
        };
        rewrap.await.map_err(|failed: Refused| failed.into_error(Request::Rewrap.operation()))
    }
}

impl Transit {
    async fn check(&self, steps: &mut Vec<CheckStep>) -> Result<(), Ended> {
        let login = async { Ok(self.login.try_out(&self.http).await?) };
        self.step(steps, "login", login).await?;
        let began = Instant::now();
        match self.read_key().await {
            // A token need not have the right.
            Err(Refused::Failure(failure)) if failure.kind == KmsFailureKind::AccessDenied => {}
            read => {
                let fit = read.and_then(|facts| Ok(self.fit(facts)?));
                self.end(steps, "read key", began, fit)?;
            }
        }
        let mut key = Zeroizing::new([0; 32]);
        let random = system_random()(&mut *key).map_err(|error| {
            Refused::Failure(KmsFailure::new(self.place(), KmsFailureKind::Unavailable, error.to_string()))
        });
        let wrap = async {
            random?;
            self.encrypt(encrypt_body(&key)).await
        };
        let wrapped = self.step(steps, "encrypt", wrap).await?;
        let unwrap = async {
            let opened = self.decrypt(&wrapped).await?;
            if opened.expose_secret() == key.as_slice() { Ok(()) } else { Err(Refused::Undecryptable) }
        };
        self.step(steps, "decrypt", unwrap).await
    }

    async fn step<T>(
        &self,
        steps: &mut Vec<CheckStep>,
        name: &'static str,
        work: impl Future<Output = Result<T, Refused>>,
    ) -> Result<T, Ended> {
        let began = Instant::now();
        let result = work.await;
        self.end(steps, name, began, result)
    }

    fn end<T>(
        &self,
        steps: &mut Vec<CheckStep>,
        name: &'static str,
        began: Instant,
        result: Result<T, Refused>,
    ) -> Result<T, Ended> {
        let (outcome, result) = match result {
            Ok(value) => (Ok(()), Ok(value)),
            Err(failed) => (Err(failed.into_failure(self.place())), Err(Ended)),
        };
        steps.push(CheckStep::new(name, began.elapsed(), outcome));
        result
    }
}

/// A step failed, and there is no next one.
struct Ended;
