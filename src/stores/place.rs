//! Where a store is, for its errors.

use crate::error::{BoxError, StoreError};

/// Which store an error is about.
#[derive(Debug, thiserror::Error)]
#[error("{place}")]
pub(super) struct At {
    place: String,
    #[source]
    source: BoxError,
}

impl At {
    pub(super) fn new(place: impl Into<String>, source: impl Into<BoxError>) -> Box<Self> {
        Box::new(Self { place: place.into(), source: source.into() })
    }
}

/// Makes the error of a store that may answer later.
pub(super) fn transient(
    operation: &'static str,
    place: &str,
    advice: impl Into<Option<&'static str>>,
    source: impl Into<BoxError>,
) -> StoreError {
    StoreError::Transient { operation, advice: advice.into(), source: At::new(place, source) }
}

/// Makes the error of a store that will refuse again until someone changes something.
pub(super) fn permanent(
    operation: &'static str,
    place: &str,
    advice: impl Into<Option<&'static str>>,
    source: impl Into<BoxError>,
) -> StoreError {
    StoreError::Permanent { operation, advice: advice.into(), source: At::new(place, source) }
}
