//! Authenticated encryption of payloads, and randomness. Pure and synchronous.

mod aead;
mod keyed_hash;

pub(crate) use crate::memory::system_random;
pub use aead::{Aead, AeadError, Aes256Gcm};
pub(crate) use keyed_hash::KeyedHash;
