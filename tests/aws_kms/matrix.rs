//! Every set of three regions that are down, and every way to be so: what is wrapped, who opens it, and who is asked how often.

use std::fmt::{self, Write as _};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use keyward::kms::{AwsKms, Hedge, KeyManagementService, KmsError, KmsFailure, KmsFailureKind as Kind};
use secrecy::ExposeSecret;

use crate::kms_support::{ORDER, Stage, TestResult, regions, text, wrap};
use crate::servers::AwsFault;

/// How often a failure that may pass is asked for again, and once more.
const ATTEMPTS: u32 = 2;

/// How long an answer may take where there is none.
const TIMEOUT: Duration = Duration::from_secs(1);

/// One set of regions that are down, in the order in which they are asked, and what comes of it.
struct Row {
    down: [bool; 3],
    /// How often each is asked for a data key.
    generate: Asked,
    /// How often each is asked to wrap one.
    encrypt: Asked,
    /// Whom a key is wrapped for, where that is enough.
    wrapped: &'static [usize],
    /// How often each is asked to open a key that is wrapped for all.
    decrypt: Asked,
}

/// How often each region is asked, where `R` stands for once when the failure stays, and for every attempt when it may pass.
type Asked = [usize; 3];
const R: usize = usize::MAX;

const UP: bool = false;
const DOWN: bool = true;

#[rustfmt::skip]
const ROWS: [Row; 8] = [
    Row { down: [UP, UP, UP],       generate: [1, 0, 0], encrypt: [0, 1, 1], wrapped: &[0, 1, 2], decrypt: [1, 0, 0] },
    Row { down: [DOWN, UP, UP],     generate: [1, 1, 0], encrypt: [R, 0, 1], wrapped: &[1, 2],    decrypt: [1, 1, 0] },
    Row { down: [UP, DOWN, UP],     generate: [1, 0, 0], encrypt: [0, R, 1], wrapped: &[0, 2],    decrypt: [1, 0, 0] },
    Row { down: [UP, UP, DOWN],     generate: [1, 0, 0], encrypt: [0, 1, R], wrapped: &[0, 1],    decrypt: [1, 0, 0] },
    Row { down: [DOWN, DOWN, UP],   generate: [1, 1, 1], encrypt: [R, R, 0], wrapped: &[2],       decrypt: [1, 1, 1] },
    Row { down: [DOWN, UP, DOWN],   generate: [1, 1, 0], encrypt: [R, 0, R], wrapped: &[1],       decrypt: [1, 1, 0] },
    Row { down: [UP, DOWN, DOWN],   generate: [1, 0, 0], encrypt: [0, R, R], wrapped: &[0],       decrypt: [1, 0, 0] },
    Row { down: [DOWN, DOWN, DOWN], generate: [R, R, R], encrypt: [0, 0, 0], wrapped: &[],        decrypt: [R, R, R] },
];

/// A way to be down.
struct Class {
    name: &'static str,
    fault: AwsFault,
    kind: Kind,
    /// Whether requests can be counted where they arrive.
    arrives: bool,
}

fn classes() -> Vec<Class> {
    let class = |name, kind, fault| Class { name, fault, kind, arrives: true };
    let error = |name, kind, status, code| class(name, kind, AwsFault::error(status, code));
    vec![
        error("access denied", Kind::AccessDenied, 400, "AccessDeniedException"),
        error("disabled", Kind::KeyDisabled, 400, "DisabledException"),
        error("not found", Kind::KeyNotFound, 400, "NotFoundException"),
        error("expired credentials", Kind::Credentials, 400, "ExpiredTokenException"),
        error("tampered", Kind::Tampered, 400, "InvalidCiphertextException"),
        class("HTML page", Kind::Refused, AwsFault::Page(200, "<html>Please log in</html>")),
        error("throttled", Kind::Throttled, 400, "ThrottlingException"),
        error("5xx", Kind::Unavailable, 500, "KMSInternalException"),
        class("HTML page, 502", Kind::Unavailable, AwsFault::Page(502, "<html>Bad gateway</html>")),
        class("timeout", Kind::Timeout, AwsFault::Swallow),
        class("cut", Kind::Network, AwsFault::Cut),
        class("cut answer", Kind::Network, AwsFault::CutAnswer),
        Class { name: "refused", fault: AwsFault::Refuse, kind: Kind::Network, arrives: false },
    ]
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// A key that is wrapped for so many regions; `None`: for all.
    Wrap(Option<usize>),
    Open,
}

const WANTED: [Wanted; 4] = [Wanted::Wrap(None), Wanted::Wrap(Some(2)), Wanted::Wrap(Some(1)), Wanted::Open];

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrap(None) => f.write_str("wrap, min all"),
            Self::Wrap(Some(least)) => write!(f, "wrap, min {least}"),
            Self::Open => f.write_str("open"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_set_of_regions_may_be_down_in_every_way() -> TestResult {
    if Stage::new(&[]).await?.is_none() {
        return Ok(());
    }
    let classes = classes();
    let wanted: Vec<(&Class, Wanted)> = classes.iter().flat_map(|class| WANTED.map(|wanted| (class, wanted))).collect();
    let told: Vec<Vec<String>> =
        stream::iter(wanted).map(|(class, wanted)| column(class, wanted)).buffered(8).try_collect().await?;
    let mut table = format!("{:>22} |", "regions that are down");
    for class in &classes {
        write!(table, " {:>22} |", class.name)?;
    }
    for (at, row) in ROWS.iter().enumerate() {
        let states: String = row.down.iter().map(|down| if *down { 'x' } else { '.' }).collect();
        for (number, wanted) in WANTED.iter().enumerate() {
            write!(table, "\n{:>22} |", format!("{states} {wanted}"))?;
            for columns in told.chunks(WANTED.len()) {
                write!(table, " {:>22} |", columns[number][at])?;
            }
        }
    }
    println!("{table}");
    Ok(())
}

/// Goes through all rows for a way to be down, and returns what came of each.
async fn column(class: &Class, wanted: Wanted) -> TestResult<Vec<String>> {
    let stage = Stage::new(&ORDER).await?.ok_or("there was moto a moment ago")?;
    let mut cells = Vec::new();
    for row in &ROWS {
        let told = match wanted {
            Wanted::Wrap(least) => wraps(&stage, class, row, least).await,
            Wanted::Open => opens(&stage, class, row).await,
        };
        cells.push(told.map_err(|error| format!("{}, {:?}, {wanted}: {error}", class.name, row.down))?);
    }
    Ok(cells)
}

fn kms(stage: &Stage, class: &Class, least: Option<usize>) -> TestResult<AwsKms> {
    stage.kms(|options| {
        options.min_regions = least;
        options.hedge = Hedge::Off;
        options.retries.attempts = ATTEMPTS;
        options.retries.first_delay = Duration::from_millis(1);
        if class.kind == Kind::Timeout {
            options.retries.attempt_timeout = TIMEOUT;
        }
        options.request_timeout = 4 * TIMEOUT;
    })
}

/// Sets who is down.
fn set(stage: &Stage, class: &Class, row: &Row) {
    for (place, down) in stage.places.iter().zip(row.down) {
        place.proxy.set(if down { class.fault.clone() } else { AwsFault::None });
    }
    stage.forget();
}

async fn wraps(stage: &Stage, class: &Class, row: &Row, least: Option<usize>) -> TestResult<String> {
    set(stage, class, row);
    let kms = kms(stage, class, least)?;
    let wrapped = wrap(&kms).await?;
    let least = least.unwrap_or(3);
    let told = match &wrapped.outcome {
        Ok(envelope) => {
            assert!(row.wrapped.len() >= least, "{}", String::from_utf8_lossy(envelope));
            let expected: Vec<&str> = row.wrapped.iter().map(|&at| ORDER[at]).collect();
            assert_eq!(regions(envelope)?, expected, "in the order in which they are asked");
            let missed: Vec<u64> = kms.health().iter().map(|health| health.missed_wraps).collect();
            assert_eq!(missed, row.down.map(u64::from), "{}", class.name);
            let names: Vec<String> = row.wrapped.iter().map(|at| (at + 1).to_string()).collect();
            format!("for {}", names.join(" "))
        }
        Err(error) => {
            assert!(row.wrapped.len() < least, "{error}");
            // Where somebody made a data key, those told of are the ones that did not wrap it.
            assert!(matches!(error, KmsError::Failed { .. }), "{error:?}");
            assert_failures(error, class, row)?;
            "none".to_owned()
        }
    };
    let is_asked = row.generate.iter().zip(row.encrypt).map(|(generate, encrypt)| [*generate, encrypt, 0]).collect();
    assert_asked(stage, &kms, class, row, is_asked);
    Ok(told + &counts(stage, class))
}

async fn opens(stage: &Stage, class: &Class, row: &Row) -> TestResult<String> {
    set(stage, class, &ROWS[0]);
    let wrapped = wrap(&kms(stage, class, None)?).await?;
    set(stage, class, row);
    let kms = kms(stage, class, None)?;
    let told = match kms.decrypt_key(&wrapped.outcome?).await {
        Ok(key) => {
            assert_eq!(key.expose_secret(), wrapped.key);
            let by = row.down.iter().position(|down| !down).ok_or("all are down")?;
            format!("by {}", by + 1)
        }
        Err(error) => {
            assert_eq!(row.down, [DOWN; 3], "{error}");
            let is_about_bytes = class.kind == Kind::Tampered;
            assert_eq!(matches!(error, KmsError::Undecryptable { .. }), is_about_bytes, "{error:?}");
            assert_failures(&error, class, row)?;
            "none".to_owned()
        }
    };
    assert_asked(stage, &kms, class, row, row.decrypt.iter().map(|decrypt| [0, 0, *decrypt]).collect());
    Ok(told + &counts(stage, class))
}

/// Each region that is down is told of, in the order in which they are asked, with what it failed with.
fn assert_failures(error: &KmsError, class: &Class, row: &Row) -> TestResult {
    let (KmsError::Failed { failures, .. } | KmsError::Undecryptable { failures }) = error else {
        return Err(format!("{error:?}").into());
    };
    let told: Vec<(&str, Kind)> = failures.iter().map(|failure| (failure.place.as_str(), failure.kind)).collect();
    let down = ORDER.iter().zip(row.down).filter(|(_, down)| *down);
    let expected: Vec<(&str, Kind)> = down.map(|(name, _)| (*name, class.kind)).collect();
    assert_eq!(told, expected, "{}: {error}", class.name);
    assert_eq!(error.is_transient(), class.kind.is_transient());
    let text = text(error);
    for KmsFailure { place, kind, .. } in failures {
        assert!(text.contains(&format!("{place}: {kind} (")), "{text}");
    }
    Ok(())
}

fn assert_asked(stage: &Stage, kms: &AwsKms, class: &Class, row: &Row, expected: Vec<Asked>) {
    let repeated = if class.kind.is_transient() { ATTEMPTS as usize } else { 1 };
    for ((place, expected), health) in stage.places.iter().zip(expected).zip(kms.health()) {
        let expected = expected.map(|times| if times == R { repeated } else { times });
        let words = format!("{}, {:?}: {}", class.name, row.down, place.name);
        assert_eq!(health.calls, expected.iter().sum::<usize>() as u64, "{words}: {health:?}");
        if class.arrives {
            assert_eq!(place.asked(), expected, "{words}");
        }
    }
}

/// Returns how many requests each region got.
fn counts(stage: &Stage, class: &Class) -> String {
    if !class.arrives {
        return String::new();
    }
    let counts: Vec<String> =
        stage.places.iter().map(|place| place.asked().iter().sum::<usize>().to_string()).collect();
    format!(", asked {}", counts.join(" "))
}
