//! What is sent is what was signed: the body of a request is put in place of the SDK's own before that.

use aws_lc_rs::{digest, hmac};

use crate::kms_support::{ORDER, SECRET, Stage, TestResult, regions, wrap};
use crate::servers::{Exchange, header};
use keyward::kms::KeyManagementService;

#[tokio::test]
async fn each_request_is_signed_as_it_is_sent() -> TestResult {
    let Some(stage) = Stage::new(&ORDER[..2]).await? else { return Ok(()) };
    let kms = stage.kms(|_| {})?;
    let wrapped = wrap(&kms).await?.outcome?;
    assert_eq!(regions(&wrapped)?.len(), 2);
    kms.decrypt_key(&wrapped).await?;
    let mut seen = Vec::new();
    for place in &stage.places {
        for exchange in place.proxy.seen() {
            let expected = signature(&exchange, &place.name)?;
            let authorization = header(&exchange.head, "authorization").ok_or("a request without a signature")?;
            assert!(authorization.ends_with(&format!("Signature={expected}")), "{authorization}: {expected}");
            let length = header(&exchange.head, "content-length").ok_or("a request without a length")?;
            assert_eq!(length.parse::<usize>()?, exchange.body.len());
            seen.push(exchange.operation);
        }
    }
    assert_eq!(seen, ["GenerateDataKey", "Decrypt", "Encrypt"]);
    Ok(())
}

/// Returns the [signature](https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html) that a
/// request should have.
fn signature(exchange: &Exchange, region: &str) -> TestResult<String> {
    let authorization = header(&exchange.head, "authorization").ok_or("no signature")?;
    let signed = authorization.split("SignedHeaders=").nth(1).and_then(|rest| rest.split(',').next());
    let signed = signed.ok_or("no list of headers")?;
    let mut request = String::from("POST\n/\n\n");
    for name in signed.split(';') {
        let value = header(&exchange.head, name).ok_or_else(|| format!("{name} is signed and not sent"))?;
        request.push_str(&format!("{name}:{value}\n"));
    }
    request.push_str(&format!("\n{signed}\n{}", sha256(&exchange.body)));
    let time = header(&exchange.head, "x-amz-date").ok_or("no time")?;
    let day = &time[..8];
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{day}/{region}/kms/aws4_request\n{}", sha256(request.as_bytes()));
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in [day, region, "kms", "aws4_request", &text] {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    Ok(hex(&key))
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
