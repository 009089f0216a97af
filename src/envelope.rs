//! Sealing and opening one record with a leased intermediate key: pure and synchronous.

use std::cell::RefCell;

use zeroize::Zeroize;

use crate::crypto::Aead;
use crate::error::Error;
use crate::ids::KeyMeta;
use crate::memory::{LockedKey, RandomFill, SealedKey, WRAPPED_KEY};
use crate::record::{DataRowRecord, RecordParts, RecordView, decode_base64_into};

/// Ciphertext buffers up to this size are kept for the thread's next record.
const KEEP_SCRATCH: usize = 2 * 1024 * 1024;

thread_local! {
    static CIPHERTEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What sealing and opening need besides keys.
#[derive(Clone)]
pub(crate) struct Envelope {
    pub(crate) aead: std::sync::Arc<dyn Aead>,
    pub(crate) random: RandomFill,
}

impl Envelope {
    /// Encrypts `payload` under a fresh data row key, wrapped by `parent`; `created` is in Unix seconds.
    pub(crate) fn seal(
        &self,
        parent: (&KeyMeta, &LockedKey),
        created: i64,
        payload: &[u8],
    ) -> Result<DataRowRecord, Error> {
        let mut data = vec![0; payload.len() + self.aead.overhead()];
        let encrypted_key = self.seal_into(parent.1, payload, &mut data)?;
        Ok(DataRowRecord::from_parts(created, encrypted_key.to_vec(), parent.0.clone(), data))
    }

    /// As [`seal`](Self::seal), straight to JSON text.
    pub(crate) fn seal_json(
        &self,
        parent: (&KeyMeta, &LockedKey),
        created: i64,
        payload: &[u8],
    ) -> Result<Vec<u8>, Error> {
        CIPHERTEXT.with_borrow_mut(|data| {
            // The bytes beyond the last record's size are zeroed, the others overwritten.
            data.resize(payload.len() + self.aead.overhead(), 0);
            let encrypted_key = self.seal_into(parent.1, payload, data)?;
            let parts = RecordParts {
                created,
                encrypted_key: &encrypted_key,
                parent_id: parent.0.id.as_str(),
                parent_created: parent.0.created,
                data,
            };
            let json = parts.to_json();
            if data.capacity() > KEEP_SCRATCH {
                *data = Vec::new();
            }
            Ok(json)
        })
    }

    /// Decrypts `record` under the intermediate key that it names.
    pub(crate) fn open(&self, parent: &LockedKey, record: &DataRowRecord) -> Result<Vec<u8>, Error> {
        let key = self.open_key(parent, record.encrypted_key())?;
        let size = record.data().len().checked_sub(self.aead.overhead()).ok_or(Error::Undecryptable)?;
        let mut payload = vec![0; size];
        self.aead.open(&key.0, record.data(), &mut payload).map_err(|_| Error::Undecryptable)?;
        Ok(payload)
    }

    /// As [`open`](Self::open), straight from JSON text.
    pub(crate) fn open_view(&self, parent: &LockedKey, record: &RecordView<'_>) -> Result<Vec<u8>, Error> {
        let mut encrypted_key = Vec::with_capacity(WRAPPED_KEY);
        decode_base64_into("Key", record.encrypted_key, &mut encrypted_key)?;
        let mut data = Vec::new();
        decode_base64_into("Data", record.data, &mut data)?;
        let key = self.open_key(parent, &encrypted_key)?;
        let size = data.len().checked_sub(self.aead.overhead()).ok_or(Error::Undecryptable)?;
        self.aead.open_in_place(&key.0, &mut data).map_err(|_| Error::Undecryptable)?;
        data.truncate(size);
        Ok(data)
    }

    fn seal_into(&self, parent: &LockedKey, payload: &[u8], data: &mut [u8]) -> Result<SealedKey, Error> {
        // One draw for the data row key and both nonces.
        let mut random = Wiped([0; 56]);
        (self.random)(&mut random.0)?;
        let (key, nonces) = random.0.split_first_chunk::<32>().expect("56 bytes");
        let (payload_nonce, nonces) = nonces.split_first_chunk::<12>().expect("24 bytes left");
        let key_nonce = nonces.first_chunk::<12>().expect("12 bytes left");
        let wrapped = parent.using(|state| state.wrap(key, key_nonce, &[]))?;
        self.aead.seal(key, payload_nonce, payload, data).map_err(|_| Error::Unencryptable)?;
        Ok(wrapped)
    }

    fn open_key(&self, parent: &LockedKey, encrypted: &[u8]) -> Result<Wiped<32>, Error> {
        let sealed: &SealedKey = encrypted.try_into().map_err(|_| Error::Undecryptable)?;
        let mut key = Wiped([0; 32]);
        parent.using(|state| state.unwrap(sealed, &[], &mut key.0))?.map_err(|_| Error::Undecryptable)?;
        Ok(key)
    }
}

/// Secret bytes on the stack, wiped when dropped; as a slice, which is wiped at once and not byte by byte.
struct Wiped<const N: usize>([u8; N]);

impl<const N: usize> Drop for Wiped<N> {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}
