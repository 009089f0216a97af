//! How calls to what is outside the process are repeated, and when they are not made at all: pure, on instants that are given.
//!
//! * [`RetryPolicy`]: how often and after how long.
//! * [`Budget`]: how many repetitions all calls together may make.
//! * [`Breaker`]: when a service that keeps failing is asked again.

mod breaker;
mod budget;
mod policy;

pub(crate) use breaker::{Breaker, Change, Pass};
pub(crate) use budget::Budget;
pub(crate) use policy::half_to_one;
pub use policy::{BreakerPolicy, RetryPolicy};
