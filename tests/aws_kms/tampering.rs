//! Rows that were changed: they open as the very key that was wrapped, or not at all.

use keyward::kms::{AwsKms, KeyManagementService, KmsError, KmsFailureKind};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::kms_support::{ORDER, Stage, TestResult, envelope, wrap};

/// An envelope for all regions, and its key.
async fn wrapped(kms: &AwsKms) -> TestResult<(Value, [u8; 32])> {
    let wrapped = wrap(kms).await?;
    Ok((envelope(&wrapped.outcome?)?, wrapped.key))
}

async fn open(kms: &AwsKms, row: &Value) -> Result<Vec<u8>, KmsError> {
    open_text(kms, &row.to_string()).await
}

async fn open_text(kms: &AwsKms, row: &str) -> Result<Vec<u8>, KmsError> {
    Ok(kms.decrypt_key(row.as_bytes()).await?.expose_secret().to_vec())
}

fn is_undecryptable(outcome: &Result<Vec<u8>, KmsError>) -> bool {
    matches!(outcome, Err(KmsError::Undecryptable { .. }))
}

#[tokio::test]
async fn data_keys_of_other_regions_and_envelopes_open_nothing() -> TestResult {
    let Some(stage) = Stage::new(&ORDER).await? else { return Ok(()) };
    let kms = stage.kms(|_| {})?;
    let ((one, key), (other, _)) = (wrapped(&kms).await?, wrapped(&kms).await?);

    let mut rotated = one.clone();
    for at in 0..3 {
        rotated["kmsKeks"][at]["encryptedKek"] = one["kmsKeks"][(at + 1) % 3]["encryptedKek"].clone();
    }
    assert!(is_undecryptable(&open(&kms, &rotated).await), "each region has the data key of another");

    let mut mixed = one.clone();
    for at in 0..3 {
        mixed["kmsKeks"][at] = other["kmsKeks"][at].clone();
        stage.forget();
        let opened = open(&kms, &mixed).await;
        let asked: Vec<usize> = stage.places.iter().map(|place| place.proxy.count("Decrypt")).collect();
        if at < 2 {
            assert_eq!(opened?, key, "another region has the right one");
            let expected: Vec<usize> = (0..3).map(|place| usize::from(place <= at + 1)).collect();
            assert_eq!(asked, expected, "each is asked once, up to the one that opens");
        } else {
            assert!(is_undecryptable(&opened), "{opened:?}");
            assert_eq!(asked, [1, 1, 1], "and is not asked again");
        }
    }
    let mut exchanged = one;
    exchanged["encryptedKey"] = other["encryptedKey"].clone();
    assert!(is_undecryptable(&open(&kms, &exchanged).await));
    Ok(())
}

#[tokio::test]
async fn of_two_data_keys_of_a_region_the_one_that_opens_is_found() -> TestResult {
    let Some(stage) = Stage::new(&ORDER[..2]).await? else { return Ok(()) };
    let kms = stage.kms(|_| {})?;
    let ((row, key), (other, _)) = (wrapped(&kms).await?, wrapped(&kms).await?);
    let (good, bad) = (&row["kmsKeks"][0], &other["kmsKeks"][0]);
    let garbage = json!({"region": ORDER[0], "arn": good["arn"], "encryptedKek": "AAAA"});
    for (keks, opens) in [
        (vec![bad, good], true),
        (vec![good, bad], true),
        (vec![&garbage, good], true),
        (vec![bad, &garbage], false),
        (vec![good, good], true),
    ] {
        let opened = open(&kms, &json!({"encryptedKey": row["encryptedKey"], "kmsKeks": keks})).await;
        if opens { assert_eq!(opened?, key) } else { assert!(is_undecryptable(&opened), "{opened:?}") }
    }
    Ok(())
}

#[tokio::test]
async fn fields_in_any_order_and_shape_that_others_write_are_read() -> TestResult {
    let Some(stage) = Stage::new(&ORDER[..1]).await? else { return Ok(()) };
    let kms = stage.kms(|_| {})?;
    let (row, key) = wrapped(&kms).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (inner, kek) = (text(&row["encryptedKey"]), &row["kmsKeks"][0]);
    let (region, arn, blob) = (text(&kek["region"]), text(&kek["arn"]), text(&kek["encryptedKek"]));
    let broken = format!("{}\\r\\n{}\\n", &blob[..40], &blob[40..]);
    for row in [
        format!(
            r#"{{"kmsKeks":[{{"encryptedKek":"{blob}","arn":"{arn}","region":"{region}"}}],"encryptedKey":"{inner}"}}"#
        ),
        format!(
            r#" {{ "encryptedKey" : "{inner}", "v": [1], "kmsKeks":[{{"region":"{region}","x":null,"arn":"{arn}","encryptedKek":"{blob}"}}]}}"#
        ),
        format!(
            r#"{{"encryptedKey":"{inner}","kmsKeks":[{{"region":"{region}","arn":"{arn}","encryptedKek":"{broken}"}}]}}"#
        ),
        format!(
            r#"{{"encryptedKey":"{inner}","kmsKeks":[{{"region":"{}","arn":"{arn}","encryptedKek":"{blob}"}}]}}"#,
            region.to_uppercase()
        ),
        // The ARN is what is configured, whatever the row says.
        format!(r#"{{"encryptedKey":"{inner}","kmsKeks":[{{"region":"{region}","arn":"","encryptedKek":"{blob}"}}]}}"#),
    ] {
        assert_eq!(open_text(&kms, &row).await?, key, "{row}");
    }
    Ok(())
}

#[tokio::test]
async fn what_lacks_or_doubles_a_field_is_no_envelope() -> TestResult {
    let Some(stage) = Stage::new(&ORDER[..1]).await? else { return Ok(()) };
    let kms = stage.kms(|_| {})?;
    let (row, _) = wrapped(&kms).await?;
    stage.forget();
    for field in ["region", "arn", "encryptedKek"] {
        let mut row = row.clone();
        row["kmsKeks"][0].as_object_mut().ok_or("an object")?.remove(field);
        let opened = open(&kms, &row).await;
        assert!(is_undecryptable(&opened), "{field}: {opened:?}");
    }
    let text = row.to_string();
    let inner = row["encryptedKey"].to_string();
    for (from, to) in [
        ("\"encryptedKey\"", "\"Key\"".to_owned()),
        ("\"kmsKeks\"", format!("\"encryptedKey\":{inner},\"kmsKeks\"")),
        ("\"arn\"", "\"region\":\"eu-west-1\",\"arn\"".to_owned()),
        (inner.as_str(), "[1,2]".to_owned()),
        (inner.as_str(), "\"%%%\"".to_owned()),
        (inner.as_str(), "null".to_owned()),
    ] {
        let changed = text.replacen(from, &to, 1);
        assert_ne!(changed, text);
        let opened = open_text(&kms, &changed).await;
        assert!(is_undecryptable(&opened), "{changed}: {opened:?}");
    }
    assert_eq!(stage.places[0].proxy.seen().len(), 0, "nobody is asked about those");
    Ok(())
}

#[tokio::test]
async fn a_row_for_no_region_of_ours_says_so() -> TestResult {
    let Some(stage) = Stage::new(&ORDER[..2]).await? else { return Ok(()) };
    let kms = stage.kms(|_| {})?;
    let (row, _) = wrapped(&kms).await?;
    let mut elsewhere = row.clone();
    for at in 0..2 {
        elsewhere["kmsKeks"][at]["region"] = "sa-east-1".into();
    }
    for keks in [json!([]), Value::Null, elsewhere["kmsKeks"].clone()] {
        let failed = open(&kms, &json!({"encryptedKey": row["encryptedKey"], "kmsKeks": keks})).await;
        let Err(KmsError::Failed { failures, .. }) = &failed else { return Err(format!("{failed:?}").into()) };
        let told: Vec<_> = failures.iter().map(|failure| (failure.place.as_str(), failure.kind)).collect();
        assert_eq!(told, [(ORDER[0], KmsFailureKind::NotWrapped), (ORDER[1], KmsFailureKind::NotWrapped)]);
    }
    Ok(())
}
