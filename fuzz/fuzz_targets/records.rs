//! The readers of data row records and key records: no panic, and what is read is written and read again the same.

#![no_main]

use keyward::{DataRowRecord, EnvelopeKeyRecord};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = DataRowRecord::from_json(bytes) {
        assert_eq!(DataRowRecord::from_json(&record.to_json()), Ok(record));
    }
    if let Ok(record) = EnvelopeKeyRecord::from_json(bytes) {
        assert_eq!(EnvelopeKeyRecord::from_json(record.to_json().as_bytes()), Ok(record));
    }
});
