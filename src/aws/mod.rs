//! What services of AWS have in common: who sends requests and where to, and what their errors mean.

mod endpoints;
mod failures;
mod surroundings;

#[cfg(feature = "aws-kms")]
pub(crate) use endpoints::is_private;
pub(crate) use endpoints::{Plaintext, is_endpoint};
pub(crate) use failures::{CREDENTIALS_TIME, Common, Origin, common, judge};
pub(crate) use surroundings::surroundings;
