//! Creation times as SQL databases take them: the digits of UTC, `YYYY-MM-DD HH:MM:SS`. Pure.
//!
//! Days and dates are converted as in
//! [`days_from_civil`](https://howardhinnant.github.io/date_algorithms.html#days_from_civil) and its inverse.

use super::rows::{FIRST, LAST};

const DAY: i64 = 86_400;
/// Days of the Gregorian cycle of 400 years.
const CYCLE: i64 = 146_097;
/// Days from 0000-03-01, where the cycles begin, to 1970-01-01.
const EPOCH: i64 = 719_468;

/// Writes Unix seconds as digits; `None` outside the years 1 to 9999.
pub(super) fn digits(seconds: i64) -> Option<String> {
    if !(FIRST..=LAST).contains(&seconds) {
        return None;
    }
    let (year, month, day) = date(seconds.div_euclid(DAY));
    let second = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Some(format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"))
}

/// Reads digits; `None` when they are in another layout or no time of the years 1 to 9999.
pub(super) fn seconds(digits: &str) -> Option<i64> {
    let number = |from: usize, to: usize| digits.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    // Days that no month has, hours that no day has, signs and separators: they are not what would be written.
    Some(seconds).filter(|seconds| self::digits(*seconds).as_deref() == Some(digits))
}

/// Returns the date that is `days` after 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH;
    let (cycle, day) = (days.div_euclid(CYCLE), days.rem_euclid(CYCLE));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Years begin in March here, so that the leap day is the last.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year + next, month, day)
}

/// Returns how many days after 1970-01-01 a date is.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (cycle, year) = (year.div_euclid(400), year.rem_euclid(400));
    let month = if month > 2 { month - 3 } else { month + 9 };
    let day = (153 * month + 2) / 5 + day - 1;
    cycle * CYCLE + year * 365 + year / 4 - year / 100 + day - EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_have_their_digits() {
        let cases = [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (1_700_000_000, "2023-11-14 22:13:20"),
            (2_147_483_647, "2038-01-19 03:14:07"),
            (FIRST, "0001-01-01 00:00:00"),
            (LAST, "9999-12-31 23:59:59"),
        ];
        for (time, text) in cases {
            assert_eq!(digits(time).as_deref(), Some(text));
            assert_eq!(seconds(text), Some(time));
        }
    }

    #[test]
    fn what_is_out_of_range_has_none() {
        for time in [FIRST - 1, LAST + 1, i64::MIN, i64::MAX] {
            assert_eq!(digits(time), None);
        }
        let texts = [
            "",
            "0000-00-00 00:00:00",
            "0000-12-31 23:59:59",
            "2023-02-29 00:00:00",
            "2023-13-01 00:00:00",
            "2023-01-01 24:00:00",
            "2023-01-01 00:60:00",
            "2023-01-01T00:00:00",
            "2023-01-01 00:00:00.5",
            "+023-01-01 00:00:00",
            "2023-1-01 00:00:000",
            "2023-01-01",
            "é023-01-01 00:00:0",
        ];
        for text in texts {
            assert_eq!(seconds(text), None, "{text:?}");
        }
    }

    #[test]
    fn digits_and_seconds_are_inverse_and_sort_alike() {
        // A step that is a multiple of neither days nor weeks, so that all times of day and months come up.
        let mut before = String::new();
        for time in (FIRST..=LAST).step_by(40_000_003) {
            let text = digits(time).unwrap();
            assert_eq!(seconds(&text), Some(time), "{text}");
            assert!(text > before, "{text} {before}");
            before = text;
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_it(text in "[0-9 :-]{0,20}") {
            let _ = seconds(&text);
        }
    }
}
