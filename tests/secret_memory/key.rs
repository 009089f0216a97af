//! Keys that parent and victim agree on without either sending them: made in place from a number.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use keyward::memory::{SealedKey, WRAPPED_KEY};

use crate::TestResult;

/// What a key is made from.
#[derive(Clone, Copy)]
pub(crate) struct Seed(pub(crate) u64);

impl Seed {
    /// Writes the key, byte by byte, so that it stands nowhere else.
    pub(crate) fn fill(self, key: &mut [u8; 32]) {
        for (byte, index) in key.iter_mut().zip(0_u64..) {
            let mixed = (self.0 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index << 32 | index);
            let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            *std::hint::black_box(byte) = mixed.to_be_bytes()[0];
        }
    }

    /// Returns the key; in the parent alone.
    pub(crate) fn key(self) -> [u8; 32] {
        let mut key = [0; 32];
        self.fill(&mut key);
        key
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Seed {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

/// Writes bytes for a line.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn from_hex(text: &str) -> TestResult<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

/// Opens a wrapped key by a cipher that the wraps are not made with; fails when it is not authentic.
pub(crate) fn unwrap(parent: &[u8; 32], wrapped: &[u8]) -> TestResult<[u8; 32]> {
    let wrapped: &SealedKey = wrapped.try_into()?;
    let (sealed, nonce) = wrapped.split_at(WRAPPED_KEY - 12);
    let mut sealed = sealed.to_vec();
    let parent = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, parent)?);
    let opened = parent.open_in_place(Nonce::try_assume_unique_for_key(nonce)?, Aad::empty(), &mut sealed)?;
    Ok((&*opened).try_into()?)
}

/// Wraps a key by the same cipher.
pub(crate) fn wrap(parent: &[u8; 32], key: &[u8; 32], nonce: &[u8; 12]) -> TestResult<SealedKey> {
    let mut wrapped = [0; WRAPPED_KEY];
    let (ciphertext, rest) = wrapped.split_at_mut(32);
    ciphertext.copy_from_slice(key);
    let parent = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, parent)?);
    let nonce_of = Nonce::assume_unique_for_key(*nonce);
    let tag = parent.seal_in_place_separate_tag(nonce_of, Aad::empty(), ciphertext)?;
    rest[..16].copy_from_slice(tag.as_ref());
    rest[16..].copy_from_slice(nonce);
    Ok(wrapped)
}
