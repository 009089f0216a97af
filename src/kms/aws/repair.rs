//! What operators ask: does each region work, which regions can open a key, and the missing ones to be added.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use secrecy::{ExposeSecret, SecretBox};
use tokio::time::Instant;

use super::arn::short;
use super::data_key::{self, DataKey};
use super::envelope::Envelope;
use super::failures::Request;
use super::region::Region;
use super::service::{AwsKms, Inner, kek};
use crate::crypto::system_random;
use crate::error::{KmsError, KmsFailure};
use crate::kms::{CheckStep, KmsAdmin, PlaceCheck, WrapFinding};

const REPAIRING: &str = "wrapping a system key for more regions of AWS KMS";

#[async_trait]
impl KmsAdmin for AwsKms {
    /// Asks each region for a data key, has a random key wrapped, and what was wrapped opened again.
    async fn check(&self) -> Vec<PlaceCheck> {
        join_all(self.inner.regions.iter().map(|region| check(&self.inner, region))).await
    }

    async fn inspect_key(&self, encrypted: &[u8]) -> Result<Vec<WrapFinding>, KmsError> {
        let envelope = Envelope::parse(encrypted)?;
        let missing =
            self.inner.missing(&envelope).map(|region| WrapFinding::Missing { place: region.name().to_owned() });
        let is_known = |arn: &str| {
            let configured = self.inner.regions.iter().map(Region::key);
            configured.chain(&self.inner.former).any(|key| key.as_str() == arn)
        };
        let strange = envelope.keks.iter().filter(|kek| !is_known(&kek.arn));
        let strange = strange.map(|kek| WrapFinding::Unconfigured { place: kek.region.clone(), key: short(&kek.arn) });
        Ok(missing.chain(strange).collect())
    }

    /// Adds the regions that are missing, as far as they can be had. What is there stays.
    async fn repair_key(&self, encrypted: &[u8]) -> Result<Option<Vec<u8>>, KmsError> {
        let mut envelope = Envelope::parse(encrypted)?;
        let missing: Vec<&Region> = self.inner.missing(&envelope).collect();
        if missing.is_empty() {
            return Ok(None);
        }
        // The data key must be the one that opens the system key before anybody is given it.
        let open = |key: &DataKey| {
            data_key::open(key, &envelope.encrypted_key)?;
            Ok(data_key::data_key(key.expose_secret()))
        };
        let under = self.inner.open(REPAIRING, &envelope, open).await?;
        let (mut keks, failures) = {
            let all = missing.len();
            self.inner.wrap_everywhere(missing.into_iter(), &under, all).await
        };
        if keks.is_empty() {
            return Err(KmsError::Failed { operation: REPAIRING, failures });
        }
        for failure in failures {
            tracing::warn!(%failure, "a region could not be added to a system key");
        }
        envelope.keks.append(&mut keks);
        Ok(Some(envelope.to_json()))
    }
}

impl Inner {
    /// Returns the regions that an envelope holds no data key of.
    fn missing<'a>(&'a self, envelope: &'a Envelope) -> impl Iterator<Item = &'a Region> {
        self.regions.iter().filter(|region| envelope.of_region(region.name()).next().is_none())
    }
}

/// Makes each request once, as far as it can be made.
async fn check(inner: &Inner, region: &Region) -> PlaceCheck {
    let mut steps = Vec::new();
    let mut note = |request: Request, took: Duration, outcome: Result<(), KmsFailure>| {
        steps.push(CheckStep::new(request.name(), took, outcome));
    };
    let began = Instant::now();
    let generated = region.generate().await;
    note(Request::GenerateDataKey, began.elapsed(), generated.as_ref().map(|_| ()).map_err(Clone::clone));

    let key: DataKey = SecretBox::init_with_mut(|key: &mut [u8; 32]| {
        // Zeroes serve as well, where there is no randomness.
        let _ = system_random()(key);
    });
    let began = Instant::now();
    let wrapped = region.encrypt(&key).await;
    note(Request::Encrypt, began.elapsed(), wrapped.as_ref().map(|_| ()).map_err(Clone::clone));

    let made = generated.ok();
    let (expected, encrypted) = match (&made, wrapped) {
        (_, Ok(encrypted)) => (&key, encrypted),
        (Some((data_key, encrypted)), Err(_)) => (data_key, encrypted.clone()),
        (None, Err(_)) => return PlaceCheck::new(region.name(), steps),
    };
    let began = Instant::now();
    let opened = region.decrypt(&kek(region, encrypted), &inner.former).await;
    let outcome = opened.and_then(|opened| {
        if opened.expose_secret() == expected.expose_secret() {
            Ok(())
        } else {
            let kind = crate::error::KmsFailureKind::Refused;
            Err(KmsFailure::new(region.name(), kind, "another key came back than the one that was wrapped")
                .advise("something else than AWS KMS answers: check the endpoint"))
        }
    });
    note(Request::Decrypt, began.elapsed(), outcome);
    PlaceCheck::new(region.name(), steps)
}
