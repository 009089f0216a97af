//! What is known before the first row is copied: which keys there are, without their records.

use std::collections::{HashMap, HashSet};

use keyward::stores::{KeyAdmin, KeyRow};
use keyward::{EnvelopeKeyRecord, KeyId, KeyKind, KeyMeta, TOMBSTONE_CREATED};

use crate::cli::error::Failure;

/// How many rows are asked for at a time.
const PAGE: usize = 500;

/// What is in the store that is copied from.
#[derive(Default)]
pub(super) struct Source {
    /// How many keys there are.
    pub(super) keys: usize,
    /// How many rows are no keys.
    pub(super) strangers: usize,
    /// System keys are few.
    pub(super) system_keys: Vec<KeyRow>,
    pub(super) tombstones: HashMap<KeyId, EnvelopeKeyRecord>,
}

/// What is in the store that is copied to.
#[derive(Default)]
pub(super) struct Target {
    pub(super) keys: HashSet<KeyMeta>,
    pub(super) shredded: HashSet<KeyId>,
}

/// Goes through the rows of a store, a page at a time.
#[derive(Default)]
pub(super) struct Pages {
    after: Option<KeyMeta>,
}

impl Pages {
    /// Returns the next page, an empty one at the end.
    ///
    /// # Errors
    /// [`Failure::List`].
    pub(super) async fn next(&mut self, store: &dyn KeyAdmin) -> Result<Vec<KeyRow>, Failure> {
        let page = store.list(self.after.as_ref(), PAGE).await.map_err(Failure::List)?;
        if let Some(last) = page.last() {
            self.after = Some(last.key.clone());
        }
        Ok(page)
    }
}

/// Looks through the store that is copied from.
///
/// # Errors
/// [`Failure::List`].
pub(super) async fn source(store: &dyn KeyAdmin) -> Result<Source, Failure> {
    let (mut found, mut pages) = (Source::default(), Pages::default());
    loop {
        let page = pages.next(store).await?;
        if page.is_empty() {
            return Ok(found);
        }
        for row in page {
            if let Some(tombstone) = tombstone(&row) {
                found.tombstones.insert(row.key.id.clone(), tombstone.clone());
                continue;
            }
            match row.key.id.kind() {
                None => found.strangers += 1,
                Some(kind) => {
                    found.keys += 1;
                    if kind == KeyKind::System {
                        found.system_keys.push(row);
                    }
                }
            }
        }
    }
}

/// Looks through the store that is copied to.
///
/// # Errors
/// [`Failure::List`].
pub(super) async fn target(store: &dyn KeyAdmin) -> Result<Target, Failure> {
    let (mut found, mut pages) = (Target::default(), Pages::default());
    loop {
        let page = pages.next(store).await?;
        if page.is_empty() {
            return Ok(found);
        }
        for row in page.into_iter().filter(|row| row.key.id.kind().is_some()) {
            if tombstone(&row).is_some() {
                found.shredded.insert(row.key.id);
            } else {
                found.keys.insert(row.key);
            }
        }
    }
}

/// Returns the tombstone that a row of a key is.
pub(super) fn tombstone(row: &KeyRow) -> Option<&EnvelopeKeyRecord> {
    let is_key = row.key.id.kind().is_some() && row.key.created == TOMBSTONE_CREATED;
    row.record.as_ref().ok().filter(|record| is_key && record.is_tombstone())
}
