//! What is left of a shredded key: who can show that it was destroyed.

use keyward::{EnvelopeKeyRecord, KeyId, KeyMeta};
use serde::Serialize;

use crate::cli::config::Config;
use crate::cli::time::Time;

/// What shredding does not reach.
pub(super) const BACKUPS: &str = "\
Copies of the store that were made earlier still hold these keys: with the master key they open the records, and
restoring one brings the keys back. Shred again after a restore, which is harmless, and let old backups expire.";

/// What a shredding did.
pub(super) struct Receipt<'a> {
    pub(super) config: &'a Config,
    pub(super) partition: &'a str,
    pub(super) id: &'a KeyId,
    pub(super) tombstone: &'a EnvelopeKeyRecord,
    pub(super) destroyed: &'a [KeyMeta],
}

#[derive(Serialize)]
struct Json<'a> {
    partition: &'a str,
    key_id: &'a str,
    service: &'a str,
    product: &'a str,
    store: String,
    destroyed: Vec<Destroyed<'a>>,
    tombstone: Tombstone<'a>,
    shredded: i64,
    shredded_at: Time,
    keyward: &'static str,
    note: String,
}

/// Of the key with `key_id`, or of the one without the suffix of the store.
#[derive(Serialize)]
struct Destroyed<'a> {
    id: &'a str,
    #[serde(flatten)]
    version: Version,
}

#[derive(Serialize)]
struct Version {
    created: i64,
    created_at: Time,
}

#[derive(Serialize)]
struct Tombstone<'a> {
    #[serde(flatten)]
    version: Version,
    parent: Option<Parent<'a>>,
}

#[derive(Serialize)]
struct Parent<'a> {
    id: &'a str,
    #[serde(flatten)]
    version: Version,
}

impl Receipt<'_> {
    /// Writes the receipt of a shredding at `when`, as one indented JSON object.
    pub(super) fn to_json(&self, when: Time) -> String {
        let parent = self.tombstone.parent_key.as_ref();
        let json = Json {
            partition: self.partition,
            key_id: self.id.as_str(),
            service: &self.config.service,
            product: &self.config.product,
            store: self.config.store.to_string(),
            destroyed: self
                .destroyed
                .iter()
                .map(|key| Destroyed { id: key.id.as_str(), version: version(key.created) })
                .collect(),
            tombstone: Tombstone {
                version: version(self.tombstone.created),
                parent: parent.map(|key| Parent { id: key.id.as_str(), version: version(key.created) }),
            },
            shredded: when.0,
            shredded_at: when,
            keyward: env!("KEYWARD_VERSION"),
            note: BACKUPS.replace('\n', " "),
        };
        // Text, numbers and lists of them always have a JSON form.
        serde_json::to_string_pretty(&json).unwrap_or_default() + "\n"
    }
}

fn version(created: i64) -> Version {
    Version { created, created_at: Time(created) }
}
