//! AES-256-GCM over payloads, in the format's layout: ciphertext, 16-byte tag, 12-byte nonce.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Bytes of a nonce.
const NONCE: usize = 12;
/// Bytes of a tag.
const TAG: usize = 16;
/// Bytes that sealing adds.
const OVERHEAD: usize = TAG + NONCE;

/// An authenticated cipher for payloads under a 32-byte data row key.
///
/// An implementation must produce what other implementations of the format read; a different cipher makes records that
/// only this application reads. Calls are synchronous and should cost no more than the computation.
pub trait Aead: Send + Sync + 'static {
    /// Returns how many bytes sealing adds.
    fn overhead(&self) -> usize;

    /// Encrypts `plaintext` into `sealed`, which is longer by [`overhead`](Self::overhead).
    ///
    /// # Errors
    /// [`AeadError`] when the sizes do not fit or the plaintext exceeds what the cipher can take.
    fn seal(&self, key: &[u8; 32], nonce: &[u8; 12], plaintext: &[u8], sealed: &mut [u8]) -> Result<(), AeadError>;

    /// Decrypts `sealed` into `plaintext`, which is shorter by [`overhead`](Self::overhead).
    ///
    /// # Errors
    /// [`AeadError`] when the sizes do not fit or authentication fails; `plaintext` is then not to be used.
    fn open(&self, key: &[u8; 32], sealed: &[u8], plaintext: &mut [u8]) -> Result<(), AeadError>;

    /// Decrypts `sealed` in place; the plaintext stands at its beginning.
    ///
    /// # Errors
    /// [`AeadError`] when authentication fails; the contents are then not to be used.
    fn open_in_place(&self, key: &[u8; 32], sealed: &mut [u8]) -> Result<(), AeadError>;
}

/// Authentication failed, or sizes that no record has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authenticated encryption failed")]
pub struct AeadError;

/// AES-256-GCM with a 96-bit nonce and a 128-bit tag, no associated data (NIST SP 800-38D).
///
/// # Security
/// The expanded data row key stands in an allocation of AWS-LC for the time of the call, and is wiped when that is freed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Aes256Gcm;

impl Aead for Aes256Gcm {
    fn overhead(&self) -> usize {
        OVERHEAD
    }

    fn seal(&self, key: &[u8; 32], nonce: &[u8; 12], plaintext: &[u8], sealed: &mut [u8]) -> Result<(), AeadError> {
        if sealed.len() != plaintext.len() + OVERHEAD {
            return Err(AeadError);
        }
        let (ciphertext, rest) = sealed.split_at_mut(plaintext.len());
        let (tag, tail) = rest.split_at_mut(TAG);
        tail.copy_from_slice(nonce);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        expand(key)?
            .seal_out_of_place_scatter(nonce, Aad::empty(), plaintext, ciphertext, &[], tag)
            .map_err(|_| AeadError)
    }

    fn open(&self, key: &[u8; 32], sealed: &[u8], plaintext: &mut [u8]) -> Result<(), AeadError> {
        let (ciphertext, tag, nonce) = split(sealed)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        expand(key)?.open_separate_gather(nonce, Aad::empty(), ciphertext, tag, plaintext).map_err(|_| AeadError)
    }

    fn open_in_place(&self, key: &[u8; 32], sealed: &mut [u8]) -> Result<(), AeadError> {
        let (_, _, &nonce) = split(sealed)?;
        let size = sealed.len() - NONCE;
        let nonce = Nonce::assume_unique_for_key(nonce);
        expand(key)?.open_in_place(nonce, Aad::empty(), &mut sealed[..size]).map(|_| ()).map_err(|_| AeadError)
    }
}

fn expand(key: &[u8; 32]) -> Result<LessSafeKey, AeadError> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).map_err(|_| AeadError)?))
}

/// Ciphertext, tag and nonce.
type Parts<'a> = (&'a [u8], &'a [u8; TAG], &'a [u8; NONCE]);

fn split(sealed: &[u8]) -> Result<Parts<'_>, AeadError> {
    let (rest, nonce) = sealed.split_last_chunk().ok_or(AeadError)?;
    let (ciphertext, tag) = rest.split_last_chunk().ok_or(AeadError)?;
    Ok((ciphertext, tag, nonce))
}

#[cfg(test)]
mod tests {
    use aes_gcm::aead::{AeadInOut, KeyInit};
    use base64::Engine;
    use proptest::prelude::*;

    use super::*;

    const KEY: &[u8; 32] = b"thisIsAStaticMasterKeyForTesting";
    const COUNTING: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

    fn sealed(plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = vec![0; plaintext.len() + OVERHEAD];
        Aes256Gcm.seal(KEY, &COUNTING, plaintext, &mut sealed).unwrap();
        sealed
    }

    #[test]
    fn the_layout_is_ciphertext_tag_nonce() {
        let text = base64::engine::general_purpose::STANDARD.encode(sealed(b"mySuperSecretPayload"));
        assert_eq!(text, "WtI2hzr9oFMKQ41IUwraR9lN6RZXsspBK8O3uvAcHB1sBv9CAAECAwQFBgcICQoL");
    }

    #[test]
    fn an_empty_payload_is_28_bytes() {
        let empty = sealed(b"");
        assert_eq!(empty.len(), 28);
        Aes256Gcm.open(KEY, &empty, &mut []).unwrap();
    }

    #[test]
    fn sizes_that_no_record_has_are_refused() {
        for size in 0..OVERHEAD {
            assert_eq!(Aes256Gcm.open_in_place(KEY, &mut vec![0; size]), Err(AeadError));
            assert_eq!(Aes256Gcm.open(KEY, &vec![0; size], &mut []), Err(AeadError));
        }
        let bytes = sealed(b"four");
        assert_eq!(Aes256Gcm.open(KEY, &bytes, &mut [0; 3]), Err(AeadError));
        assert_eq!(Aes256Gcm.seal(KEY, &COUNTING, b"four", &mut [0; 31]), Err(AeadError));
    }

    #[test]
    fn payloads_and_wrapped_keys_have_the_same_layout() {
        let mut wrapped = sealed(&[7; 32]);
        let state = aes_gcm::Aes256Gcm::new(KEY.into());
        let tag = state.encrypt_inout_detached(&COUNTING.into(), &[], [7; 32].as_mut_slice().into()).unwrap();
        assert_eq!(wrapped[32..48], tag[..]);
        Aes256Gcm.open_in_place(KEY, &mut wrapped).unwrap();
        assert_eq!(wrapped[..32], [7; 32]);
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_no_flipped_bit_does(
            plaintext in proptest::collection::vec(any::<u8>(), 0..900),
            position in any::<proptest::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let mut sealed = sealed(&plaintext);
            let mut opened = sealed.clone();
            Aes256Gcm.open_in_place(KEY, &mut opened).unwrap();
            prop_assert_eq!(&opened[..plaintext.len()], &plaintext);
            sealed[position.index(opened.len())] ^= 1 << bit;
            prop_assert!(Aes256Gcm.open(KEY, &sealed, &mut vec![0; plaintext.len()]).is_err());
            prop_assert!(Aes256Gcm.open_in_place(KEY, &mut sealed).is_err());
        }
    }
}
