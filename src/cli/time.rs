//! Instants, as people write them and as they are printed.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

/// The last second that RFC 3339 can write: 9999-12-31T23:59:59Z.
const LAST: u64 = 253_402_300_799;

/// A time in Unix seconds, as keys have it.
///
/// Read from Unix seconds, a day (its beginning in UTC) or [RFC 3339](https://www.rfc-editor.org/rfc/rfc3339). Printed as
/// RFC 3339, or as `@` and the seconds where that has no words for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(pub(super) i64);

/// Why a text is no [`Time`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TimeError {
    #[error("a time is 2026-01-31, 2026-01-31T12:00:00Z, 2026-01-31T12:00:00+01:00, or Unix seconds")]
    Form,
    #[error("a time needs its zone: Z, or an offset like +01:00")]
    NoZone,
    #[error("times of keys are whole seconds")]
    Fraction,
    #[error("a time before 1970 is given in Unix seconds")]
    TooEarly,
}

impl Time {
    /// The present second.
    pub(super) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }
}

impl std::str::FromStr for Time {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        if let Ok(seconds) = text.parse() {
            return Ok(Self(seconds));
        }
        if !text.is_ascii() {
            return Err(TimeError::Form);
        }
        if text.len() == DAY {
            return utc(&format!("{text}T00:00:00Z")).map(Self);
        }
        let (local, offset) = zone(text)?;
        let (day, hours) = local.split_at_checked(DAY).ok_or(TimeError::Form)?;
        let hours = hours.strip_prefix(['T', 't', ' ']).ok_or(TimeError::Form)?;
        Ok(Self(utc(&format!("{day}T{hours}Z"))? - offset))
    }
}

/// Characters of `YYYY-MM-DD`.
const DAY: usize = 10;

/// Splits a time from its zone, which is returned in seconds east of UTC.
fn zone(text: &str) -> Result<(&str, i64), TimeError> {
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return Ok((local, 0));
    }
    let at = text.len().checked_sub("+00:00".len()).filter(|at| *at > DAY).ok_or(TimeError::Form)?;
    let (local, offset) = text.split_at(at);
    let sign = match offset.as_bytes() {
        [b'+', _, _, b':', ..] => 1,
        [b'-', _, _, b':', ..] => -1,
        _ => return Err(TimeError::NoZone),
    };
    let number = |digits: &str, below: i64| match digits.parse::<u8>() {
        Ok(number) if i64::from(number) < below && digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            Ok(i64::from(number))
        }
        _ => Err(TimeError::Form),
    };
    Ok((local, sign * (number(&offset[1..3], 24)? * 3600 + number(&offset[4..], 60)? * 60)))
}

fn utc(text: &str) -> Result<i64, TimeError> {
    if text.contains('.') {
        return Err(TimeError::Fraction);
    }
    let time = humantime::parse_rfc3339(text).map_err(|error| match error {
        humantime::TimestampError::OutOfRange if text < "1970" => TimeError::TooEarly,
        _ => TimeError::Form,
    })?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| TimeError::TooEarly)?;
    i64::try_from(since.as_secs()).map_err(|_| TimeError::Form)
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u64::try_from(self.0) {
            Ok(seconds @ ..=LAST) => {
                humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).fmt(f)
            }
            _ => write!(f, "@{}", self.0),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_days_or_rfc_3339() {
        let cases = [
            ("0", 0),
            ("-5", -5),
            ("1767268805", 1_767_268_805),
            ("2026-01-01", 1_767_225_600),
            ("2026-01-01T12:00:05Z", 1_767_268_805),
            ("2026-01-01 12:00:05z", 1_767_268_805),
            ("2026-01-01t12:00:05+00:00", 1_767_268_805),
            ("2026-01-01T14:30:05+02:30", 1_767_268_805),
            ("2025-12-31T23:00:05-13:00", 1_767_268_805),
            ("1970-01-01T00:30:00+01:00", -1800),
            ("2024-02-29", 1_709_164_800),
        ];
        for (text, seconds) in cases {
            assert_eq!(text.parse(), Ok(Time(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_told_what_it_lacks() {
        let cases = [
            ("", TimeError::Form),
            ("soon", TimeError::Form),
            ("yesterday evening", TimeError::NoZone),
            ("1.5", TimeError::Form),
            ("2026-13-01", TimeError::Form),
            ("2026-02-30", TimeError::Form),
            ("2026-1-1", TimeError::Form),
            ("2026-01-01T12:00Z", TimeError::Form),
            ("2026-01-01T25:00:00Z", TimeError::Form),
            ("2026-01-01T12:00:05", TimeError::NoZone),
            ("2026-01-01T12:00:05+25:00", TimeError::Form),
            ("2026-01-01T12:00:05++1:00", TimeError::Form),
            ("2026-01-01T12:00:05.5Z", TimeError::Fraction),
            ("1969-12-31", TimeError::TooEarly),
            ("2026-01-01T12:00:05é", TimeError::Form),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Time>(), Err(error), "{text}");
        }
    }

    #[test]
    fn times_beyond_rfc_3339_are_printed_as_they_are() {
        assert_eq!(Time(1_767_268_805).to_string(), "2026-01-01T12:00:05Z");
        assert_eq!(Time(-5).to_string(), "@-5");
        assert_eq!(Time(i64::MAX).to_string(), format!("@{}", i64::MAX));
    }
}
