//! Replies that are lost.

use std::sync::{Arc, mpsc};
use std::time::SystemTime;

use keyward::ManualClock;

use crate::stage::{Backend, TestResult, World, builder, encrypt, stores_a_key};

const RETRIES: &str = "keyward_metastore_retries_total{store=\"primary\"}";
const LOST: &str = "keyward_metastore_lost_replies_total{store=\"primary\"}";

pub(crate) async fn an_insert_that_never_arrived_is_sent_again(backend: &Backend) -> TestResult {
    let world = World::new(backend, |_| ()).await?;
    let first = world.encrypt("first").await?;
    world.proxy.cut_before(1, stores_a_key);
    let record = world.encrypt("alice").await?;
    assert_eq!(world.proxy.cuts(), 1);
    assert_eq!((world.number(RETRIES), world.number(LOST)), (1.0, 0.0));
    world.check(&vec![("first".to_owned(), first), ("alice".to_owned(), record)]).await?;
    world.close().await
}

pub(crate) async fn an_insert_whose_reply_was_lost_is_found_stored(backend: &Backend) -> TestResult {
    let world = World::new(backend, |_| ()).await?;
    world.encrypt("first").await?;
    world.proxy.cut_after(1, stores_a_key);
    let record = world.encrypt("alice").await?;
    assert_eq!(world.proxy.cuts(), 1);
    assert_eq!((world.number(RETRIES), world.number(LOST)), (1.0, 1.0));
    // So was the key that was made first, which is the one that is there.
    let row = world.store.load_latest(&record.parent_key().id).await?.ok_or("it was stored")?;
    assert_eq!(row.created, record.parent_key().created);

    // A crowd of which a good part loses replies.
    world.proxy.cut_after(10, stores_a_key);
    let (mut records, failed) = world.crowd(40).end(&world, |error| error.is_transient()).await?;
    records.extend(world.recover(failed).await?);
    assert_eq!(world.proxy.cuts(), 11);
    assert!(world.number(LOST) >= 2.0);
    records.push(("alice".to_owned(), record));
    world.check(&records).await?;
    world.close().await
}

pub(crate) async fn a_key_that_another_stored_meanwhile_is_used_instead(backend: &Backend) -> TestResult {
    // Both date their keys alike.
    let clock = Arc::new(ManualClock::at(SystemTime::now()));
    let world = World::new(backend, |setup| setup.clock = Some(Arc::clone(&clock))).await?;
    world.encrypt("first").await?;
    let other = builder(backend.store().await?)?.clock(clock).build().await?;
    let (arrived, has_arrived) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    // The insert is held while the other stores its key, and then lost.
    world.proxy.cut_before(1, move |request| {
        let is_insert = stores_a_key(request);
        if is_insert {
            let _ = arrived.send(());
            let _ = goes_on.recv();
        }
        is_insert
    });
    let ours = tokio::spawn({
        let factory = world.factory.clone();
        async move { encrypt(&factory, "alice").await }
    });
    tokio::task::spawn_blocking(move || has_arrived.recv()).await??;
    let theirs = encrypt(&other, "alice").await?;
    go_on.send(())?;
    let ours = ours.await??;
    assert_eq!(ours.parent_key(), theirs.parent_key());
    assert_eq!(world.number(LOST), 1.0);
    world.check(&vec![("alice".to_owned(), ours), ("alice".to_owned(), theirs)]).await?;
    other.close().await?;
    world.close().await
}
