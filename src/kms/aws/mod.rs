//! AWS KMS, in one region or several.

mod arn;
mod data_key;
mod envelope;
mod failures;
mod options;
mod race;
mod region;
mod regions;
mod repair;
mod service;

pub use arn::KeyArn;
pub use options::{AwsKmsOptions, Hedge};
pub use regions::RegionMap;
pub use service::AwsKms;
