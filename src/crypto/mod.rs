//! Authenticated encryption of payloads, and randomness. Pure and synchronous.

mod aead;

pub(crate) use crate::memory::system_random;
pub use aead::{Aead, AeadError, Aes256Gcm};
