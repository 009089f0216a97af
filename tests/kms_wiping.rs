//! Data keys of AWS KMS are gone from memory that is given back, on every path: an allocator looks for them in every block
//! that is freed.
//!
//! The proxy has the service make a data key that the test knows. Blocks are looked at on the one thread that makes the calls,
//! while it makes them; those of other threads, the proxy's among them, are wiped and not looked at.
#![cfg(all(unix, feature = "aws-kms"))]
#![allow(unsafe_code, reason = "an allocator cannot be written without")]

mod kms_support;
mod servers;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kms::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_kms::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kms::error::BoxError;
use aws_sdk_kms::primitives::Blob;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use keyward::SessionFactory;
use keyward::kms::{AwsKms, KeyManagementService, KmsAdmin, KmsError, SystemKey};
use keyward::stores::InMemoryMetastore;
use kms_support::{ORDER, Stage, TestResult, regions};
use secrecy::SecretSlice;
use serde_json::json;
use servers::AwsFault;

/// What no other memory of this process holds.
const KEY: [u8; 32] = *b"\xf1\x03\xd5\x07\xe9\x0b\xcd\x0f\xb1\x13\xa5\x17\x99\x1b\x8d\x1f\x71\x23\x65\x27\x59\x2b\x4d\x2f\x31\x33\x25\x37\x19\x3b\x0d\x3f";

const KEY_TEXT: [u8; 44] = *b"8QPVB+kLzQ+xE6UXmRuNH3EjZSdZK00vMTMlNxk7DT8=";

/// How much of its text does not depend on what follows.
const TEXT: usize = 42;

/// Blocks that still held the key when they were freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Found {
    /// As bytes.
    raw: usize,
    /// As text of a request, as it is written here.
    sent: usize,
    /// As text of any other kind: of answers, above all.
    text: usize,
}

struct Looking {
    found: Found,
    /// Where they were freed.
    places: Vec<String>,
}

/// What was found, by all threads.
static FOUND: Mutex<Looking> = Mutex::new(Looking { found: Found { raw: 0, sent: 0, text: 0 }, places: Vec::new() });

thread_local! {
    /// Whether blocks of this thread are looked at; without a destructor, as the allocator outlives those.
    static LOOKS: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator, which looks into blocks before they are freed, and wipes them.
struct Watching;

// SAFETY: everything is passed on to the system's allocator, and blocks are changed when they are freed alone.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is whole, was zeroed when it was allocated, and is the caller's until the end of this call.
        unsafe {
            look(std::slice::from_raw_parts(block, layout.size()));
            block.write_bytes(0, layout.size());
            std::hint::black_box(block);
            System.dealloc(block, layout);
        }
    }

    // As the trait has it: allocates, copies, and frees the old block by `dealloc`.
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

fn look(block: &[u8]) {
    if block.len() < 32 || !LOOKS.try_with(Cell::get).unwrap_or(false) {
        return;
    }
    let has = |wanted: &[u8]| block.windows(wanted.len()).any(|window| window == wanted);
    let (is_raw, is_text) = (has(&KEY), has(&KEY_TEXT[..TEXT]));
    if !is_raw && !is_text {
        return;
    }
    // What is allocated and freed to tell of it is not looked at.
    LOOKS.set(false);
    let is_sent = has(&[br#""Plaintext":""#.as_slice(), &KEY_TEXT[..TEXT]].concat());
    let mut looking = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    looking.found.raw += usize::from(is_raw);
    looking.found.sent += usize::from(is_sent);
    looking.found.text += usize::from(is_text && !is_sent);
    let kind = match (is_raw, is_sent) {
        (true, _) => "bytes",
        (false, true) => "text of a request",
        (false, false) => "text",
    };
    let trace = Backtrace::force_capture().to_string();
    looking.places.push(format!("{kind} in {} bytes: {}", block.len(), frames(&trace)));
    drop(looking);
    LOOKS.set(true);
}

/// Returns where in other libraries the innermost functions on the stack are.
fn frames(trace: &str) -> String {
    let files = trace.lines().filter_map(|line| line.trim().strip_prefix("at "));
    let files = files.filter_map(|file| file.split_once("/registry/src/").or(file.split_once("./src/")));
    files.map(|(_, file)| file.split_once('/').map_or(file, |(_, file)| file)).take(5).collect::<Vec<_>>().join(" < ")
}

/// Looks at blocks that this thread frees while a future is polled to its end, and for a moment more.
async fn watch<F: Future>(work: F) -> F::Output {
    LOOKS.set(true);
    let value = work.await;
    // Connections that were given up are cleaned up by tasks of their own.
    tokio::time::sleep(Duration::from_millis(100)).await;
    LOOKS.set(false);
    value
}

/// Returns what was found since the last time, and prints where.
fn found(what: &str) -> Found {
    let mut looking = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    for place in looking.places.drain(..) {
        println!("{what}: {place}");
    }
    println!("{what}: {:?}", looking.found);
    std::mem::take(&mut looking.found)
}

/// Has a service wrap system keys while blocks are looked at; gives up after a time, where there is one.
struct Watched {
    kms: AwsKms,
    give_up: Option<Duration>,
    wrapped: Arc<Mutex<Option<Vec<u8>>>>,
}

#[async_trait]
impl KeyManagementService for Watched {
    async fn encrypt_key(&self, key: SystemKey<'_>) -> Result<Vec<u8>, KmsError> {
        let call = async {
            let mut call = pin!(self.kms.encrypt_key(key));
            let call = poll_fn(|context| {
                // One that panics ends as one that fails.
                let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context)));
                polled.unwrap_or(Poll::Ready(Err(KmsError::undecryptable())))
            });
            tokio::time::timeout(self.give_up.unwrap_or(Duration::MAX), call).await
        };
        let wrapped = watch(call).await.unwrap_or(Err(KmsError::undecryptable()));
        *self.wrapped.lock().unwrap_or_else(PoisonError::into_inner) = wrapped.ok();
        Err(KmsError::undecryptable())
    }

    async fn decrypt_key(&self, _: &[u8]) -> Result<SecretSlice<u8>, KmsError> {
        Err(KmsError::undecryptable())
    }

    fn repeats_calls(&self) -> bool {
        true
    }
}

/// What an application may put into its clients: panics when a request to wrap a key is about to be sent.
#[derive(Debug)]
struct Panics(Arc<AtomicUsize>);

impl Intercept for Panics {
    fn name(&self) -> &'static str {
        "Panics"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        resume_unwind(Box::new("as it should"))
    }
}

/// Returns a wrapped key, if it was wrapped.
async fn wrap(kms: &AwsKms, give_up: Option<Duration>) -> TestResult<Option<Vec<u8>>> {
    let wrapped = Arc::new(Mutex::default());
    let watched = Watched { kms: kms.clone(), give_up, wrapped: Arc::clone(&wrapped) };
    let builder = SessionFactory::builder("svc", "prod").metastore(InMemoryMetastore::new()).kms(watched);
    let factory = builder.build().await?;
    assert!(factory.session("alice").await?.encrypt(b"tea").await.is_err());
    factory.close().await?;
    Ok(wrapped.lock().unwrap_or_else(PoisonError::into_inner).take())
}

/// Regions, all of which make the key that is known.
async fn stage() -> TestResult<Option<Stage>> {
    let Some(stage) = Stage::new(&ORDER).await? else { return Ok(None) };
    for place in &stage.places {
        let wrapped = place.direct.encrypt().key_id(&place.arn).plaintext(Blob::new(KEY)).send().await?;
        let wrapped = BASE64.encode(wrapped.ciphertext_blob.ok_or("no wrapped key")?);
        // The proxy writes it with a space where requests have none.
        let answer =
            json!({"CiphertextBlob": wrapped, "KeyId": place.arn, "Plaintext": format!("{}", BASE64.encode(KEY))});
        place.proxy.set_for("GenerateDataKey", AwsFault::Answer(answer));
    }
    Ok(Some(stage))
}

/// One story: all of them are told one after the other, as what is found belongs to the process.
#[tokio::test]
async fn data_keys_are_wiped_on_every_path() -> TestResult {
    assert_eq!(BASE64.encode(KEY).as_bytes(), KEY_TEXT);
    the_allocator_finds_what_is_not_wiped().await;
    let Some(stage) = stage().await? else { return Ok(()) };
    let refuse = || AwsFault::error(400, "AccessDeniedException");
    let kms = || stage.kms(|options| options.retries.attempt_timeout = Duration::from_secs(20));

    let alone = stage.kms_of(&[0], |_| {})?;
    assert!(wrap(&alone, None).await?.is_some());
    let received = found("one region");
    assert_eq!((received.raw, received.sent), (0, 0));

    let row = wrap(&kms()?, None).await?.ok_or("it was wrapped")?;
    assert_eq!(found("three regions"), received, "only what was received is left");

    stage.places[2].proxy.set_for("Encrypt", refuse());
    assert!(wrap(&kms()?, None).await?.is_none());
    assert_eq!(found("one region refuses"), received);

    stage.places[2].proxy.set_for("Encrypt", AwsFault::Swallow);
    assert!(wrap(&kms()?, Some(Duration::from_secs(2))).await?.is_none());
    assert_eq!(found("given up while wrapping"), received);

    let partly = stage.kms(|options| options.min_regions = Some(1))?;
    stage.places[1].proxy.set_for("Encrypt", refuse());
    stage.places[2].proxy.set_for("Encrypt", refuse());
    let missing = wrap(&partly, None).await?.ok_or("one is enough")?;
    assert_eq!(regions(&missing)?.len(), 1);
    assert_eq!(found("one is enough"), received);

    let panics = Arc::new(AtomicUsize::new(0));
    let clients = stage.places.iter().map(|place| {
        let is_last = place.name == ORDER[2];
        let config = place.client.config().to_builder();
        let panics = is_last.then(|| Panics(Arc::clone(&panics)));
        aws_sdk_kms::Client::from_conf(
            panics.into_iter().fold(config, aws_sdk_kms::config::Builder::interceptor).build(),
        )
    });
    let panicking = AwsKms::from_clients(clients, stage.options()?)?;
    stage.places[1].proxy.set_for("Encrypt", AwsFault::None);
    assert!(wrap(&panicking, None).await?.is_none());
    assert_eq!((found("a client panics"), panics.load(Ordering::Relaxed)), (received, 1));

    // Opening: as it should be, by the second region, under another data key, and given up.
    watch(async { kms()?.decrypt_key(&row).await.map_err(TestError::from) }).await?;
    let opened = found("opened");
    assert_eq!((opened.raw, opened.sent), (0, 0));
    stage.places[0].proxy.set_for("Decrypt", refuse());
    watch(async { kms()?.decrypt_key(&row).await.map_err(TestError::from) }).await?;
    assert_eq!(found("opened by the second").raw, 0);
    stage.places[0].proxy.set_for("Decrypt", AwsFault::None);
    let mut other = kms_support::envelope(&row)?;
    other["encryptedKey"] = BASE64.encode([7; 60]).into();
    let refused =
        watch(async { kms()?.decrypt_key(other.to_string().as_bytes()).await.map_err(TestError::from) }).await;
    assert!(refused.is_err());
    assert_eq!(found("does not open").raw, 0);
    for wait in [1, 5, 10, 20, 40] {
        let give_up = Duration::from_millis(wait);
        let kms = kms()?;
        let _ = watch(tokio::time::timeout(give_up, kms.decrypt_key(&row))).await;
        assert_eq!(found("opening given up").raw, 0);
    }

    // Repairing: as it should be, refused, and given up.
    for (what, fault) in
        [("repair refused", refuse()), ("repair given up", AwsFault::Swallow), ("repaired", AwsFault::None)]
    {
        stage.places[1].proxy.set_for("Encrypt", fault.clone());
        stage.places[2].proxy.set_for("Encrypt", fault);
        let kms = kms()?;
        let repaired = watch(tokio::time::timeout(Duration::from_secs(3), kms.repair_key(&missing))).await;
        assert_eq!(matches!(repaired, Ok(Ok(Some(_)))), what == "repaired", "{what}: {repaired:?}");
        let found = found(what);
        assert_eq!((found.raw, found.sent), (0, 0), "{what}");
    }
    Ok(())
}

type TestError = Box<dyn std::error::Error + Send + Sync>;

/// What it looks for is found where it is left.
async fn the_allocator_finds_what_is_not_wiped() {
    let text = std::str::from_utf8(&KEY_TEXT).unwrap_or_default();
    watch(async {
        drop(std::hint::black_box([[0; 10].as_slice(), &KEY].concat()));
        drop(std::hint::black_box(format!(r#"{{"Plaintext":"{text}"}}"#)));
        drop(std::hint::black_box(format!(r#"{{"Plaintext": "{text}"}}"#)));
        let mut grows = KEY.to_vec();
        grows.reserve(1 << 20);
        zeroize::Zeroize::zeroize(&mut grows);
    })
    .await;
    assert_eq!(found("the control"), Found { raw: 2, sent: 1, text: 1 });
}
