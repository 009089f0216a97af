//! What master keys are kept and named in: rows of AWS KMS, key files that are sealed, answers of Vault, and addresses, none of
//! which shows a password.

#![no_main]

use keyward::kms::{RegionMap, VaultOptions, fuzz};
use libfuzzer_sys::fuzz_target;

const PASSWORD: &str = "hunter2";

fuzz_target!(|bytes: &[u8]| {
    fuzz::aws_envelope(bytes);
    fuzz::sealed_key_file(bytes);
    fuzz::sealed_key_file(&[b"keyward sealed key 1\n", bytes].concat());
    fuzz::vault_answers(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(map) = text.parse::<RegionMap>() {
        let regions: std::collections::HashSet<&str> = map.regions().collect();
        assert_eq!(regions.len(), map.regions().count(), "a region has one key");
    }
    let _ = text.parse::<VaultOptions>();
    if !text.contains(PASSWORD) {
        let shown = match format!("vault:https://alice:{PASSWORD}@{text}").parse::<VaultOptions>() {
            Ok(options) => format!("{options} {options:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
});
