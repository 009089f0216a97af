//! One key table on a server, several implementations: this library and the Python package `asherah` in both its lives, the
//! one in Rust (0.5.56) and the one in Go (0.3.9).
//!
//! Needs `KEYWARD_INTEROP_PYTHON` and `KEYWARD_INTEROP_PYTHON_GO`, paths of a Python that has the one or the other;
//! `scripts/test` makes them and runs `cargo test --test interop_servers -- --ignored`.
//!
//! * `world.rs`: who uses a table, and what must hold whoever comes first.
//! * `postgres.rs`, `mariadb.rs`, `dynamodb.rs`: the tables.
//! * `aws_kms.rs`: system keys under AWS KMS.

#![cfg(all(
    feature = "cli",
    feature = "sqlite",
    feature = "postgres",
    feature = "mysql",
    feature = "dynamodb",
    feature = "aws-kms"
))]

mod aws_kms;
mod dynamodb;
#[path = "../dynamodb_support/mod.rs"]
mod dynamodb_support;
#[path = "../kms_support/mod.rs"]
mod kms_support;
mod mariadb;
#[path = "../peers/mod.rs"]
mod peers;
mod postgres;
#[path = "../servers/mod.rs"]
mod servers;
mod world;
