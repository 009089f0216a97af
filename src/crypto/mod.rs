//! Authenticated encryption of payloads, and randomness. Pure and synchronous.

mod aead;
mod random;

pub use aead::{Aead, AeadError, Aes256Gcm};
pub(crate) use random::system_random;
