//! Data keys: what lies between a system key and the master keys of the regions.

use secrecy::{ExposeSecret, SecretBox, SecretSlice};

use crate::crypto::system_random;
use crate::error::KmsError;
use crate::kms::SystemKey;
use crate::memory::{WRAPPED_KEY, with_passing_key};

/// A data key in the clear, wiped when dropped.
pub(super) type DataKey = SecretBox<[u8; 32]>;

/// Makes a data key of these bytes.
pub(super) fn data_key(bytes: &[u8; 32]) -> DataKey {
    DataKey::init_with_mut(|key: &mut [u8; 32]| key.copy_from_slice(bytes))
}

/// Wraps a system key.
///
/// # Errors
/// [`KmsError::Memory`], [`KmsError::Random`].
pub(super) fn wrap(under: &DataKey, key: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
    let mut nonce = [0; 12];
    system_random()(&mut nonce)?;
    let wrap = |bytes: &[u8; 32]| with_passing_key(under.expose_secret(), |lease| lease.wrap(bytes, &nonce, &[]));
    Ok(key.with_bytes(wrap)??.to_vec())
}

/// Opens a system key.
///
/// # Errors
/// [`KmsError::Undecryptable`], [`KmsError::Memory`].
pub(super) fn open(under: &DataKey, wrapped: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
    let sealed: &[u8; WRAPPED_KEY] = wrapped.try_into().map_err(|_| KmsError::undecryptable())?;
    let mut key = Box::new([0; 32]);
    let opened = with_passing_key(under.expose_secret(), |lease| lease.unwrap(sealed, &[], &mut key));
    let key = SecretSlice::from(key as Box<[u8]>);
    opened?.map_err(|_| KmsError::undecryptable())?;
    Ok(key)
}
