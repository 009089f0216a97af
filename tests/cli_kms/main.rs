//! `keyward kms check`, `audit` and `repair`.
//!
//! * `here.rs`: master keys of this machine. `aws.rs`: in three regions of AWS KMS. `vault.rs`: in OpenBao.
//! * `stage.rs`: what these stories have in common.

#![cfg(all(feature = "cli", feature = "sqlite"))]

#[cfg(all(feature = "aws-kms", feature = "dynamodb"))]
mod aws;
#[path = "../cli_support/mod.rs"]
mod cli_support;
mod here;
#[path = "../servers/mod.rs"]
mod servers;
mod stage;
#[cfg(feature = "vault")]
mod vault;
