//! What a program can still do while its key management service is away, and what it says of the rest.
//!
//! * `stage.rs`: AWS KMS in several regions, each behind a proxy.
//! * `grace.rs`: hours without any region. `repair.rs`: keys that were made while a region was away.
#![cfg(all(unix, feature = "aws-kms"))]

mod grace;
#[path = "../kms_support/mod.rs"]
mod kms_support;
mod repair;
#[path = "../servers/mod.rs"]
mod servers;
mod stage;
