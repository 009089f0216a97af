//! The warm path: no message, no call, however often.

mod support;

use support::{Calls, TestResult, World};

/// Operations of each of the four kinds; together they make a million.
const ROUNDS: usize = 250_000;

#[tokio::test]
async fn a_million_warm_operations_send_no_message_and_make_no_call() -> TestResult {
    let world = World::new().await?;
    let session = world.session("alice").await?;
    let payload = [7_u8; 64];
    let record = session.encrypt(&payload).await?;
    let json = session.encrypt_json(&payload).await?;
    let (before, calls) = (world.factory.status(), world.calls());
    for _ in 0..ROUNDS {
        session.encrypt(&payload).await?;
        session.encrypt_json(&payload).await?;
        session.decrypt(&record).await?;
        session.decrypt_json(&json).await?;
    }
    let after = world.factory.status();
    assert_eq!(after.messages, before.messages);
    assert_eq!((after.metastore_calls, after.kms_calls), (before.metastore_calls, before.kms_calls));
    assert_eq!(world.calls() - calls, Calls::NONE);
    assert_eq!((after.cached_keys, after.live_keys), (before.cached_keys, before.live_keys));
    drop(session);
    world.close().await
}
