use super::*;
use crate::ids::KeyId;
use proptest::prelude::*;

fn record(id: &str, created: i64, data: &[u8]) -> DataRowRecord {
    let parent = KeyMeta { id: KeyId::new(id), created: 1_699_999_980 };
    DataRowRecord::from_parts(created, vec![7; 60], parent, data.to_vec())
}

#[test]
fn the_canonical_shape_is_byte_for_byte_the_interface() {
    let json = String::from_utf8(record("_IK_p1_svc_prod", 1_700_000_012, &[0, 1, 2]).to_json()).expect("utf-8");
    let key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH";
    assert_eq!(
        json,
        format!(
            r#"{{"Key":{{"Created":1700000012,"Key":"{key}","ParentKeyMeta":{{"KeyId":"_IK_p1_svc_prod","Created":1699999980}}}},"Data":"AAEC"}}"#
        )
    );
}

#[test]
fn key_records_leave_out_what_says_nothing() {
    let mut record = EnvelopeKeyRecord { created: 5, encrypted_key: vec![0, 1, 2], parent_key: None, revoked: false };
    assert_eq!(record.to_json(), r#"{"Created":5,"Key":"AAEC"}"#);
    record.revoked = true;
    record.parent_key = Some(KeyMeta { id: KeyId::new("_SK_s_p"), created: -1 });
    let json = record.to_json();
    assert_eq!(json, r#"{"Revoked":true,"Created":5,"Key":"AAEC","ParentKeyMeta":{"KeyId":"_SK_s_p","Created":-1}}"#);
    assert_eq!(EnvelopeKeyRecord::from_json(json.as_bytes()), Ok(record));
}

#[test]
fn a_tombstone_is_a_revoked_record_with_an_empty_key() {
    let parent = KeyMeta { id: KeyId::new("_SK_s_p"), created: 60 };
    let tombstone = EnvelopeKeyRecord::tombstone(Some(parent));
    let json = tombstone.to_json();
    assert_eq!(
        json,
        r#"{"Revoked":true,"Created":2147385600,"Key":"","ParentKeyMeta":{"KeyId":"_SK_s_p","Created":60}}"#
    );
    assert_eq!(EnvelopeKeyRecord::from_json(json.as_bytes()), Ok(tombstone.clone()));
    assert!(tombstone.is_tombstone() && EnvelopeKeyRecord::tombstone(None).is_tombstone());
    assert!(!EnvelopeKeyRecord { revoked: false, ..tombstone.clone() }.is_tombstone());
    assert!(!EnvelopeKeyRecord { encrypted_key: vec![0], ..tombstone }.is_tombstone());
}

#[test]
fn odd_but_legal_shapes_are_read() {
    let plain = DataRowRecord::from_json(
        br#"{"Key":{"Created":9,"Key":"AAEC","ParentKeyMeta":{"KeyId":"a&b","Created":3}},"Data":"AwQF"}"#,
    )
    .expect("canonical");
    for odd in [
        r#" { "Data" : "AwQF", "Key" : { "ParentKeyMeta" : { "Created" : 3, "KeyId" : "a\u0026b" }, "Key": "AAEC", "Created": 9 } } "#,
        r#"{"X":[{"deep":null}],"Key":{"Revoked":null,"Created":9,"Key":"AAEC","ParentKeyMeta":{"KeyId":"a&b","Created":3,"Y":1}},"Data":"AwQF"}"#,
        r#"{"Key":{"Revoked":false,"Created":9,"Key":"AA\r\nEC","ParentKeyMeta":{"KeyId":"a&b","Created":3}},"Data":"Aw\nQF\n"}"#,
    ] {
        assert_eq!(DataRowRecord::from_json(odd.as_bytes()).as_ref(), Ok(&plain), "{odd}");
    }
    let row = EnvelopeKeyRecord::from_json(br#"{"ParentKeyMeta":null,"Revoked":null,"Key":"AAEC","Created":9}"#);
    assert_eq!(row, EnvelopeKeyRecord::from_json(br#"{"Created":9,"Key":"AAEC"}"#));
}

#[test]
fn unusual_ids_survive() {
    for id in ["&<>", "\"q\"", "back\\slash", "sl/ash", "é漢", "\u{2028}", "a b@c"] {
        let original = record(id, 0, b"");
        assert_eq!(DataRowRecord::from_json(&original.to_json()), Ok(original), "{id}");
        let escaped: String = id.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        let json = String::from_utf8(record("ID", 0, b"").to_json()).expect("utf-8").replace("ID", &escaped);
        assert_eq!(DataRowRecord::from_json(json.as_bytes()).map(|r| r.parent_key.id), Ok(KeyId::new(id)));
    }
}

#[test]
fn what_is_no_record_is_refused_with_its_place() {
    let good = r#"{"Key":{"Created":9,"Key":"AAEC","ParentKeyMeta":{"KeyId":"a","Created":3}},"Data":"AwQF"}"#;
    for length in 0..good.len() {
        assert!(DataRowRecord::from_json(&good.as_bytes()[..length]).is_err(), "{}", &good[..length]);
    }
    let deep = format!("{}{}", r#"{"X":"#, "[".repeat(100_000));
    for (bad, what) in [
        (good.replace("\"AwQF\"", "\"Aw!F\""), "base64"),
        (good.replace("AwQF", "AwQ"), "base64"),
        (good.replace(r#","ParentKeyMeta":{"KeyId":"a","Created":3}"#, ""), "ParentKeyMeta"),
        (good.replace(r#"{"KeyId":"a","Created":3}"#, "null"), "ParentKeyMeta"),
        (good.replace(r#""AwQF""#, "null"), "wrong type"),
        (good.replace(":9,", ":\"9\","), "wrong type"),
        (good.replace(":9,", ":9.5,"), "wrong type"),
        (good.replace(":9,", ":99999999999999999999,"), "wrong type"),
        (good.replace("{\"Key\":{", "{\"Data\":\"\",\"Key\":{"), "duplicate field `Data`"),
        (good.replace(r#","Data":"AwQF""#, ""), "missing field `Data`"),
        (deep, "too early"),
        ("null".to_owned(), "wrong type"),
        (format!("{good}x"), "not JSON"),
    ] {
        let error = DataRowRecord::from_json(bad.as_bytes()).expect_err(&bad).to_string();
        assert!(error.contains(what), "{bad:.90}: {error}");
    }
    assert!(DataRowRecord::from_json(b"{\"Key\":\xff}").is_err());
}

#[test]
fn errors_never_repeat_the_contents() {
    let secret = r#"{"Key":{"Created":"hunter2-as-a-date","Key":"AAEC"},"Data":"AwQF"}"#;
    assert!(
        !DataRowRecord::from_json(secret.as_bytes()).expect_err("a string is no time").to_string().contains("hunter2")
    );
}

proptest! {
    #[test]
    fn records_survive_text(id in ".{0,20}", created in any::<i64>(), data in proptest::collection::vec(any::<u8>(), 0..600)) {
        let original = record(&id, created, &data);
        let json = original.to_json();
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
        prop_assert_eq!(DataRowRecord::from_json(&json), Ok(original));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = DataRowRecord::from_json(&bytes);
        let _ = EnvelopeKeyRecord::from_json(&bytes);
    }

    #[test]
    fn both_readers_agree(position in 0_usize..200, byte in any::<u8>()) {
        let mut json = record("_IK_p_s_q", 1_700_000_012, b"some data").to_json();
        let position = position % json.len();
        json[position] = byte;
        if let Some(view) = RecordView::parse(&json) {
            prop_assert_eq!(view.to_record().ok(), tolerant::data_row_record(&json).ok());
        }
    }
}
