//! What stands in a slot: an expanded AES-256-GCM key, and room for the 32 bytes it is expanded from.

use std::mem::MaybeUninit;
use std::ptr;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zeroize::{Zeroize, zeroize_stack};

/// Bytes of a wrapped 32-byte key: ciphertext, 16-byte tag, 12-byte nonce.
pub(crate) const WRAPPED_KEY: usize = 60;

/// A key under another key, in the layout that records and key rows use.
pub(crate) type SealedKey = [u8; WRAPPED_KEY];

/// Stack that expanding a key may have left round keys on.
const EXPANSION_STACK: usize = 8 * 1024;

/// The authentication of a wrapped key failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAuthentic;

/// An expanded key, in place.
pub(crate) struct KeyState(Aes256Gcm);

impl KeyState {
    /// Wraps `key` under this key with a fresh `nonce`, authenticating `context` (empty in the format's own wraps).
    ///
    /// AES-256-GCM, NIST SP 800-38D, the nonce last.
    pub(crate) fn wrap(&self, key: &[u8; 32], nonce: &[u8; 12], context: &[u8]) -> SealedKey {
        let mut sealed = [0; WRAPPED_KEY];
        let (ciphertext, rest) = sealed.split_at_mut(32);
        let buffer = InOutBuf::new(key.as_slice(), ciphertext).expect("both have 32 bytes");
        let tag = self
            .0
            .encrypt_inout_detached(&Nonce::from(*nonce), context, buffer)
            .expect("32 bytes are within the limits of AES-GCM");
        rest[..16].copy_from_slice(&tag);
        rest[16..].copy_from_slice(nonce);
        sealed
    }

    /// Unwraps `sealed` into `key`, which is untouched on failure.
    pub(crate) fn unwrap(&self, sealed: &SealedKey, context: &[u8], key: &mut [u8; 32]) -> Result<(), NotAuthentic> {
        let (ciphertext, rest) = sealed.split_at(32);
        let tag = Tag::try_from(&rest[..16]).expect("16 bytes");
        let nonce = Nonce::try_from(&rest[16..]).expect("12 bytes");
        let buffer = InOutBuf::new(ciphertext, key.as_mut_slice()).expect("both have 32 bytes");
        self.0.decrypt_inout_detached(&nonce, context, buffer, &tag).map_err(|_| NotAuthentic)
    }
}

/// The bytes of one slot.
#[repr(C, align(64))]
pub(super) struct SlotBytes {
    state: MaybeUninit<KeyState>,
    /// The plain key while it is imported, sealed or lent; zero at all other times.
    pub(super) key: [u8; 32],
}

impl SlotBytes {
    /// Expands the plain key in place and wipes it.
    pub(super) fn expand(&mut self) {
        self.expand_leaving_traces();
        zeroize_stack::<EXPANSION_STACK>();
        self.key.zeroize();
    }

    #[inline(never)]
    fn expand_leaving_traces(&mut self) {
        self.state.write(KeyState(Aes256Gcm::new((&self.key).into())));
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
        let bytes = ptr::slice_from_raw_parts_mut(at.cast::<u8>(), size_of::<Self>());
        // SAFETY: the slot is mapped, says the caller, and plain bytes; nothing in it needs its destructor.
        unsafe { (*bytes).zeroize() };
    }
}
