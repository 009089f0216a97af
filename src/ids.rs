//! Key ids, parsed and built once, and the partition gate.
//!
//! Ids are plain concatenation without escaping, so that every implementation of the format builds the same ones:
//! `_SK_{service}_{product}` and `_IK_{partition}_{service}_{product}`, each followed by `_{region}` when the
//! metastore reports a region suffix.

use std::fmt;
use std::sync::Arc;

use crate::error::IdError;

/// Bytes that the narrowest metastore column holds (`VARCHAR(255)`).
const MAX_KEY_ID: usize = 255;

/// The id of a system or intermediate key, as stored; cloning shares it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// Wraps an id as it was read; any text is an id.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// Returns the id as stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what the id's prefix says it is; `None` for foreign rows of a shared table.
    #[must_use]
    pub fn kind(&self) -> Option<KeyKind> {
        match self.0.get(..4)? {
            "_SK_" => Some(KeyKind::System),
            "_IK_" => Some(KeyKind::Intermediate),
            _ => None,
        }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a key in the metastore is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// One per service, product and region; wraps intermediate keys.
    System,
    /// One per partition; wraps data row keys.
    Intermediate,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::Intermediate => "intermediate",
        })
    }
}

/// One version of a key: its id and when it was created, in Unix seconds (0 is a time like any other).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyMeta {
    /// Key id.
    pub id: KeyId,
    /// Unix seconds.
    pub created: i64,
}

impl fmt::Display for KeyMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} created {}", self.id, self.created)
    }
}

/// Service, product and region of a session factory: what all its key ids share.
#[derive(Debug, Clone)]
pub(crate) struct Realm {
    tail: String,
    suffix: Option<String>,
    readable_suffixes: Arc<[String]>,
    system_key: KeyId,
}

impl Realm {
    /// Checks the parts and builds the system key id.
    ///
    /// `suffix` is the metastore's region suffix; records whose key id ends in one of `readable_suffixes` may be read
    /// too.
    ///
    /// # Errors
    /// [`IdError`] when a part is empty, holds control characters, or makes too long an id.
    pub(crate) fn new(
        service: &str,
        product: &str,
        suffix: Option<&str>,
        readable_suffixes: &[String],
    ) -> Result<Self, IdError> {
        check_characters("service", service)?;
        check_characters("product", product)?;
        for suffix in suffix.into_iter().chain(readable_suffixes.iter().map(String::as_str)) {
            check_characters("region suffix", suffix)?;
        }
        let tail = format!("_{service}_{product}");
        let system_key = suffixed(format!("_SK{tail}"), suffix);
        check_length("service and product", &system_key)?;
        Ok(Self {
            tail,
            suffix: suffix.map(str::to_owned),
            readable_suffixes: readable_suffixes.into(),
            system_key: KeyId::new(&system_key),
        })
    }

    /// Returns the id of the system key.
    #[must_use]
    pub(crate) fn system_key(&self) -> &KeyId {
        &self.system_key
    }

    /// Checks a partition id and builds its intermediate key id.
    ///
    /// # Errors
    /// [`IdError`] when the id is empty, holds control characters, or makes too long a key id.
    pub(crate) fn partition(&self, id: &str) -> Result<Partition, IdError> {
        check_characters("partition id", id)?;
        let bare = format!("_IK_{id}{}", self.tail);
        let bare_size = bare.len();
        let own = suffixed(bare, self.suffix.as_deref());
        check_length("partition id", &own)?;
        Ok(Partition {
            id: PartitionId { intermediate_key: KeyId::new(&own), size: id.len() },
            bare_size,
            readable_suffixes: Arc::clone(&self.readable_suffixes),
        })
    }
}

/// The id of a partition as the application gave it; cloning shares it with the id of its intermediate key.
#[derive(Debug, Clone)]
pub(crate) struct PartitionId {
    /// `_IK_{partition}_{service}_{product}`, with a region suffix or not.
    intermediate_key: KeyId,
    size: usize,
}

impl PartitionId {
    /// Returns the id.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.intermediate_key.as_str()["_IK_".len()..][..self.size]
    }
}

/// A tenant: the unit that an intermediate key belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    id: PartitionId,
    bare_size: usize,
    readable_suffixes: Arc<[String]>,
}

impl Partition {
    /// Returns the partition id as the application gave it.
    #[must_use]
    pub(crate) fn id(&self) -> &str {
        self.id.as_str()
    }

    /// Returns the partition id by itself.
    #[must_use]
    pub(crate) fn shared_id(&self) -> &PartitionId {
        &self.id
    }

    /// Returns the id of the intermediate key without region suffix.
    fn bare(&self) -> &str {
        &self.intermediate_key().as_str()[..self.bare_size]
    }

    /// Returns the ids of all intermediate keys whose records this partition may read, its own first.
    pub(crate) fn readable_keys(&self) -> Vec<KeyId> {
        let bare = KeyId::new(self.bare());
        let suffixed = self.readable_suffixes.iter().map(|suffix| KeyId::new(&format!("{bare}_{suffix}")));
        let mut ids: Vec<KeyId> = vec![self.intermediate_key().clone()];
        for id in std::iter::once(bare.clone()).chain(suffixed) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// Returns the id of the intermediate key that new records are written under.
    #[must_use]
    pub(crate) fn intermediate_key(&self) -> &KeyId {
        &self.id.intermediate_key
    }

    /// Tells whether a record under intermediate key `id` may be read by this partition.
    ///
    /// Whole ids are compared: the partition's own, the same without region suffix, or with a suffix that the
    /// configuration allows.
    #[must_use]
    pub(crate) fn may_read(&self, id: &str) -> bool {
        if id == self.intermediate_key().as_str() {
            return true;
        }
        let Some(rest) = id.strip_prefix(self.bare()) else { return false };
        match rest.strip_prefix('_') {
            None => rest.is_empty(),
            Some(suffix) => self.readable_suffixes.iter().any(|allowed| allowed == suffix),
        }
    }
}

fn suffixed(id: String, suffix: Option<&str>) -> String {
    match suffix {
        Some(suffix) => format!("{id}_{suffix}"),
        None => id,
    }
}

fn check_characters(what: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { what });
    }
    match text.char_indices().find(|(_, character)| character.is_control()) {
        Some((position, _)) => Err(IdError::ControlCharacter { what, position }),
        None => Ok(()),
    }
}

fn check_length(what: &'static str, key_id: &str) -> Result<(), IdError> {
    if key_id.len() > MAX_KEY_ID {
        return Err(IdError::TooLong { what, size: key_id.len(), limit: MAX_KEY_ID });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn partition(suffix: Option<&str>, readable: &[&str]) -> Partition {
        let readable: Vec<String> = readable.iter().map(|&s| s.to_owned()).collect();
        Realm::new("svc", "prod", suffix, &readable).and_then(|realm| realm.partition("p")).expect("valid parts")
    }

    #[test]
    fn ids_put_service_before_product_and_the_region_last() {
        let realm = Realm::new("svc", "prod", Some("us-west-2"), &[]).expect("valid parts");
        assert_eq!(realm.system_key().as_str(), "_SK_svc_prod_us-west-2");
        let partition = realm.partition("p").expect("valid id");
        assert_eq!(partition.intermediate_key().as_str(), "_IK_p_svc_prod_us-west-2");
    }

    #[test]
    fn the_gate_compares_whole_ids() {
        let cases: &[(Option<&str>, &[&str], &str, bool)] = &[
            (None, &[], "_IK_p_svc_prod", true),
            (None, &[], "_IK_p_svc_prod2", false),
            (None, &[], "_IK_p_svc_prod_us-west-2", false),
            (None, &["us-west-2"], "_IK_p_svc_prod_us-west-2", true),
            (None, &[], "_IK_p_svc_prod_x_svc_prod", false),
            (None, &[], "_IK_P_svc_prod", false),
            (Some("us-west-2"), &[], "_IK_p_svc_prod_us-west-2", true),
            (Some("us-west-2"), &[], "_IK_p_svc_prod", true),
            (Some("us-west-2"), &[], "_IK_p_svc_prod2", false),
            (Some("us-west-2"), &[], "_IK_p_svc_prod_", false),
            (Some("us-west-2"), &[], "_IK_p_svc_prod_us-east-1", false),
            (Some("us-west-2"), &["us-east-1"], "_IK_p_svc_prod_us-east-1", true),
            (Some("us-west-2"), &["us-east-1"], "_IK_p_svc_prod_us-east-1x", false),
            (Some("us-west-2"), &["us-east-1"], "_IK_q_svc_prod_us-east-1", false),
            (Some("us-west-2"), &["us-east-1"], "", false),
        ];
        for (suffix, readable, id, expected) in cases {
            assert_eq!(partition(*suffix, readable).may_read(id), *expected, "{suffix:?} {readable:?} {id}");
        }
    }

    #[test]
    fn unusable_ids_are_refused() {
        let realm = Realm::new("svc", "prod", None, &[]).expect("valid parts");
        assert_eq!(realm.partition("").unwrap_err(), IdError::Empty { what: "partition id" });
        assert!(matches!(realm.partition("a\nb").unwrap_err(), IdError::ControlCharacter { position: 1, .. }));
        assert!(matches!(realm.partition("a\u{85}").unwrap_err(), IdError::ControlCharacter { .. }));
        let longest = MAX_KEY_ID - "_IK__svc_prod".len();
        assert!(realm.partition(&"x".repeat(longest)).is_ok());
        assert!(matches!(realm.partition(&"x".repeat(longest + 1)).unwrap_err(), IdError::TooLong { size: 256, .. }));
        assert!(Realm::new("", "prod", None, &[]).is_err());
        assert!(Realm::new("svc", "prod", Some(""), &[]).is_err());
    }

    proptest! {
        #[test]
        fn no_partition_reads_what_another_wrote(a in "[a-c_]{1,6}", b in "[a-c_]{1,6}") {
            let realm = Realm::new("svc", "prod", None, &[]).expect("valid parts");
            let (a, b) = (realm.partition(&a).expect("valid id"), realm.partition(&b).expect("valid id"));
            prop_assert_eq!(a.may_read(b.intermediate_key().as_str()), a.id() == b.id());
        }

        #[test]
        fn key_versions_never_alias(a in ".{0,8}", b in ".{0,8}", x in any::<i64>(), y in any::<i64>()) {
            let first = KeyMeta { id: KeyId::new(&a), created: x };
            let second = KeyMeta { id: KeyId::new(&b), created: y };
            prop_assert_eq!(first == second, a == b && x == y);
        }
    }
}
