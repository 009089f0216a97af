//! Postgres as a metastore: what it refuses and how that reads, whom it trusts, what it sends, and the table it needs.
//!
//! * `stage.rs`: servers, stores and keys of these stories.
//! * `access.rs`: passwords and rights. `tables.rs`: tables that differ. `rows.rs`: rows that others wrote.
//! * `times.rs`: time zones. `tls.rs`: certificates. `sessions.rs`: connections. `schema.rs`: looking at the table and making it.
#![cfg(all(unix, feature = "postgres"))]

mod access;
mod rows;
mod schema;
#[path = "../servers/mod.rs"]
mod servers;
mod sessions;
mod stage;
mod tables;
mod times;
mod tls;
