//! Metastores in Amazon DynamoDB, and in what speaks its protocol.
//!
//! * `options.rs`: what can be set, and the address that says it.
//! * `item.rs`: records as items. `failures.rs`: what errors mean. `clients.rs`: who sends the requests.
//! * `store.rs`: connecting, loads and inserts. `admin.rs`: listing, revoking, shredding.
//! * `table.rs`: how the table is. `schema.rs`: how it is made.

mod admin;
mod failures;
mod item;
mod options;
mod schema;
mod store;
mod table;

pub use options::{DynamoDbOptions, RegionSuffix};
pub use store::DynamoDbMetastore;
