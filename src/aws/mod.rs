//! What services of AWS have in common: who sends requests, and what their errors mean.

mod clients;
mod failures;

pub(crate) use clients::{Clients, is_endpoint};
pub(crate) use failures::{CREDENTIALS_TIME, Common, Origin, common, judge};
