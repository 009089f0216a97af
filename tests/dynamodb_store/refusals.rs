//! What the service refuses, and what something else says in its place.

use std::sync::atomic::{AtomicUsize, Ordering};

use keyward::stores::{KeyAdmin, Metastore, Revocation, SchemaAdmin, StoreError, StoreOutcome};
use keyward::{EnvelopeKeyRecord, KeyId, TOMBSTONE_CREATED};
use serde_json::{Value, json};

use crate::answers::{Answer, Answers, header, table};
use crate::servers::TestResult;
use crate::{chain, key, record};

/// Codes of the service, with their status, whether they may pass, and what helps.
const CODES: [(u16, &str, bool, &str); 19] = [
    (400, "ProvisionedThroughputExceededException", true, "raise its capacity, or make it on-demand"),
    (400, "ThrottlingException", true, "ask for a higher quota"),
    (400, "RequestLimitExceeded", true, "ask for a higher quota"),
    (500, "InternalServerError", true, "unavailable"),
    (503, "ServiceUnavailable", true, "unavailable"),
    (400, "TransactionConflictException", true, "unavailable"),
    (400, "ReplicatedWriteConflictException", true, "unavailable"),
    (500, "NobodyKnowsThis", true, "unavailable"),
    (400, "RequestTimeTooSkewed", true, "set the clock of this machine"),
    (400, "AccessDeniedException", false, "allow dynamodb:GetItem"),
    (400, "ResourceNotFoundException", false, "keyward migrate --store … --apply"),
    (400, "UnrecognizedClientException", false, "check access key, session token and region"),
    (403, "InvalidClientTokenId", false, "check access key"),
    (400, "MissingAuthenticationTokenException", false, "check access key"),
    (400, "InvalidSignatureException", false, "check the secret access key"),
    (400, "ExpiredTokenException", false, "get new ones"),
    (400, "ValidationException", false, "keyward migrate --store …"),
    (400, "UnknownOperationException", false, "lacks this operation"),
    (400, "NobodyKnowsThis", false, "refused"),
];

#[tokio::test]
async fn each_refusal_says_what_helps() -> TestResult {
    for (status, code, is_transient, advice) in CODES {
        let message = "The words of the service.\n\nThe Canonical String: x-amz-security-token:hunter2";
        let answers = Answers::with_table(move |_| Answer::error(status, code, message))?;
        let store = answers.store().await?;
        let (alice, at) = (KeyId::new("alice"), key("alice", 5));
        let refusals = [
            ("loading a key", store.load(&at).await.map(drop)),
            ("loading a key", store.load_latest(&alice).await.map(drop)),
            ("storing a key", store.store(&alice, &record(5, b"k")).await.map(drop)),
            ("listing keys", store.list(None, 9).await.map(drop)),
            ("listing keys", store.versions(&alice).await.map(drop)),
            ("revoking a key", store.revoke(&at).await.map(drop)),
            ("shredding a key", store.shred(&alice, &EnvelopeKeyRecord::tombstone(None)).await.map(drop)),
        ];
        for (number, (operation, refused)) in refusals.into_iter().enumerate() {
            let refused = refused.expect_err(code);
            let text = chain(&refused);
            assert_eq!(refused.is_transient(), is_transient, "{text}");
            assert!(text.starts_with(operation) && text.contains("dynamodb:EncryptionKey in us-west-2"), "{text}");
            assert!(text.contains(code) && text.contains("The words of the service."), "{text}");
            // The rights differ by operation.
            assert!(number > 2 && code == "AccessDeniedException" || text.contains(advice), "{text}");
        }
        assert_eq!(answers.asked().len(), 8, "each is sent once: {:?}", answers.operations());
    }
    Ok(())
}

#[tokio::test]
async fn what_something_else_says_is_told_from_the_service() -> TestResult {
    let cases = [
        (200, "<html>Please log in</html>", false),
        (403, "<html>The proxy forbids this</html>", false),
        (404, "", false),
        (502, "<html>Bad gateway</html>", true),
        (503, "", true),
        (429, "slow down", true),
    ];
    for (status, body, is_transient) in cases {
        let answers = Answers::with_table(move |_| Answer::text(status, body))?;
        let failed = answers.store().await?.load(&key("alice", 5)).await.expect_err(body);
        let text = chain(&failed);
        assert_eq!(failed.is_transient(), is_transient, "{text}");
        assert!(text.contains("check the endpoint") && text.contains(&status.to_string()), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_from_a_wrong_key() -> TestResult {
    let answers = Answers::with_table(|_| {
        let error =
            Answer::error(400, "InvalidSignatureException", "Signature expired: 20010101T000000Z is now earlier");
        error.with_header("date: Mon, 01 Jan 2001 00:00:00 GMT")
    })?;
    let store = answers.store().await?;
    for _ in 0..2 {
        let failed = store.load(&key("alice", 5)).await.expect_err("the clock is off");
        let text = chain(&failed);
        assert!(failed.is_transient() && text.contains("set the clock of this machine"), "{text}");
    }
    let asked = answers.asked();
    let signed = header(&asked.last().ok_or("it was asked")?.head, "x-amz-date").ok_or("it is signed")?;
    assert!(signed.starts_with("20010101t"), "{signed}: what is tried again is signed with the time of the service");
    Ok(())
}

#[tokio::test]
async fn a_missing_table_is_refused_with_the_remedy() -> TestResult {
    let answers = Answers::start(|_| Answer::error(400, "ResourceNotFoundException", "not found"))?;
    let refused = answers.store().await.expect_err("there is no table");
    let text = chain(&refused);
    assert!(matches!(refused, StoreError::Permanent { .. }), "{text}");
    assert!(text.contains("there is no such table") && text.contains("keyward migrate --store … --apply"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_being_made_is_waited_for() -> TestResult {
    let answers = Answers::start(|_| Answer::ok(&table(&json!({"TableStatus": "CREATING"}))))?;
    let failed = answers.store().await.expect_err("it is not there yet");
    assert!(matches!(failed, StoreError::Transient { .. }), "{}", chain(&failed));
    Ok(())
}

#[tokio::test]
async fn whoever_may_not_describe_the_table_may_use_it() -> TestResult {
    for code in ["AccessDeniedException", "UnknownOperationException"] {
        let answers = Answers::start(move |request| match request.operation.as_str() {
            "DescribeTable" => Answer::error(400, code, "not you"),
            _ => Answer::ok(&json!({})),
        })?;
        let store = answers.store().await?;
        assert_eq!(store.load(&key("alice", 5)).await?, None);
        assert_eq!(answers.operations(), ["DescribeTable", "GetItem", "GetItem"], "it is tried instead");
        assert!(matches!(store.inspect().await, Err(StoreError::Permanent { .. })), "but not looked at");
    }
    // That the table is missing shows all the same, and so does that nothing is allowed.
    for (code, expected) in [("ResourceNotFoundException", "--apply"), ("AccessDeniedException", "dynamodb:GetItem")] {
        let answers = Answers::start(move |request| match request.operation.as_str() {
            "DescribeTable" => Answer::error(400, "AccessDeniedException", "not you"),
            _ => Answer::error(400, code, "no"),
        })?;
        let refused = answers.store().await.expect_err(code);
        let text = chain(&refused);
        assert!(matches!(refused, StoreError::Permanent { .. }) && text.contains(expected), "{text}");
    }
    Ok(())
}

fn item(created: i64, key: &str, revoked: bool) -> Value {
    json!({"Id": {"S": "alice"}, "Created": {"N": created.to_string()}, "KeyRecord": {"M": {
        "Created": {"N": created.to_string()}, "Key": {"S": key}, "Revoked": {"BOOL": revoked},
    }}})
}

/// In a global table, another region's write of the same key may win after this one was acknowledged.
#[tokio::test]
async fn an_insert_that_another_region_overwrites_is_a_duplicate() -> TestResult {
    for (stored, expected) in [("aw==", StoreOutcome::Stored), ("AAEC", StoreOutcome::Duplicate)] {
        let answers = Answers::with_table(move |request| match request.operation.as_str() {
            "Query" => Answer::ok(&json!({"Items": [item(5, stored, false)]})),
            _ => Answer::ok(&json!({})),
        })?;
        assert_eq!(answers.store().await?.store(&KeyId::new("alice"), &record(5, b"k")).await?, expected);
        assert_eq!(answers.operations(), ["DescribeTable", "PutItem", "Query"]);
    }
    Ok(())
}

#[tokio::test]
async fn an_insert_beside_a_tombstone_is_taken_back_as_far_as_it_may() -> TestResult {
    for may_delete in [true, false] {
        let answers = Answers::with_table(move |request| match request.operation.as_str() {
            "Query" => Answer::ok(&json!({"Items": [item(5, "aw==", false), item(TOMBSTONE_CREATED, "", true)]})),
            "DeleteItem" if !may_delete => Answer::error(400, "AccessDeniedException", "not you"),
            _ => Answer::ok(&json!({})),
        })?;
        let outcome = answers.store().await?.store(&KeyId::new("alice"), &record(5, b"k")).await?;
        assert_eq!(outcome, StoreOutcome::Duplicate);
        let asked = answers.asked();
        let last = asked.last().ok_or("it was asked")?;
        assert_eq!(last.operation, "DeleteItem");
        assert_eq!(last.body["Key"], json!({"Id": {"S": "alice"}, "Created": {"N": "5"}}));
    }
    Ok(())
}

#[tokio::test]
async fn an_insert_that_is_deleted_at_once_may_be_tried_again() -> TestResult {
    let answers = Answers::with_table(|_| Answer::ok(&json!({})))?;
    let gone = answers.store().await?.store(&KeyId::new("alice"), &record(5, b"k")).await.expect_err("it is not there");
    assert!(matches!(gone, StoreError::Transient { .. }), "{}", chain(&gone));
    Ok(())
}

/// What was read is looked at again when the change is refused.
#[tokio::test]
async fn a_revocation_that_comes_too_late_finds_nothing() -> TestResult {
    let loads = AtomicUsize::new(0);
    let answers = Answers::with_table(move |request| match request.operation.as_str() {
        "GetItem" if loads.fetch_add(1, Ordering::SeqCst) == 0 => Answer::ok(&json!({"Item": item(5, "aw==", false)})),
        "UpdateItem" => Answer::error(400, "ConditionalCheckFailedException", "The conditional request failed"),
        _ => Answer::ok(&json!({})),
    })?;
    assert_eq!(answers.store().await?.revoke(&key("alice", 5)).await?, Revocation::NotFound);
    Ok(())
}

/// An answer of many pages, some of them empty, is read to its end.
#[tokio::test]
async fn empty_pages_do_not_end_an_answer() -> TestResult {
    let answers = Answers::with_table(|request| {
        let start = request.body["ExclusiveStartKey"]["Created"]["N"].as_str().map_or(0, |at| at.parse().unwrap_or(9));
        let last = |at: i64| json!({"Id": {"S": "alice"}, "Created": {"N": at.to_string()}});
        Answer::ok(&match start {
            0 => json!({"Items": [item(1, "aw==", false)], "LastEvaluatedKey": last(1)}),
            1 => json!({"Items": [], "LastEvaluatedKey": last(2)}),
            _ => json!({"Items": [item(3, "aw==", false)]}),
        })
    })?;
    let store = answers.store().await?;
    assert_eq!(store.versions(&KeyId::new("alice")).await?.len(), 2);
    assert_eq!(store.list(None, 9).await?.len(), 2);
    Ok(())
}
