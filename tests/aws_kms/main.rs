//! AWS KMS in several regions: what is wrapped where, who opens it, and what each failure leads to.
//!
//! moto stands for the service; a proxy before each region does what moto does not.
//!
//! * `matrix.rs`: every set of regions that are down, and every way to be so.
//! * `quorum.rs`: how many regions are enough, how the others are added, and master keys that were replaced.
//! * `hedge.rs`: regions that are slow. `breaker.rs`: regions that keep failing.
//! * `tampering.rs`: rows that were changed. `refusals.rs`: what the service and others refuse, and what helps.
//! * `signature.rs`: what is sent is what was signed. `runtimes.rs`: whose runtime it is.
#![cfg(all(unix, feature = "aws-kms"))]

mod breaker;
mod hedge;
#[path = "../kms_support/mod.rs"]
mod kms_support;
mod matrix;
mod quorum;
mod refusals;
mod runtimes;
#[path = "../servers/mod.rs"]
mod servers;
mod signature;
mod tampering;
