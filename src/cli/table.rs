//! Lists of keys, for people and for programs.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyward::stores::KeyRow;
use keyward::{KeyKind, KeyMeta};
use serde::Serialize;

const DAY: u64 = 24 * 60 * 60;

/// The last second that RFC 3339 can write: 9999-12-31T23:59:59Z.
const LAST: u64 = 253_402_300_799;

/// Keys with what is to be said about them at an instant.
pub(super) struct Listing<'a>(Vec<Entry<'a>>);

/// One version of a key, as `--json` prints it.
#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    kind: Option<&'static str>,
    /// Unix seconds, as in records.
    created: i64,
    created_at: Instant,
    age_seconds: i64,
    state: State,
    parent: Option<Parent<'a>>,
    /// What is wrong with a corrupt row.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

#[derive(Serialize)]
struct Parent<'a> {
    id: &'a str,
    created: i64,
    created_at: Instant,
}

/// What a key may be used for: all but corrupt ones decrypt, only valid ones encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Valid,
    Expired,
    Revoked,
    Corrupt,
}

impl<'a> Listing<'a> {
    /// Judges rows at `now`, when keys encrypt for `expire_after`.
    pub(super) fn new(rows: &'a [KeyRow], expire_after: Duration, now: SystemTime) -> Self {
        Self(rows.iter().map(|row| entry(row, expire_after, now)).collect())
    }
}

fn entry(row: &KeyRow, expire_after: Duration, now: SystemTime) -> Entry<'_> {
    let KeyMeta { id, created } = &row.key;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let is_expired =
        u64::try_from(*created).map_or(true, |created| now > Duration::from_secs(created).saturating_add(expire_after));
    let (state, parent, fault) = match &row.record {
        Err(error) => (State::Corrupt, None, Some(chain(error))),
        Ok(record) if record.revoked => (State::Revoked, record.parent_key.as_ref(), None),
        Ok(record) if is_expired => (State::Expired, record.parent_key.as_ref(), None),
        Ok(record) => (State::Valid, record.parent_key.as_ref(), None),
    };
    Entry {
        id: id.as_str(),
        kind: id.kind().map(|kind| match kind {
            KeyKind::System => "system",
            KeyKind::Intermediate => "intermediate",
            _ => "other",
        }),
        created: *created,
        created_at: Instant(*created),
        age_seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_sub(*created),
        state,
        parent: parent.map(|parent| Parent {
            id: parent.id.as_str(),
            created: parent.created,
            created_at: Instant(parent.created),
        }),
        fault,
    }
}

/// Writes the keys as one JSON array, a line for each key.
pub(super) fn to_json(listing: &Listing<'_>) -> String {
    // Text, numbers and lists of them always have a JSON form.
    let line = |entry| serde_json::to_string(entry).unwrap_or_default();
    let lines: Vec<String> = listing.0.iter().map(line).collect();
    if lines.is_empty() { "[]\n".to_owned() } else { format!("[\n{}\n]\n", lines.join(",\n")) }
}

/// Writes the keys as a table with a heading.
pub(super) fn to_table(listing: &Listing<'_>) -> String {
    if listing.0.is_empty() {
        return "no keys\n".to_owned();
    }
    let heading = ["ID", "KIND", "CREATED", "AGE", "STATE", "PARENT"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(heading).chain(listing.0.iter().map(cells)).collect();
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut table = String::new();
    for row in &rows {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        table.push_str(line.join("  ").trim_end());
        table.push('\n');
    }
    table
}

fn cells(entry: &Entry<'_>) -> [String; 6] {
    let state = format!("{:?}", entry.state).to_lowercase();
    let parent = match (&entry.parent, &entry.fault) {
        (Some(parent), _) => format!("{} {}", printable(parent.id), parent.created_at),
        (None, Some(fault)) => printable(fault),
        (None, None) => "-".to_owned(),
    };
    let kind = entry.kind.unwrap_or("-").to_owned();
    [printable(entry.id), kind, entry.created_at.to_string(), age(entry.age_seconds), state, parent]
}

/// Keeps ids that somebody else wrote from steering the terminal.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// Says how old, in the largest unit that fits.
fn age(seconds: i64) -> String {
    let Ok(seconds) = u64::try_from(seconds) else { return "future".to_owned() };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..DAY => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / DAY),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Unix seconds, printed as RFC 3339 says, or as they are where it has no words for them.
#[derive(Clone, Copy)]
struct Instant(i64);

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u64::try_from(self.0) {
            Ok(seconds @ ..=LAST) => {
                humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).fmt(f)
            }
            _ => write!(f, "@{}", self.0),
        }
    }
}

impl Serialize for Instant {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward::stores::StoreError;
    use keyward::{EnvelopeKeyRecord, KeyId};

    fn row(id: &str, created: i64, revoked: bool) -> KeyRow {
        let parent_key = Some(KeyMeta { id: KeyId::new("_SK_s_p"), created: 60 });
        let record = EnvelopeKeyRecord { created, encrypted_key: Vec::new(), parent_key, revoked };
        KeyRow { key: KeyMeta { id: KeyId::new(id), created }, record: Ok(record) }
    }

    #[test]
    fn a_key_is_valid_until_it_expires_or_is_revoked() {
        let corrupt = StoreError::Corrupt { id: "_IK_d".to_owned(), created: Some(0), source: "no JSON".into() };
        let rows = [
            row("_IK_a", 1000, false),
            row("_IK_b", 999, false),
            row("_IK_c\u{1b}[2J", 1000, true),
            KeyRow { key: KeyMeta { id: KeyId::new("_IK_d"), created: -5 }, record: Err(corrupt) },
        ];
        let listing = Listing::new(&rows, Duration::from_secs(100), UNIX_EPOCH + Duration::from_secs(1100));
        let states: Vec<State> = listing.0.iter().map(|entry| entry.state).collect();
        assert_eq!(states, [State::Valid, State::Expired, State::Revoked, State::Corrupt]);
        let table = to_table(&listing);
        assert!(!table.contains('\u{1b}'), "{table}");
        assert!(table.contains("@-5") && table.contains("no JSON"), "{table}");
        let json: serde_json::Value = serde_json::from_str(&to_json(&listing)).expect("valid JSON");
        assert_eq!(json[0]["created_at"], "1970-01-01T00:16:40Z");
        assert_eq!(json[0]["parent"]["created"], 60);
        assert_eq!(json[3]["state"], "corrupt");
    }

    #[test]
    fn ages_have_one_unit() {
        let cases = [(-1, "future"), (0, "0s"), (59, "59s"), (60, "1m"), (3600, "1h"), (91 * 86_400, "91d")];
        for (seconds, expected) in cases {
            assert_eq!(age(seconds), expected);
        }
    }
}
