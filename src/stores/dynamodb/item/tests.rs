use super::*;
use aws_sdk_dynamodb::primitives::Blob;
use proptest::prelude::*;

fn key(created: i64) -> KeyMeta {
    KeyMeta { id: KeyId::new("_IK_p_s_q"), created }
}

/// An intermediate key as other implementations write it, with these changes of its `KeyRecord`.
fn item_with(changes: impl IntoIterator<Item = (&'static str, Option<AttributeValue>)>) -> Item {
    let parent = Item::from([(PARENT_ID.to_owned(), text("_SK_s_q")), (CREATED.to_owned(), number(3))]);
    let mut fields = Item::from([
        (CREATED.to_owned(), number(5)),
        (KEY.to_owned(), text("AAEC")),
        (PARENT.to_owned(), AttributeValue::M(parent)),
    ]);
    for (name, value) in changes {
        match value {
            Some(value) => fields.insert(name.to_owned(), value),
            None => fields.remove(name),
        };
    }
    let mut item = address(&key(5));
    item.insert(KEY_RECORD.to_owned(), AttributeValue::M(fields));
    item
}

fn expected() -> EnvelopeKeyRecord {
    let parent_key = Some(KeyMeta { id: KeyId::new("_SK_s_q"), created: 3 });
    EnvelopeKeyRecord { created: 5, encrypted_key: vec![0, 1, 2], parent_key, revoked: false }
}

#[test]
fn what_says_nothing_is_left_out() {
    assert_eq!(item(&key(5), &expected()), item_with([]));
    let system = EnvelopeKeyRecord { parent_key: None, revoked: true, ..expected() };
    assert_eq!(item(&key(5), &system), item_with([(PARENT, None), (REVOKED, Some(AttributeValue::Bool(true)))]));
}

#[test]
fn what_others_write_is_read() {
    let null = || Some(AttributeValue::Null(true));
    let same = [
        item_with([(REVOKED, Some(AttributeValue::Bool(false)))]),
        item_with([(REVOKED, null())]),
        item_with([(REVOKED, Some(number(0)))]),
        item_with([(KEY, Some(text("AA\r\nEC\n")))]),
        item_with([("New", Some(AttributeValue::L(vec![text("x"), number(1)])))]),
    ];
    for item in same {
        assert_eq!(record(&item), Ok(expected()), "{item:?}");
    }
    for revoked in [AttributeValue::Bool(true), number(1)] {
        let item = item_with([(REVOKED, Some(revoked))]);
        assert_eq!(record(&item), Ok(EnvelopeKeyRecord { revoked: true, ..expected() }));
    }
    for parent in [None, null()] {
        assert_eq!(record(&item_with([(PARENT, parent)])), Ok(EnvelopeKeyRecord { parent_key: None, ..expected() }));
    }
    let mut more = item_with([]);
    more.insert("Note".to_owned(), text("of another program"));
    assert_eq!(record(&more), Ok(expected()));
}

#[test]
fn what_is_no_record_is_said() {
    let map = |fields: &[(&str, AttributeValue)]| {
        Some(AttributeValue::M(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()))
    };
    let cases = [
        (item_with([(CREATED, None)]), "the item has no KeyRecord.Created"),
        (item_with([(CREATED, Some(text("5")))]), "its KeyRecord.Created is a string, not a number"),
        (item_with([(CREATED, Some(AttributeValue::N("5.5".to_owned())))]), "its KeyRecord.Created is no whole number"),
        (item_with([(KEY, None)]), "the item has no KeyRecord.Key"),
        (
            item_with([(KEY, Some(AttributeValue::B(Blob::new([0, 1, 2]))))]),
            "its KeyRecord.Key is binary, not a string",
        ),
        (item_with([(KEY, Some(text("hunter2!")))]), "its KeyRecord.Key is not base64"),
        (item_with([(REVOKED, Some(number(2)))]), "its KeyRecord.Revoked is a number other than 0 and 1"),
        (item_with([(REVOKED, Some(text("true")))]), "its KeyRecord.Revoked is a string, not a boolean"),
        (item_with([(PARENT, Some(text("_SK_s_q")))]), "its KeyRecord.ParentKeyMeta is a string, not a map"),
        (item_with([(PARENT, map(&[]))]), "the item has no KeyRecord.ParentKeyMeta.KeyId"),
        (item_with([(PARENT, map(&[(PARENT_ID, text("x"))]))]), "the item has no KeyRecord.ParentKeyMeta.Created"),
        (address(&key(5)), "the item has no KeyRecord"),
    ];
    for (item, expected) in cases {
        let fault = record(&item).expect_err(expected).to_string();
        assert!(fault.starts_with(expected), "{fault}");
        assert!(matches!(read(&key(5), &item), Err(StoreError::Corrupt { created: Some(5), .. })));
    }
    assert!(matches!(read(&key(6), &item_with([])), Err(StoreError::Corrupt { created: Some(6), .. })));
}

#[test]
fn an_item_without_a_whole_second_has_no_key() {
    for created in [AttributeValue::N("5.5".to_owned()), AttributeValue::N("1e30".to_owned()), text("5")] {
        let mut item = item_with([]);
        item.insert(CREATED.to_owned(), created);
        assert!(row(&item).is_none());
    }
    assert_eq!(key_of(&item_with([])), Some(key(5)));
}

#[test]
fn a_record_that_only_its_revocation_makes_unreadable_can_be_revoked() {
    let odd = item_with([(REVOKED, Some(text("no")))]);
    assert!(read(&key(5), &odd).is_err());
    let revoked = read_as_revoked(&key(5), odd).expect("Revoked is replaced");
    assert_eq!(revoked, EnvelopeKeyRecord { revoked: true, ..expected() });
    assert!(read_as_revoked(&key(5), item_with([(KEY, None)])).is_err());
}

proptest! {
    #[test]
    fn records_survive_items(
        id in ".{1,20}",
        created in any::<i64>(),
        encrypted_key in proptest::collection::vec(any::<u8>(), 0..200),
        parent in proptest::option::of((".{0,20}", any::<i64>())),
        revoked in any::<bool>(),
    ) {
        let parent_key = parent.map(|(id, created)| KeyMeta { id: KeyId::new(&id), created });
        let key = KeyMeta { id: KeyId::new(&id), created };
        let record = EnvelopeKeyRecord { created, encrypted_key, parent_key, revoked };
        let item = item(&key, &record);
        prop_assert_eq!(key_of(&item), Some(key.clone()));
        prop_assert_eq!(read(&key, &item).ok(), Some(record));
    }
}
