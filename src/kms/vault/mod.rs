//! A master key in the Transit engine of HashiCorp Vault or OpenBao.
//!
//! * `options.rs`: what can be set. `address.rs`: the address that says it.
//! * `tls.rs`: whom connections trust. `http.rs`: requests and answers.
//! * `lease.rs`: when a token is due. `login.rs`: how tokens are got and kept.
//! * `wire.rs`: bodies of requests and answers. `failures.rs`: what answers mean.
//! * `service.rs`: wrapping and unwrapping. `admin.rs`: checking and rewrapping.

mod address;
mod admin;
mod failures;
mod http;
mod lease;
mod login;
mod options;
mod service;
mod tls;
mod wire;

pub use options::{VaultAuth, VaultOptions, VaultSecret};
pub use service::VaultKms;
#[cfg(fuzzing)]
pub use wire::fuzz_answers;
