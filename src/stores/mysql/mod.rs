//! Metastores in MySQL and MariaDB.
//!
//! * `options.rs`: what can be set, and the address that says it.
//! * `store.rs`: the public face. `table.rs`: loads and inserts. `admin.rs`: listing, revoking, shredding.
//! * `schema.rs`: making the table and looking at it; `facts.rs`: what is seen; `report.rs`: what it means.
//! * `pool.rs`: connections. `tls.rs`: whom they trust. `failures.rs`: what errors mean.

mod admin;
mod facts;
mod failures;
mod options;
mod pool;
mod report;
mod schema;
mod store;
mod table;
mod tls;

pub use options::MysqlOptions;
pub use store::MysqlMetastore;
