//! What stands in a slot: an expanded AES-256-GCM key, and room for the 32 bytes it is expanded from.

use std::mem::MaybeUninit;
use std::ptr;

use aes_gcm::aes::Block;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use zeroize::{Zeroize, zeroize_stack};

use super::aes::{Blocks, RoundKeys};
use crate::error::MemoryError;

/// Bytes of a wrapped 32-byte key: ciphertext, 16-byte tag, 12-byte nonce.
pub const WRAPPED_KEY: usize = 60;

/// A key under another key, in the layout that records and key rows use.
pub type SealedKey = [u8; WRAPPED_KEY];

/// Stack that expanding a key may have left round keys and the hash key on.
const EXPANSION_STACK: usize = 2 * 1024;

/// The authentication of a wrapped key failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the wrapped key is not authentic")]
pub struct NotAuthentic;

impl From<NotAuthentic> for MemoryError {
    fn from(_: NotAuthentic) -> Self {
        Self::NotAuthentic
    }
}

/// An expanded key, in place: what a holder computes with.
///
/// Wraps 32-byte keys by AES-256-GCM (NIST SP 800-38D) with a 96-bit nonce: the sizes are known, so the three cipher blocks
/// that it takes are computed in one call. A test holds every wrap against the general routine of the crate `aes-gcm`.
pub(super) struct KeyState {
    round_keys: RoundKeys,
    hash: GHash,
}

impl KeyState {
    fn new(key: &[u8; 32]) -> Self {
        let round_keys = RoundKeys::new(key);
        let mut blocks = Blocks::default();
        round_keys.encrypt(&mut blocks);
        let hash = GHash::new(&blocks[0]);
        drop(Keystream(blocks));
        Self { round_keys, hash }
    }

    /// Wraps `key` under this key with a fresh `nonce`, authenticating `context` (empty in the format's own wraps).
    pub(super) fn wrap(&self, key: &[u8; 32], nonce: &[u8; 12], context: &[u8]) -> SealedKey {
        let keystream = self.keystream(nonce);
        let mut sealed = [0; WRAPPED_KEY];
        keystream.apply(key, &mut sealed[..32]);
        let tag = self.tag(context, &sealed[..32], &keystream);
        sealed[32..48].copy_from_slice(&tag);
        sealed[48..].copy_from_slice(nonce);
        sealed
    }

    /// Unwraps `sealed` into `key`, which is untouched on failure.
    pub(super) fn unwrap(&self, sealed: &SealedKey, context: &[u8], key: &mut [u8; 32]) -> Result<(), NotAuthentic> {
        let (ciphertext, rest) = sealed.split_at(32);
        let (tag, nonce) = rest.split_at(16);
        let keystream = self.keystream(nonce.try_into().expect("12 bytes are left"));
        verify_slices_are_equal(&self.tag(context, ciphertext, &keystream), tag).map_err(|_| NotAuthentic)?;
        keystream.apply(ciphertext, key);
        Ok(())
    }

    /// The encrypted counter blocks 1 to 3 (section 7.1): the first masks the tag, the others the key.
    fn keystream(&self, nonce: &[u8; 12]) -> Keystream {
        let mut blocks = Blocks::default();
        for (block, counter) in blocks.iter_mut().zip(1_u8..) {
            block[..12].copy_from_slice(nonce);
            block[15] = counter;
        }
        self.round_keys.encrypt(&mut blocks);
        Keystream(blocks)
    }

    /// The tag over `context` and `ciphertext`, each padded to whole blocks, and their lengths in bits.
    fn tag(&self, context: &[u8], ciphertext: &[u8], keystream: &Keystream) -> [u8; 16] {
        let mut hash = self.hash.clone();
        hash.update_padded(context);
        hash.update_padded(ciphertext);
        let mut lengths = Block::default();
        lengths[..8].copy_from_slice(&(context.len() as u64 * 8).to_be_bytes());
        lengths[8..].copy_from_slice(&(ciphertext.len() as u64 * 8).to_be_bytes());
        hash.update(&[lengths]);
        let mut tag = <[u8; 16]>::from(hash.finalize());
        tag.iter_mut().zip(keystream.0[0]).for_each(|(byte, mask)| *byte ^= mask);
        tag
    }
}

/// What masks one tag and one key; wiped when dropped, as the key is what it yields with the ciphertext.
struct Keystream(Blocks);

impl Keystream {
    fn apply(&self, input: &[u8], output: &mut [u8]) {
        let mask = self.0[1..].iter().flatten();
        for ((output, input), mask) in output.iter_mut().zip(input).zip(mask) {
            *output = input ^ mask;
        }
    }
}

impl Drop for Keystream {
    fn drop(&mut self) {
        for block in &mut self.0 {
            block.as_mut_slice().zeroize();
        }
    }
}

/// Bytes of a canary.
pub(super) const CANARY: usize = 16;

/// The bytes of one slot, and behind them its canary.
#[repr(C, align(64))]
pub(super) struct SlotBytes {
    state: MaybeUninit<KeyState>,
    /// The plain key while it is imported, sealed or lent; zero at all other times.
    pub(super) key: [u8; 32],
    /// Changes only when something writes past the end of the slot.
    pub(super) canary: u128,
}

const _: () = assert!((8 << 20) / size_of::<SlotBytes>() >= 6_000, "8 MiB of locked memory hold 6,000 keys");

impl SlotBytes {
    /// How many of a slot's bytes are secret: all before the canary.
    pub(super) const SECRET: usize = std::mem::offset_of!(Self, canary);

    /// Expands the plain key in place and wipes it.
    pub(super) fn expand(&mut self) {
        self.expand_leaving_traces();
        zeroize_stack::<EXPANSION_STACK>();
        self.key.zeroize();
    }

    #[inline(never)]
    fn expand_leaving_traces(&mut self) {
        self.state.write(KeyState::new(&self.key));
    }

    /// Returns the expanded key.
    ///
    /// # Safety
    /// [`expand`](Self::expand) must have been called since the slot was last zeroed.
    #[expect(unsafe_code, reason = "slots are zeroed memory before they are filled")]
    pub(super) unsafe fn state(&self) -> &KeyState {
        // SAFETY: expanded, says the caller. A forced wipe may zero the bytes at any time: every bit pattern, zeroes
        // too, is a valid set of round keys, and what was computed from it is discarded by the reader's post-check.
        unsafe { self.state.assume_init_ref() }
    }

    /// Zeroes the slot at `at`.
    ///
    /// # Safety
    /// `at` must point to a slot of a mapped arena, and its control word must have told readers to discard what they
    /// compute from it.
    #[expect(unsafe_code, reason = "a wipe by force has no exclusive reference")]
    pub(super) unsafe fn wipe(at: *mut Self) {
        let bytes = ptr::slice_from_raw_parts_mut(at.cast::<u8>(), Self::SECRET);
        // SAFETY: the slot is mapped, says the caller, and plain bytes; nothing in it needs its destructor.
        unsafe { (*bytes).zeroize() };
    }
}

#[cfg(test)]
mod tests {
    use aes_gcm::aead::AeadInOut;
    use aes_gcm::{Aes256Gcm, KeyInit};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn wraps_are_those_of_the_general_routine(
            master in any::<[u8; 32]>(),
            key in any::<[u8; 32]>(),
            nonce in any::<[u8; 12]>(),
            context in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let sealed = KeyState::new(&master).wrap(&key, &nonce, &context);
            let mut expected = key;
            let general = Aes256Gcm::new(&master.into());
            let tag = general
                .encrypt_inout_detached(&nonce.into(), &context, expected.as_mut_slice().into())
                .expect("a short text");
            prop_assert_eq!(&sealed[..32], &expected);
            prop_assert_eq!(&sealed[32..48], tag.as_slice());
            prop_assert_eq!(&sealed[48..], &nonce);
        }

        #[test]
        fn a_wrap_opens_and_none_with_a_flipped_bit_does(
            key in any::<[u8; 32]>(),
            context in proptest::collection::vec(any::<u8>(), 0..40),
            bit in 0..WRAPPED_KEY * 8,
        ) {
            let state = KeyState::new(&[7; 32]);
            let mut sealed = state.wrap(&key, &[9; 12], &context);
            let mut opened = [0; 32];
            prop_assert_eq!(state.unwrap(&sealed, &context, &mut opened), Ok(()));
            prop_assert_eq!(opened, key);
            let mut untouched = [3; 32];
            let other: Vec<u8> = context.iter().copied().chain([0]).collect();
            prop_assert_eq!(state.unwrap(&sealed, &other, &mut untouched), Err(NotAuthentic));
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(state.unwrap(&sealed, &context, &mut untouched), Err(NotAuthentic));
            prop_assert_eq!(untouched, [3; 32]);
        }
    }
}
