//! What operators ask: does each region work, which regions can open a key, and the missing ones to be added.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use secrecy::{ExposeSecret, SecretBox};
use tokio::time::Instant;

use super::arn::short;
use super::data_key::{self, DataKey};
use super::envelope::{Envelope, Kek};
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
        let inner = &self.inner;
        let lacking = inner.lacking(&envelope).map(|region| {
            let place = region.name().to_owned();
            match envelope.keks.iter().find(|kek| inner.opens(region, kek)) {
                Some(kek) => WrapFinding::Former { place, key: short(&kek.arn) },
                None => WrapFinding::Missing { place },
            }
        });
        let is_strange = |kek: &&Kek| !inner.regions.iter().any(|region| inner.opens(region, kek));
        let strange = envelope.keks.iter().filter(is_strange);
        let strange = strange.map(|kek| WrapFinding::Unconfigured { place: kek.region.clone(), key: short(&kek.arn) });
        Ok(lacking.chain(strange).collect())
    }

    /// Adds what is missing under the configured keys, as far as it can be had. What is there stays.
    async fn repair_key(&self, encrypted: &[u8]) -> Result<Option<Vec<u8>>, KmsError> {
        let mut envelope = Envelope::parse(encrypted)?;
        let lacking: Vec<&Region> = self.inner.lacking(&envelope).collect();
        if lacking.is_empty() {
            return Ok(None);
        }
        // The data key must be the one that opens the system key before anybody is given it.
        let open = |key: &DataKey| {
            data_key::open(key, &envelope.encrypted_key)?;
            Ok(data_key::data_key(key.expose_secret()))
        };
        let deadline = self.inner.deadline();
        let under = self.inner.open(REPAIRING, &envelope, deadline, open).await?;
        let all = lacking.len();
        let (mut keks, failures) = self.inner.wrap_everywhere(lacking.into_iter(), &under, all, deadline).await;
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
    /// Returns the regions that an envelope holds no data key for under the key that is configured.
    fn lacking<'a>(&'a self, envelope: &'a Envelope) -> impl Iterator<Item = &'a Region> {
        let has = |region: &Region| envelope.of_region(region.name()).any(|kek| kek.arn == region.key().as_str());
        self.regions.iter().filter(move |region| !has(region))
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

    let mut made = generated.ok();
    // One region alone is never given a data key that another has made.
    if inner.regions.len() > 1 {
        let key: DataKey = SecretBox::init_with_mut(|key: &mut [u8; 32]| {
            // Zeroes serve as well, where there is no randomness.
            let _ = system_random()(key);
        });
        let began = Instant::now();
        let wrapped = region.encrypt(&key).await;
        note(Request::Encrypt, began.elapsed(), wrapped.as_ref().map(|_| ()).map_err(Clone::clone));
        made = wrapped.ok().map(|encrypted| (key, encrypted)).or(made);
    }
    let Some((expected, encrypted)) = made else { return PlaceCheck::new(region.name(), steps) };
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
