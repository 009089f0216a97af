//! Addresses of stores: any text is taken or refused without a panic, and nothing shows the password.

#![no_main]

use keyward::stores::PostgresOptions;
use libfuzzer_sys::fuzz_target;

const PASSWORD: &str = "hunter2";

fuzz_target!(|text: &str| {
    let _ = text.parse::<PostgresOptions>();
    let _ = format!("postgres://{text}").parse::<PostgresOptions>();
    if !text.contains(PASSWORD) {
        let shown = match format!("postgres://alice:{PASSWORD}@{text}").parse::<PostgresOptions>() {
            Ok(options) => format!("{options} {options:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
});
