//! Lists of keys, for people and for programs.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyward::stores::KeyRow;
use keyward::{KeyId, KeyKind, KeyMeta};
use serde::Serialize;

use super::time::Time;

const DAY: u64 = 24 * 60 * 60;

/// Keys with what is to be said about them at an instant.
pub(super) struct Listing<'a>(Vec<Entry<'a>>);

/// One version of a key, as `--json` prints it.
#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    kind: Option<&'static str>,
    /// Unix seconds, as in records.
    created: i64,
    created_at: Time,
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
    created_at: Time,
}

/// What a key may be used for: valid, expired and revoked ones decrypt, only valid ones encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Valid,
    Expired,
    Revoked,
    /// Its system key is missing, expired or revoked.
    ParentInvalid,
    /// A tombstone: there is no key any more.
    Shredded,
    Corrupt,
}

impl State {
    /// Judges a row at `now`, when keys encrypt for `expire_after`; `parent` is the state of its system key, if that is there.
    pub(super) fn of(row: &KeyRow, parent: Option<Self>, expire_after: Duration, now: SystemTime) -> Self {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_expired = u64::try_from(row.key.created)
            .map_or(true, |created| now > Duration::from_secs(created).saturating_add(expire_after));
        match &row.record {
            Err(_) => Self::Corrupt,
            Ok(record) if record.is_tombstone() => Self::Shredded,
            Ok(record) if record.revoked => Self::Revoked,
            Ok(_) if is_expired => Self::Expired,
            Ok(_) if row.key.id.kind() == Some(KeyKind::Intermediate) && parent != Some(Self::Valid) => {
                Self::ParentInvalid
            }
            Ok(_) => Self::Valid,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::ParentInvalid => "parent-invalid",
            Self::Shredded => "shredded",
            Self::Corrupt => "corrupt",
        }
    }
}

impl<'a> Listing<'a> {
    /// Judges the rows that are `wanted` at `now`, when keys encrypt for `expire_after`; `rows` has their system keys too.
    pub(super) fn new(
        rows: &'a [KeyRow],
        wanted: impl Fn(&KeyRow) -> bool,
        expire_after: Duration,
        now: SystemTime,
    ) -> Self {
        let systems = rows.iter().filter(|row| row.key.id.kind() == Some(KeyKind::System));
        let systems: HashMap<&KeyMeta, State> =
            systems.map(|row| (&row.key, State::of(row, None, expire_after, now))).collect();
        let entry = |row: &'a KeyRow| {
            let parent = row.record.as_ref().ok().and_then(|record| record.parent_key.as_ref());
            let parent = parent.and_then(|parent| systems.get(parent).copied());
            entry(row, State::of(row, parent, expire_after, now), now)
        };
        Self(rows.iter().filter(|row| wanted(row)).map(entry).collect())
    }
}

fn entry(row: &KeyRow, state: State, now: SystemTime) -> Entry<'_> {
    let KeyMeta { id, created } = &row.key;
    let (parent, fault) = match &row.record {
        Err(error) => (None, Some(chain(error))),
        Ok(record) => (record.parent_key.as_ref(), None),
    };
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Entry {
        id: id.as_str(),
        kind: kind_name(id),
        created: *created,
        created_at: Time(*created),
        age_seconds: i64::try_from(seconds).unwrap_or(i64::MAX).saturating_sub(*created),
        state,
        parent: parent.map(|parent| Parent {
            id: parent.id.as_str(),
            created: parent.created,
            created_at: Time(parent.created),
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
    columns(["ID", "KIND", "CREATED", "AGE", "STATE", "PARENT"], listing.0.iter().map(cells))
}

/// Writes rows in columns under a heading.
pub(super) fn columns<const N: usize>(heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(heading.map(str::to_owned)).chain(rows).collect();
    let widths: [usize; N] =
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
    let parent = match (&entry.parent, &entry.fault) {
        (Some(parent), _) => format!("{} {}", printable(parent.id), parent.created_at),
        (None, Some(fault)) => printable(fault),
        (None, None) => "-".to_owned(),
    };
    let kind = entry.kind.unwrap_or("-").to_owned();
    let age = if entry.state == State::Shredded { "-".to_owned() } else { age(entry.age_seconds) };
    [printable(entry.id), kind, entry.created_at.to_string(), age, entry.state.name().to_owned(), parent]
}

/// Returns what kind of key an id is of, as options name it.
pub(super) fn kind_name(id: &KeyId) -> Option<&'static str> {
    id.kind().map(|kind| match kind {
        KeyKind::System => "system",
        KeyKind::Intermediate => "intermediate",
        _ => "other",
    })
}

/// Keeps ids that somebody else wrote from steering the terminal.
pub(super) fn printable(text: &str) -> String {
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

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward::stores::StoreError;
    use keyward::{EnvelopeKeyRecord, KeyId};

    fn row(id: &str, created: i64, revoked: bool) -> KeyRow {
        under(1000, id, created, revoked)
    }

    fn under(parent: i64, id: &str, created: i64, revoked: bool) -> KeyRow {
        let parent_key = Some(KeyMeta { id: KeyId::new("_SK_s_p"), created: parent });
        let record = EnvelopeKeyRecord { created, encrypted_key: vec![1], parent_key, revoked };
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
            KeyRow {
                key: KeyMeta { id: KeyId::new("_IK_e"), created: 2_147_385_600 },
                record: Ok(EnvelopeKeyRecord::tombstone(None)),
            },
            under(999, "_IK_f", 1000, false),
            under(1, "_IK_g", 1000, false),
            row("_SK_s_p", 999, false),
            row("_SK_s_p", 1000, false),
        ];
        let now = UNIX_EPOCH + Duration::from_secs(1100);
        let listing = Listing::new(&rows, |row| row.key.id.as_str() != "_SK_s_p", Duration::from_secs(100), now);
        let states: Vec<State> = listing.0.iter().map(|entry| entry.state).collect();
        use State::{Corrupt, Expired, ParentInvalid, Revoked, Shredded, Valid};
        assert_eq!(states, [Valid, Expired, Revoked, Corrupt, Shredded, ParentInvalid, ParentInvalid]);
        let table = to_table(&listing);
        assert!(!table.contains('\u{1b}'), "{table}");
        assert!(table.contains("@-5") && table.contains("no JSON"), "{table}");
        let json: serde_json::Value = serde_json::from_str(&to_json(&listing)).expect("valid JSON");
        assert_eq!(json[0]["created_at"], "1970-01-01T00:16:40Z");
        assert_eq!(json[0]["parent"]["created"], 1000);
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
