//! A session that is handed anything: nothing opens but what it made, nothing panics, nothing is created.

#![no_main]

use std::cell::OnceCell;

use keyward::{Error, Session, SessionFactory, kms::StaticKms, stores::InMemoryMetastore};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

struct Stage {
    runtime: Runtime,
    factory: SessionFactory,
    session: Session,
    /// A record of the session's own, for the fuzzer to be near to.
    json: Vec<u8>,
}

thread_local! {
    static STAGE: OnceCell<Stage> = const { OnceCell::new() };
}

fn stage() -> Stage {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let (factory, session, json) = runtime.block_on(async {
        let factory = SessionFactory::builder("s", "p")
            .metastore(InMemoryMetastore::new())
            .kms(StaticKms::new(b"thisIsAStaticMasterKeyForTesting").expect("32 bytes"))
            .build()
            .await
            .expect("a factory");
        let session = factory.session("a").await.expect("a session");
        let json = session.encrypt_json(b"payload").await.expect("a record");
        (factory, session, json)
    });
    Stage { runtime, factory, session, json }
}

fuzz_target!(|bytes: &[u8]| {
    STAGE.with(|cell| {
        let Stage { runtime, factory, session, json } = cell.get_or_init(stage);
        // The first two bytes say where the own record is overwritten by the rest; none leave it as it is.
        let mut text = json.clone();
        let replaced = match bytes.split_first_chunk::<2>() {
            Some((position, rest)) => {
                let start = usize::from(u16::from_le_bytes(*position)) % (text.len() + 1);
                let end = text.len().min(start + rest.len());
                text.splice(start..end, rest.iter().copied());
                text != *json
            }
            None => false,
        };
        for input in [text.as_slice(), bytes] {
            match runtime.block_on(session.decrypt_json(input)) {
                Ok(payload) => assert_eq!(payload, b"payload"),
                Err(Error::Closed | Error::Restarted { .. } | Error::Timeout { .. }) => unreachable!("it works"),
                Err(_) => assert!(replaced || input == bytes),
            }
        }
        assert_eq!(factory.status().cached_keys, 2);
    });
});
