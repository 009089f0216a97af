//! AWS KMS, in one region or several.
//!
//! The fuzz targets have the formats alone, without the SDK.

#![cfg_attr(not(feature = "aws-kms"), allow(dead_code))]

mod arn;
#[cfg(feature = "aws-kms")]
mod data_key;
mod envelope;
#[cfg(feature = "aws-kms")]
mod failures;
#[cfg(feature = "aws-kms")]
mod options;
#[cfg(feature = "aws-kms")]
mod race;
#[cfg(feature = "aws-kms")]
mod region;
mod regions;
#[cfg(feature = "aws-kms")]
mod repair;
#[cfg(feature = "aws-kms")]
mod service;

pub use arn::KeyArn;
#[cfg(fuzzing)]
pub use envelope::fuzz as fuzz_envelope;
#[cfg(feature = "aws-kms")]
pub use options::{AwsKmsOptions, Hedge};
pub use regions::RegionMap;
#[cfg(feature = "aws-kms")]
pub use service::AwsKms;
