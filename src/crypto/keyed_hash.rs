//! A hash under a key: equal inputs are recognised by those who have the key, and by nobody else.

use aws_lc_rs::hmac;

/// HMAC-SHA-256. Source: [RFC 2104](https://www.rfc-editor.org/rfc/rfc2104), FIPS 198-1.
pub(crate) struct KeyedHash(hmac::Key);

impl KeyedHash {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Returns the hash of `bytes`, in about a microsecond.
    pub(crate) fn hash(&self, bytes: &[u8]) -> [u8; 32] {
        hmac::sign(&self.0, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_rfc_4231() {
        // Test case 2 with its key, "Jefe", padded by zeros, which HMAC does to any short key.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let hash = KeyedHash::new(&key).hash(b"what do ya want for nothing?");
        assert_eq!(hash[..8], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]);
    }
}
