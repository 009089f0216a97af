//! One region: its requests, one at a time, and how they went.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout};
use zeroize::{Zeroize, Zeroizing};

use super::arn::KeyArn;
use super::data_key::{DataKey, data_key};
use super::envelope::Kek;
use super::failures::{Request, failure};
use super::options::Hedge;
use crate::clients::Clients;
use crate::error::{KmsFailure, KmsFailureKind};
use crate::kms::Gate;
use crate::record::base64_text;

/// Times of answers that are kept.
const TIMES: usize = 64;

/// Times without which they say little.
const ENOUGH: usize = 20;

const FIRST_PATIENCE: Duration = Duration::from_millis(500);
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// The service in one region; there is one of each name.
pub(super) struct Region {
    key: KeyArn,
    clients: Clients<Client>,
    gate: Gate,
    timeout: Duration,
    hedge: Hedge,
    /// How long the last answers to `Decrypt` took.
    times: Mutex<Vec<Duration>>,
    /// What it was asked last.
    last: Mutex<Option<Asked>>,
}

/// A request, as far as it takes to make it again for what its answer says about the region.
#[derive(Clone)]
enum Asked {
    GenerateDataKey,
    Encrypt,
    Decrypt(Kek),
}

/// Notes how long a region takes to open a key: until it has, or it is not waited for any more.
struct Stopwatch<'a> {
    region: &'a Region,
    began: Instant,
    /// After what time one that is given up tells something.
    patience: Duration,
}

impl Drop for Stopwatch<'_> {
    fn drop(&mut self) {
        let time = self.began.elapsed();
        if time >= self.patience {
            self.region.note(time);
        }
    }
}

impl Asked {
    fn request(&self) -> Request {
        match self {
            Self::GenerateDataKey => Request::GenerateDataKey,
            Self::Encrypt => Request::Encrypt,
            Self::Decrypt(_) => Request::Decrypt,
        }
    }

    /// Whether it is for the key that is configured.
    fn is_of(&self, key: &KeyArn) -> bool {
        match self {
            Self::GenerateDataKey | Self::Encrypt => true,
            Self::Decrypt(kek) => kek.arn == key.as_str(),
        }
    }
}

impl PartialEq for Region {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Region {
    pub(super) fn new(key: KeyArn, clients: Clients<Client>, gate: Gate, timeout: Duration, hedge: Hedge) -> Self {
        Self { key, clients, gate, timeout, hedge, times: Mutex::default(), last: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        self.key.region()
    }

    pub(super) fn key(&self) -> &KeyArn {
        &self.key
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Has a data key made; returns it in the clear and wrapped.
    pub(super) async fn generate(&self) -> Result<(DataKey, Vec<u8>), KmsFailure> {
        let request = Request::GenerateDataKey;
        let answer = self.clients.get().generate_data_key().key_id(self.key.as_str()).key_spec(DataKeySpec::Aes256);
        let answer = self.ask(Asked::GenerateDataKey, answer.send()).await?;
        let plain = self.data_key(request, answer.plaintext);
        let wrapped = self.wrapped(request, answer.ciphertext_blob)?;
        Ok((plain?, wrapped))
    }

    /// Has a data key wrapped.
    pub(super) async fn encrypt(&self, key: &DataKey) -> Result<Vec<u8>, KmsFailure> {
        // The SDK wipes neither its copy of the key nor the body that it makes of it: it is given zeroes, and the body that is
        // sent is put in the place of that, in memory that is wiped.
        let body = encrypt_body(self.key.as_str(), key.expose_secret());
        let answer = self.clients.get().encrypt().key_id(self.key.as_str()).plaintext(Blob::new([0; 32]));
        let answer = answer.customize().mutate_request(move |request| {
            request.headers_mut().insert("content-length", body.len().to_string());
            *request.body_mut() = SdkBody::from(body.clone());
        });
        let answer = self.ask(Asked::Encrypt, answer.send()).await?;
        self.wrapped(Request::Encrypt, answer.ciphertext_blob)
    }

    /// As [`generate`](Self::generate), with the region itself.
    pub(super) async fn generate_there(&self) -> Result<(&Self, (DataKey, Vec<u8>)), KmsFailure> {
        Ok((self, self.generate().await?))
    }

    /// Makes the last request again, for what it is worth: the gate learns how it goes. It is one that the caller has the
    /// right to make, if any.
    pub(super) async fn probe(&self, former: &[KeyArn]) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let _ = match last {
            Some(Asked::Decrypt(kek)) => self.decrypt(&kek, former).await.map(drop),
            Some(Asked::Encrypt) => self.encrypt(&data_key(&[0; 32])).await.map(drop),
            Some(Asked::GenerateDataKey) | None => self.generate().await.map(drop),
        };
    }

    /// Has a data key unwrapped, under the key of this region or the `former` one that it names.
    pub(super) async fn decrypt(&self, kek: &Kek, former: &[KeyArn]) -> Result<DataKey, KmsFailure> {
        // Named, so that what somebody else has wrapped under a key of theirs does not open.
        let key = former.iter().find(|former| former.as_str() == kek.arn).unwrap_or(&self.key);
        let blob = Blob::new(kek.encrypted.as_slice());
        let answer = self.clients.get().decrypt().key_id(key.as_str()).ciphertext_blob(blob);
        let patience = self.patience().unwrap_or(FIRST_PATIENCE);
        let mut stopwatch = Stopwatch { region: self, began: Instant::now(), patience };
        let answer = self.ask(Asked::Decrypt(kek.clone()), answer.send()).await;
        // What fails fast is no sign of speed.
        stopwatch.patience = if answer.is_ok() { Duration::ZERO } else { Duration::MAX };
        self.data_key(Request::Decrypt, answer?.plaintext)
    }

    /// Returns after what time without an answer the next region is asked too.
    pub(super) fn patience(&self) -> Option<Duration> {
        match self.hedge {
            Hedge::Off => None,
            Hedge::After(time) => Some(time),
            Hedge::Auto => {
                let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if times.len() < ENOUGH {
                    return Some(FIRST_PATIENCE);
                }
                times.sort_unstable();
                Some(times[times.len() * 95 / 100].clamp(LEAST_PATIENCE, FIRST_PATIENCE))
            }
        }
    }

    fn note(&self, time: Duration) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if times.len() == TIMES {
            times.remove(0);
        }
        times.push(time);
    }

    /// Makes a request, within its time, unless the region is paused.
    async fn ask<T, E>(
        &self,
        asked: Asked,
        answer: impl Future<Output = Result<T, aws_sdk_kms::error::SdkError<E>>>,
    ) -> Result<T, KmsFailure>
    where
        E: aws_sdk_kms::error::ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        // Whoever is asked second and is not waited for, as the first has answered after all, has not failed.
        let entry = self.gate.enter()?.patient(self.patience().unwrap_or(FIRST_PATIENCE));
        let (request, is_of_our_key) = (asked.request(), asked.is_of(&self.key));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        let answer = match timeout(self.timeout, answer).await {
            Ok(answer) => answer.map_err(|error| failure(self.name(), request, &error)),
            Err(_) => {
                let reason = format!("no answer to {} within {:?}", request.name(), self.timeout);
                Err(KmsFailure::new(self.name(), KmsFailureKind::Timeout, reason).advise("look at the network between"))
            }
        };
        match &answer {
            Ok(_) => entry.answered(),
            // That another key than the configured one is not to be used says nothing about the region.
            Err(failure) if !is_of_our_key && !failure.kind.is_transient() => entry.refused(failure.kind),
            Err(failure) => entry.failed(Some(failure.kind)),
        }
        answer
    }

    fn data_key(&self, request: Request, plain: Option<Blob>) -> Result<DataKey, KmsFailure> {
        let mut plain = plain.map(Blob::into_inner).unwrap_or_default();
        let key = <&[u8; 32]>::try_from(plain.as_slice()).ok().map(data_key);
        plain.zeroize();
        key.ok_or_else(|| self.odd(request, "no key of 32 bytes"))
    }

    fn wrapped(&self, request: Request, blob: Option<Blob>) -> Result<Vec<u8>, KmsFailure> {
        blob.map(Blob::into_inner).filter(|blob| !blob.is_empty()).ok_or_else(|| self.odd(request, "no wrapped key"))
    }

    fn odd(&self, request: Request, what: &str) -> KmsFailure {
        let reason = format!("the answer to {} holds {what}", request.name());
        KmsFailure::new(self.name(), KmsFailureKind::Refused, reason)
            .advise("something else than AWS KMS answered: check the endpoint")
    }
}

/// Returns the body of `Encrypt`, in memory that is wiped when the last reference is dropped.
fn encrypt_body(key_id: &str, plain: &[u8; 32]) -> Bytes {
    let text = Zeroizing::new(base64_text(plain));
    let mut body = Zeroizing::new(Vec::with_capacity(key_id.len() + text.len() + 32));
    for part in [r#"{"KeyId":""#, key_id, r#"","Plaintext":""#, text.as_str(), r#""}"#] {
        body.extend_from_slice(part.as_bytes());
    }
    Bytes::from_owner(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_json_and_is_not_moved_while_it_is_written() {
        let arn = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        let body = encrypt_body(arn, &[7; 32]);
        let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(read["KeyId"], arn);
        assert_eq!(read["Plaintext"], "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
        assert!(body.len() <= arn.len() + 44 + 32);
    }
}
