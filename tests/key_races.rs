//! What operators ask for is in effect in the process at once, whatever its sessions are doing; and what somebody forges does
//! not stand in anyone's way.

mod support;

use std::sync::Arc;

use keyward::stores::Revocation;
use support::{TestResult, World, poll_once};

#[tokio::test]
async fn a_revocation_counts_where_two_loads_found_the_key_at_once() -> TestResult {
    let mut world = World::new().await?;
    let before = world.encrypt("alice", b"tea").await?;
    world.restart().await?;
    let session = world.session("alice").await?;
    // Both loads hold their row before either has made a key of it; the one for encrypting ends first.
    let (system, id) = (world.store.control.delay_answers(&world.system_key()), world.intermediate_key("alice"));
    let mut encrypting = Box::pin(session.encrypt(b"tea"));
    assert!(poll_once(encrypting.as_mut()).is_pending());
    system.arrivals(1).await;
    let reading = world.store.control.delay_answers(&id);
    let mut decrypting = Box::pin(session.decrypt(&before));
    assert!(poll_once(decrypting.as_mut()).is_pending());
    reading.arrivals(1).await;
    reading.open();
    system.open();
    encrypting.await?;
    assert_eq!(decrypting.await?, b"tea");
    let keys = world.factory.keys(Arc::clone(&world.store));
    assert_eq!(keys.revoke(before.parent_key()).await?, Revocation::Revoked);
    assert_ne!(session.encrypt(b"tea").await?.parent_key(), before.parent_key());
    drop(session);
    drop(keys);
    world.close().await
}
