//! Vault Transit as a key management service, at OpenBao: what is stored, who may do what, and how servers fail.
//!
//! * `stage.rs`: services and keys of these stories. `wrapping.rs`: keys, rights, names, namespaces.
//! * `logins.rs`: the ways to log in. `tokens.rs`: tokens that end. `tls.rs`: certificates.
//! * `outages.rs`: servers that do not answer, or something else that does. `rotation.rs`: versions of the Transit key.
//! * `command.rs`: the command. `recorded.rs`: what another implementation wrote.
#![cfg(all(unix, feature = "vault"))]

#[cfg(all(feature = "cli", feature = "sqlite"))]
mod command;
mod logins;
mod outages;
mod recorded;
mod rotation;
#[path = "../servers/mod.rs"]
mod servers;
mod stage;
mod tls;
mod tokens;
mod wrapping;
