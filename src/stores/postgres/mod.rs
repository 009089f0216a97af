//! Metastores in PostgreSQL, and in what speaks its protocol.
//!
//! * `options.rs`: what can be set, and the address that says it.
//! * `store.rs`: loads and inserts. `admin.rs`: listing, revoking, shredding. `schema.rs`: the table.
//! * `pool.rs`: connections, and what is sent over them. `tls.rs`: whom they trust. `failures.rs`: what errors mean.

mod admin;
mod failures;
mod options;
mod pool;
mod schema;
mod store;
mod tls;
mod values;

pub use options::PostgresOptions;
pub use store::PostgresMetastore;
