//! `keyward keys revoke`

use std::time::Duration;

use keyward::stores::{KeyAdmin, KeyRow, Revocation, StoreError};
use keyward::{KeyId, KeyMeta};
use serde::Serialize;

use super::options::Revoke;
use super::rows::{all_keys, find};
use crate::cli::config::Config;
use crate::cli::error::Failure;
use crate::cli::open::{block_on, open_existing};
use crate::cli::output::print;
use crate::cli::progress::Progress;
use crate::cli::table::{chain, columns, kind_name, printable};
use crate::cli::time::Time;

/// Revokes one key or many, or says what would happen, and prints what becomes of each.
///
/// # Errors
/// [`Failure`]; after what was done before it has been printed.
pub(super) fn run(config: &Config, options: &Revoke) -> Result<(), Failure> {
    let (keys, failure) = block_on(async {
        let store = open_existing(&config.store).await?.admin;
        let mut keys = chosen(&*store, options).await?;
        let failure = if options.execute { revoke(&*store, &mut keys).await } else { None };
        Ok((keys, failure))
    })?;
    let interval = config.policy.revoke_check_interval;
    print(&if options.json { to_json(&keys, options, interval) } else { to_text(&keys, options, interval) })?;
    let corrupt = keys.iter().filter(|key| matches!(key.fate, Fate::Corrupt(_))).count();
    match failure {
        Some(error) => Err(Failure::Revoke(error)),
        None if corrupt > 0 => Err(Failure::CorruptKeys(corrupt)),
        None => Ok(()),
    }
}

/// A key, and what becomes of it.
struct Chosen {
    key: KeyMeta,
    fate: Fate,
}

enum Fate {
    Pending,
    Revoked,
    AlreadyRevoked,
    /// Somebody deleted it meanwhile.
    Gone,
    Corrupt(String),
}

impl Chosen {
    fn new(row: KeyRow) -> Self {
        let fate = match &row.record {
            Ok(record) if record.revoked => Fate::AlreadyRevoked,
            Ok(_) => Fate::Pending,
            Err(error) => Fate::Corrupt(chain(error)),
        };
        Self { key: row.key, fate }
    }
}

impl Fate {
    fn text(&self, execute: bool) -> &'static str {
        match self {
            Self::Pending if execute => "not reached",
            Self::Pending => "would be revoked",
            Self::Revoked => "revoked",
            Self::AlreadyRevoked => "already revoked",
            Self::Gone => "not found",
            Self::Corrupt(_) => "corrupt",
        }
    }
}

/// Returns the keys that the options name, the oldest first.
async fn chosen(store: &dyn KeyAdmin, options: &Revoke) -> Result<Vec<Chosen>, Failure> {
    if let (Some(id), Some(Time(created))) = (&options.id, options.created) {
        let key = KeyMeta { id: KeyId::new(id), created };
        let row = find(store, &key).await?.ok_or(Failure::NoKey(key))?;
        return Ok(vec![Chosen::new(row)]);
    }
    let is_chosen = |key: &KeyMeta| {
        options.kind.is_some_and(|kind| kind.is_of(&key.id))
            && options.created_before.is_some_and(|before| Time(key.created) < before)
    };
    let mut rows = all_keys(store).await?;
    rows.retain(|row| is_chosen(&row.key));
    rows.sort_by(|a, b| (a.key.created, &a.key.id).cmp(&(b.key.created, &b.key.id)));
    Ok(rows.into_iter().map(Chosen::new).collect())
}

/// Revokes what is not yet, until the store fails.
async fn revoke(store: &dyn KeyAdmin, keys: &mut [Chosen]) -> Option<StoreError> {
    let mut progress = Progress::counting("revoking", keys.len());
    for Chosen { key, fate } in keys.iter_mut() {
        if matches!(fate, Fate::Pending | Fate::Corrupt(_)) {
            *fate = match store.revoke(key).await {
                Ok(Revocation::Revoked) => Fate::Revoked,
                Ok(Revocation::AlreadyRevoked) => Fate::AlreadyRevoked,
                Ok(Revocation::NotFound) => Fate::Gone,
                Err(error @ StoreError::Corrupt { .. }) => Fate::Corrupt(chain(&error)),
                Err(error) => return Some(error),
            };
        }
        progress.add(1);
    }
    None
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    executed: bool,
    keys: Vec<Line<'a>>,
    /// How long processes with the settings of this command may use a key that is revoked now.
    in_use_for_seconds: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    kind: Option<&'static str>,
    created: i64,
    created_at: Time,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'a str>,
}

fn to_json(keys: &[Chosen], options: &Revoke, interval: Duration) -> String {
    let lines = keys.iter().map(|Chosen { key, fate }| Line {
        id: key.id.as_str(),
        kind: kind_name(&key.id),
        created: key.created,
        created_at: Time(key.created),
        outcome: fate.text(options.execute),
        fault: if let Fate::Corrupt(fault) = fate { Some(fault) } else { None },
    });
    let report = Report { executed: options.execute, keys: lines.collect(), in_use_for_seconds: interval.as_secs() };
    // Text, numbers and lists of them always have a JSON form.
    serde_json::to_string(&report).unwrap_or_default() + "\n"
}

fn to_text(keys: &[Chosen], options: &Revoke, interval: Duration) -> String {
    if keys.is_empty() {
        return "no such keys\n".to_owned();
    }
    let cells = |Chosen { key, fate }: &Chosen| {
        let outcome = match fate {
            Fate::Corrupt(fault) => format!("corrupt: {}", printable(fault)),
            other => other.text(options.execute).to_owned(),
        };
        [printable(&key.id.to_string()), Time(key.created).to_string(), outcome]
    };
    let table = columns(["ID", "CREATED", "OUTCOME"], keys.iter().map(cells));
    let interval = humantime::format_duration(interval);
    let note = if !options.execute {
        "Nothing was changed; --execute revokes them.".to_owned()
    } else if keys.iter().any(|key| matches!(key.fate, Fate::Revoked)) {
        format!(
            "Running processes may encrypt under them until they check their keys again: for {interval} at most, if they have \
             this\ncommand's --revoke-check. Everything under them still decrypts."
        )
    } else {
        "Nothing was changed.".to_owned()
    };
    format!("{table}\n{note}\n")
}
