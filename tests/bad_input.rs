//! What comes from outside may be anything: it is refused with a typed error, and the factory goes on.

mod support;

use std::error::Error as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward::{DataRowRecord, Error, RecordError, Session};
use proptest::prelude::*;
use support::{TestResult, World, flip, key};

/// A session, and a record of it as text.
async fn stage() -> TestResult<(World, Session, String)> {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let json = String::from_utf8(session.encrypt_json(b"tea for two").await?)?;
    Ok((world, session, json))
}

async fn still_works(session: &Session, json: &str) -> TestResult {
    assert_eq!(session.decrypt_json(json.as_bytes()).await?, b"tea for two");
    let record = session.encrypt(b"cake").await?;
    assert_eq!(session.decrypt(&record).await?, b"cake");
    Ok(())
}

#[tokio::test]
async fn a_record_cut_short_anywhere_is_no_record() -> TestResult {
    let (_world, session, json) = stage().await?;
    for end in 0..json.len() {
        let outcome = session.decrypt_json(&json.as_bytes()[..end]).await;
        assert!(matches!(outcome, Err(Error::Record(RecordError::Json { .. }))), "{end}: {outcome:?}");
    }
    still_works(&session, &json).await
}

#[tokio::test]
async fn a_record_with_any_bit_turned_does_not_decrypt_to_anything_else() -> TestResult {
    let (world, session, json) = stage().await?;
    let rows = world.store.len();
    for bit in 0..json.len() * 8 {
        match session.decrypt_json(&flip(json.as_bytes(), bit)).await {
            // The data row key's own time of creation is in no one's authentication.
            Ok(payload) => assert!(payload == b"tea for two" && created_holds(&json, bit / 8), "{bit}"),
            Err(Error::Record(_) | Error::WrongPartition | Error::Undecryptable | Error::KeyNotFound { .. }) => {}
            Err(other) => return Err(format!("bit {bit}: {other:?}").into()),
        }
    }
    assert_eq!(world.store.len(), rows, "decrypting writes nothing");
    still_works(&session, &json).await
}

/// Tells whether the byte at `position` belongs to the first number, or to its name or other white lies of JSON.
fn created_holds(json: &str, position: usize) -> bool {
    let number = json.find(':').and_then(|colon| json[colon + 1..].find(':').map(|next| colon + next + 2));
    let end = number.and_then(|start| json[start..].find(',').map(|length| start + length));
    matches!((number, end), (Some(start), Some(end)) if (start..end).contains(&position))
}

#[tokio::test]
async fn any_legal_json_of_a_record_is_one() -> TestResult {
    let (_world, session, json) = stage().await?;
    let record = DataRowRecord::from_json(json.as_bytes())?;
    let (key, data) = (STANDARD.encode(record.encrypted_key()), STANDARD.encode(record.data()));
    let (created, parent, parent_created) =
        (record.created(), record.parent_key().id.as_str(), record.parent_key().created);
    let escaped: String = data.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let slashed = |text: &str| text.replace('/', "\\/");
    let shapes = [
        format!(
            r#"{{"Data":"{data}","Key":{{"ParentKeyMeta":{{"Created":{parent_created},"KeyId":"{parent}"}},"Key":"{key}","Created":{created}}}}}"#
        ),
        format!(
            "\u{20}\r\n\t{{ \"Key\" : {{ \"Revoked\" : null , \"Created\" : {created} , \"Key\" : \"{key}\" , \"ParentKeyMeta\" : \
             {{ \"KeyId\" : \"{parent}\" , \"Created\" : {parent_created} , \"More\" : [1, {{}}] }} }} , \"Data\" : \"{data}\" }}\n"
        ),
        json.replace(&data, &escaped),
        slashed(&json),
        json.replace(r#""}"#, r#"","Extra":"more"}"#),
        json.replace(r#""}"#, r#"" }"#),
        json.replace(r#""}"#, "\"}\n"),
        json.replace(r#","Data""#, r#","Extra":null,"Data""#),
        json.replace(&data, &format!("{}\\r\\n{}", &data[..8], &data[8..])),
        json.replace(&key, &format!("{}\\n{}", &key[..76], &key[76..])),
    ];
    for shape in &shapes {
        assert_eq!(session.decrypt_json(shape.as_bytes()).await?, b"tea for two", "{shape}");
        assert_eq!(session.decrypt(&DataRowRecord::from_json(shape.as_bytes())?).await?, b"tea for two", "{shape}");
    }
    Ok(())
}

#[tokio::test]
async fn nesting_however_deep_needs_no_stack() -> TestResult {
    let (_world, session, json) = stage().await?;
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let unknown = json.replace(r#","Data""#, &format!(r#","X":{open}{close},"Data""#));
    assert_eq!(session.decrypt_json(unknown.as_bytes()).await?, b"tea for two", "unknown fields are passed over");
    for field in ["Created", "KeyId", "ParentKeyMeta"] {
        let nested = json.replacen(&format!(r#""{field}":"#), &format!(r#""{field}":{open}1{close},"X":"#), 1);
        let outcome = session.decrypt_json(nested.as_bytes()).await;
        assert!(matches!(outcome, Err(Error::Record(RecordError::Json { .. }))), "{field}: {outcome:?}");
    }
    still_works(&session, &json).await
}

#[tokio::test]
async fn what_is_no_record_is_refused_as_such() -> TestResult {
    let (_world, session, json) = stage().await?;
    let record = DataRowRecord::from_json(json.as_bytes())?;
    let data = STANDARD.encode(record.data());
    let broken = [
        String::new(),
        " ".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "\"\"".to_owned(),
        "{".repeat(100_000),
        "[".repeat(100_000),
        format!("{json}{json}"),
        format!("{json}x"),
        json.replace(r#","Data""#, r#","Data":"","Data""#),
        json.replace(r#"{"Key""#, r#"{"Data":"","Key""#),
        json.replace(r#"{"Created""#, r#"{"Created":1,"Created""#),
        json.replace(r#""KeyId""#, r#""KeyId":"_IK_alice_svc_prod","KeyId""#),
        json.replace(r#""}"#, &format!(r#"","Data":"{data}"}}"#)),
        json.replace(r#""Key":{"#, r#""key":{"#),
        json.replace(r#""Created":"#, r#""Created":1e3,"x":"#),
        json.replace(r#""Created":"#, r#""Created":9223372036854775808,"x":"#),
        json.replace(r#""Created":"#, r#""Created":"1","x":"#),
        json.replace(r#""Created":"#, r#""Created":01,"x":"#),
        json.replace(&data, "null"),
        json.replace(&format!("\"{data}\""), "null"),
        json.replace(&format!("\"{data}\""), "7"),
    ];
    for text in &broken {
        let outcome = session.decrypt_json(text.as_bytes()).await;
        let start: String = text.chars().take(200).collect();
        let typed = matches!(outcome, Err(Error::Record(_)));
        // "null" as text is legal base64 of three bytes: too few to be authentic.
        assert!(
            typed || matches!(outcome, Err(Error::Undecryptable)) && text.contains("\"null\""),
            "{start}: {outcome:?}"
        );
    }
    let base64 =
        [data.replace('=', ""), data.replace('=', "-"), format!("{data}="), format!("{data}AA"), "é".to_owned()];
    for text in &base64 {
        if *text == data {
            continue;
        }
        let outcome = session.decrypt_json(json.replace(&data, text).as_bytes()).await;
        assert!(matches!(outcome, Err(Error::Record(RecordError::Base64 { field: "Data" }))), "{text}: {outcome:?}");
    }
    let orphan = json.replace("ParentKeyMeta", "Elsewhere");
    let outcome = session.decrypt_json(orphan.as_bytes()).await;
    assert!(matches!(outcome, Err(Error::Record(RecordError::NoParent))), "{outcome:?}");
    still_works(&session, &json).await
}

#[tokio::test]
async fn text_that_is_not_unicode_is_refused_wherever_it_stands() -> TestResult {
    let (_world, session, json) = stage().await?;
    for position in 0..=json.len() {
        for bytes in [&[0xff_u8][..], &[0xc3], &[0xed, 0xa0, 0x80], &[0]] {
            let text = [&json.as_bytes()[..position], bytes, &json.as_bytes()[position..]].concat();
            let outcome = session.decrypt_json(&text).await;
            assert!(matches!(outcome, Err(Error::Record(_) | Error::WrongPartition)), "{position}: {outcome:?}");
        }
    }
    still_works(&session, &json).await
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_looked_at() -> TestResult {
    let world = World::with(|setup| setup.max_payload = 1000).await?;
    let session = world.session("alice").await?;
    let record = session.encrypt(&[7; 1000]).await?;
    assert_eq!(session.decrypt(&record).await?, [7; 1000]);
    assert_eq!(session.decrypt_json(&record.to_json()).await?, [7; 1000]);
    let too_large = |outcome: &Result<Vec<u8>, Error>| matches!(outcome, Err(Error::TooLarge { .. }));
    assert!(matches!(session.encrypt(&[7; 1001]).await, Err(Error::TooLarge { size: 1001, limit: 1000 })));
    assert!(too_large(&session.encrypt_json(&[7; 1001]).await));
    let large = DataRowRecord::from_parts(
        record.created(),
        record.encrypted_key().to_vec(),
        record.parent_key().clone(),
        vec![7; 1029],
    );
    assert!(too_large(&session.decrypt(&large).await));
    assert!(session.decrypt_json(&large.to_json()).await.is_err());
    let huge = vec![b' '; 1024 * 1024];
    assert!(too_large(&session.decrypt_json(&huge).await));
    Ok(())
}

#[tokio::test]
async fn a_payload_within_the_frame_of_json_but_over_the_limit_is_refused_on_both_roads() -> TestResult {
    let world = World::new().await?;
    let small = world.another_with(|setup| setup.max_payload = 1000).await?;
    let json = world.session("alice").await?.encrypt_json(&[7; 2000]).await?;
    let session = small.session("alice").await?;
    assert!(matches!(session.decrypt(&DataRowRecord::from_json(&json)?).await, Err(Error::TooLarge { .. })));
    let outcome = session.decrypt_json(&json).await;
    assert!(matches!(outcome, Err(Error::TooLarge { .. })), "{:?}", outcome.map(|payload| payload.len()));
    Ok(())
}

#[tokio::test]
async fn all_failed_authentications_look_alike() -> TestResult {
    let (_world, session, json) = stage().await?;
    let record = DataRowRecord::from_json(json.as_bytes())?;
    let parts = |key: Vec<u8>, data: Vec<u8>| {
        DataRowRecord::from_parts(record.created(), key, record.parent_key().clone(), data)
    };
    let (key, data) = (record.encrypted_key(), record.data());
    for damaged in [
        parts(flip(key, 0), data.to_vec()),
        parts(flip(key, 59 * 8), data.to_vec()),
        parts(key[..59].to_vec(), data.to_vec()),
        parts(key.to_vec(), flip(data, 0)),
        parts(key.to_vec(), data[..27].to_vec()),
        parts(key.to_vec(), Vec::new()),
    ] {
        let error = session.decrypt(&damaged).await.expect_err("it is damaged");
        assert!(matches!(error, Error::Undecryptable) && error.source().is_none());
        assert_eq!(error.to_string(), "the record could not be decrypted");
        assert!(!error.is_transient());
    }
    Ok(())
}

#[tokio::test]
async fn errors_name_the_operation_and_tell_no_contents() -> TestResult {
    let (world, session, json) = stage().await?;
    let record = DataRowRecord::from_json(json.as_bytes())?;
    let unknown = DataRowRecord::from_parts(
        record.created(),
        record.encrypted_key().to_vec(),
        key("_IK_alice_svc_prod", 42),
        record.data().to_vec(),
    );
    let error = session.decrypt(&unknown).await.expect_err("there is no such key");
    assert_eq!(error.to_string(), "the metastore has no key _IK_alice_svc_prod created 42");
    let secret = json.replace("{\"Key\"", "{\"Tell no-one\":\"hunter2\",\"Key\"").replace("Data", "Datum");
    let error = session.decrypt_json(secret.as_bytes()).await.expect_err("there is no data");
    let told = format!("{error} {error:?}");
    assert!(told.contains("Data") && !told.contains("hunter2") && !told.contains("no-one"), "{told}");
    let wrong = world.session("bob").await?.decrypt_json(json.as_bytes()).await.expect_err("it is alice's");
    assert_eq!(wrong.to_string(), "the record belongs to another partition");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(inputs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let outcome: TestResult = runtime.block_on(async {
            let (_world, session, json) = stage().await?;
            for input in &inputs {
                assert!(session.decrypt_json(input).await.is_err());
                let middle = json.len() / 2;
                let inserted = [&json.as_bytes()[..middle], input, &json.as_bytes()[middle..]].concat();
                assert!(input.is_empty() || session.decrypt_json(&inserted).await.is_err());
            }
            still_works(&session, &json).await
        });
        prop_assert!(outcome.is_ok(), "{:?}", outcome);
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use keyward::SessionFactory;
    use keyward::kms::StaticKms;
    use keyward::stores::{SqliteMetastore, StoreError};

    use super::*;
    use support::MASTER_KEY;

    #[tokio::test]
    async fn a_corrupt_key_row_is_reported_for_what_it_is_and_replaced_by_nothing() -> TestResult {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("keys.db");
        let build = || async {
            let store = SqliteMetastore::open(&file).await?;
            let kms = StaticKms::new(MASTER_KEY)?;
            TestResult::Ok(SessionFactory::builder("svc", "prod").metastore(store).kms(kms).build().await?)
        };
        let factory = build().await?;
        let record = factory.session("alice").await?.encrypt(b"tea").await?;
        factory.close().await?;
        let sql = rusqlite::Connection::open(&file)?;
        for id in ["_IK_alice_svc_prod", "_SK_svc_prod"] {
            let good: String =
                sql.query_row("SELECT key_record FROM encryption_key WHERE id = ?1", [id], |row| row.get(0))?;
            for bad in ["", "{", "null", "{}", r#"{"Created":1,"Key":"AAEC"}"#, r#"{"Created":"x"}"#, "\u{feff}{}"] {
                sql.execute("UPDATE encryption_key SET key_record = ?1 WHERE id = ?2", [bad, id])?;
                let factory = build().await?;
                let session = factory.session("alice").await?;
                for outcome in [session.encrypt(b"tea").await.map(drop), session.decrypt(&record).await.map(drop)] {
                    let Err(Error::Metastore(source)) = outcome else {
                        return Err(format!("{id} {bad}: {outcome:?}").into());
                    };
                    let StoreError::Corrupt { id: named, .. } = &*source else {
                        return Err(format!("{id} {bad}: {source:?}").into());
                    };
                    assert_eq!(named, id);
                }
                sql.execute("UPDATE encryption_key SET key_record = ?1 WHERE id = ?2", [&*good, id])?;
                assert_eq!(session.decrypt(&record).await?, b"tea", "{id} {bad}");
                factory.close().await?;
            }
        }
        let rows: i64 = sql.query_row("SELECT count(*) FROM encryption_key", [], |row| row.get(0))?;
        assert_eq!(rows, 2);
        Ok(())
    }
}
