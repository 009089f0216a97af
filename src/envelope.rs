//! Sealing and opening one record with a leased intermediate key: pure and synchronous.

use std::cell::RefCell;

use crate::crypto::{Aead, AeadError};
use crate::error::Error;
use crate::ids::KeyMeta;
use crate::memory::{LockedKey, RandomFill, SealedKey, WRAPPED_KEY};
use crate::policy::Wraps;
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

/// The intermediate key that a record is made under.
#[derive(Clone, Copy)]
pub(crate) struct Parent<'a> {
    pub(crate) meta: &'a KeyMeta,
    pub(crate) key: &'a LockedKey,
    pub(crate) wraps: &'a Wraps,
}

impl Parent<'_> {
    fn wrap(self, key: &[u8; 32], nonce: &[u8; 12]) -> Result<SealedKey, Error> {
        self.wraps.count(nonce);
        Ok(self.key.using(|lease| lease.wrap(key, nonce, &[]))?)
    }
}

impl Envelope {
    /// Encrypts `payload` under a fresh data row key, wrapped by `parent`; `created` is in Unix seconds.
    pub(crate) fn seal(&self, parent: Parent<'_>, created: i64, payload: &[u8]) -> Result<DataRowRecord, Error> {
        let mut data = vec![0; payload.len() + self.aead.overhead()];
        let encrypted_key = self.seal_into(parent, payload, &mut data)?;
        Ok(DataRowRecord::from_parts(created, encrypted_key.to_vec(), parent.meta.clone(), data))
    }

    /// As [`seal`](Self::seal), straight to JSON text.
    pub(crate) fn seal_json(&self, parent: Parent<'_>, created: i64, payload: &[u8]) -> Result<Vec<u8>, Error> {
        CIPHERTEXT.with_borrow_mut(|data| {
            // The bytes beyond the last record's size are zeroed, the others overwritten.
            data.resize(payload.len() + self.aead.overhead(), 0);
            let encrypted_key = self.seal_into(parent, payload, data)?;
            let parts = RecordParts {
                created,
                encrypted_key: &encrypted_key,
                parent_id: parent.meta.id.as_str(),
                parent_created: parent.meta.created,
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
        let size = record.data().len().checked_sub(self.aead.overhead()).ok_or(Error::Undecryptable)?;
        let mut payload = vec![0; size];
        self.with_key(parent, record.encrypted_key(), |aead, key| aead.open(key, record.data(), &mut payload))?;
        Ok(payload)
    }

    /// As [`open`](Self::open), straight from JSON text.
    pub(crate) fn open_view(&self, parent: &LockedKey, record: &RecordView<'_>) -> Result<Vec<u8>, Error> {
        let mut encrypted_key = Vec::with_capacity(WRAPPED_KEY);
        decode_base64_into("Key", record.encrypted_key, &mut encrypted_key)?;
        let mut data = Vec::new();
        decode_base64_into("Data", record.data, &mut data)?;
        let size = data.len().checked_sub(self.aead.overhead()).ok_or(Error::Undecryptable)?;
        self.with_key(parent, &encrypted_key, |aead, key| aead.open_in_place(key, &mut data))?;
        data.truncate(size);
        Ok(data)
    }

    /// Wraps the data row key of a record under another intermediate key; the payload stays as it is.
    pub(crate) fn rewrap(&self, from: &LockedKey, to: Parent<'_>, encrypted_key: &[u8]) -> Result<SealedKey, Error> {
        let sealed: &SealedKey = encrypted_key.try_into().map_err(|_| Error::Undecryptable)?;
        from.with_place(|key| {
            from.using(|lease| lease.unwrap(sealed, &[], key))?.map_err(|_| Error::Undecryptable)?;
            let mut nonce = [0; 12];
            (self.random)(&mut nonce)?;
            to.wrap(key, &nonce)
        })?
    }

    fn seal_into(&self, parent: Parent<'_>, payload: &[u8], data: &mut [u8]) -> Result<SealedKey, Error> {
        parent.key.with_place(|key| {
            (self.random)(key)?;
            let mut nonces = [0; 24];
            (self.random)(&mut nonces)?;
            let (payload_nonce, rest) = nonces.split_first_chunk::<12>().expect("24 bytes");
            let key_nonce = rest.first_chunk::<12>().expect("12 bytes are left");
            let wrapped = parent.wrap(key, key_nonce)?;
            self.aead.seal(key, payload_nonce, payload, data).map_err(|_| Error::Unencryptable)?;
            Ok(wrapped)
        })?
    }

    /// Lends the record's data row key to `work`.
    fn with_key<R>(
        &self,
        parent: &LockedKey,
        encrypted: &[u8],
        work: impl FnOnce(&dyn Aead, &[u8; 32]) -> Result<R, AeadError>,
    ) -> Result<R, Error> {
        let sealed: &SealedKey = encrypted.try_into().map_err(|_| Error::Undecryptable)?;
        parent.with_place(|key| {
            parent.using(|lease| lease.unwrap(sealed, &[], key))?.map_err(|_| Error::Undecryptable)?;
            work(&*self.aead, key).map_err(|_| Error::Undecryptable)
        })?
    }
}
