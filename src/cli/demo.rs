//! `keyward demo`: the whole story on one screen.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward::stores::KeyRow;
use keyward::{Clock, DataRowRecord, Error, ManualClock, SessionFactory, Status};
use zeroize::Zeroizing;

use super::config::Config;
use super::ending::Ending;
use super::error::Failure;
use super::input::{Input, Limit};
use super::keys::all_keys;
use super::kms_address::KmsAddress;
use super::open::{Store, block_on};
use super::open_kms::Kms;
use super::options::{Demo, Visible};
use super::output::print;
use super::store_address::StoreAddress;
use super::table::{Listing, to_table};

const README: &str = "README.md";
const BUILT_IN: &str = "There is no README.md in this folder, so this sentence stands in for it.\n";
const GREETING: &[u8] = b"a short payload";

/// Columns that a line of the story takes at most.
const LINE: usize = 98;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Plays the story and prints it when it went well to its end.
///
/// # Errors
/// [`Failure`]; the folder is removed whatever happens.
pub(super) fn run(config: &Config, options: &Demo, visible: &Visible, ending: &Ending) -> Result<(), Failure> {
    let (name, payload) = payload(options.file.as_deref(), config.max_payload)?;
    let make = || tempfile::Builder::new().prefix("keyward-demo-").tempdir().map_err(Failure::Folder);
    let remove = |path| drop(std::fs::remove_dir_all(path));
    let folder = ending.undoing(make, |folder| folder.path().to_owned(), remove)?;
    let story = block_on(async { tell(&Stage::new(config, visible, folder.path()).await?, &name, &payload).await });
    let removed = folder.close().map_err(Failure::Folder);
    let story = story?;
    removed?;
    print(&story)
}

/// Where the story is played.
struct Stage {
    store: Store,
    kms: Kms,
    service: String,
    max_payload: usize,
    /// What they are, for the first line.
    place: String,
    /// What is left of it, for the last one.
    remains: String,
}

impl Stage {
    /// Takes the store and the master key that the command line names, and makes in `folder` what it does not name.
    async fn new(config: &Config, visible: &Visible, folder: &Path) -> Result<Self, Failure> {
        let new = StoreAddress::Sqlite(folder.join("demo.db"));
        let address = if visible.store { &config.store } else { &new };
        let store = Store::open(address).await?;
        let kms = if visible.kms { config.kms.clone() } else { KmsAddress::Local(folder.join("demo.key")) };
        // Its service has no keys yet, so a new master key does them no harm.
        let kms = Kms::open(&kms, true).await?;
        let (service, place, remains) = if visible.store {
            // Keys of its own: those of others are left alone.
            let service = format!("demo{:x}", SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros());
            let place = format!("a service {service} of its own in\n{address}\n");
            let remains = format!("Its keys stay in the store: those whose id ends in _{service}_eu.");
            (service, place, remains)
        } else {
            let what = if visible.kms { "a new SQLite store" } else { "a new SQLite store and master key" };
            let place = format!("{what} in\n{}\n", folder.display());
            ("app".to_owned(), place, "The folder is removed.".to_owned())
        };
        Ok(Self { store, kms, service, max_payload: config.max_payload, place, remains })
    }
}

/// Reads what to encrypt; only the default file may be absent.
fn payload(file: Option<&Path>, max_payload: usize) -> Result<(String, Zeroizing<Vec<u8>>), Failure> {
    let path = match file {
        Some(path) => path,
        None if Path::new(README).exists() => Path::new(README),
        None => return Ok(("a built-in text".to_owned(), Zeroizing::new(BUILT_IN.as_bytes().to_vec()))),
    };
    let bytes = Input::open(path)?.read(Limit::of_payload(max_payload))?;
    let mut name: String = path.display().to_string().chars().filter(|character| !character.is_control()).collect();
    if name.chars().count() > 40 {
        name = path.file_name().map_or(name, |name| name.to_string_lossy().chars().take(40).collect());
    }
    Ok((name, bytes))
}

/// Plays the story.
async fn tell(stage: &Stage, name: &str, payload: &[u8]) -> Result<String, Failure> {
    let clock = Arc::new(ManualClock::at(SystemTime::now()));
    let factory = SessionFactory::builder(&stage.service, "eu")
        .metastore(Arc::clone(&stage.store.keys))
        .kms(Arc::clone(&stage.kms.keys))
        .clock(Arc::clone(&clock))
        .max_payload(stage.max_payload)
        .build()
        .await?;
    let mut story = format!("keyward demo: two tenants, {name} ({} bytes), and {}", payload.len(), stage.place);
    two_tenants(&mut story, &factory, payload).await?;
    rotation(&mut story, &factory, &clock, payload).await?;

    let keys = all_keys(&*stage.store.admin).await?;
    let suffix = format!("_{}_eu", stage.service);
    let is_own = |row: &KeyRow| row.key.id.as_str().contains(&suffix);
    let listing = Listing::new(&keys, is_own, 90 * DAY, clock.now());
    heading(
        &mut story,
        "4. What the store holds: keys, each wrapped by its parent, the system keys by the master key.",
    );
    story.push_str(&to_table(&listing));

    let status = factory.status();
    heading(&mut story, "5. Keys in the clear live in secret memory only.");
    locked_memory(&mut story, &status);
    factory.close().await?;
    let _ = writeln!(story, "   Closed: {} keys are left in it.", factory.status().live_keys);
    let _ = writeln!(story, "\n{} Next: keyward encrypt --help", stage.remains);
    Ok(story)
}

async fn two_tenants(story: &mut String, factory: &SessionFactory, payload: &[u8]) -> Result<(), Failure> {
    let alice = factory.session("alice").await.map_err(Failure::Encrypt)?;
    let bob = factory.session("bob").await.map_err(Failure::Encrypt)?;

    heading(story, "1. Each tenant's data is encrypted under keys of its own.");
    for session in [&alice, &bob] {
        let record = session.encrypt(payload).await.map_err(Failure::Encrypt)?;
        let plain = Zeroizing::new(session.decrypt(&record).await.map_err(Failure::Decrypt)?);
        if *plain != payload {
            return Err(Failure::Demo("what was decrypted is not what was encrypted"));
        }
        let (bytes, tenant) = (record.to_json().len(), session.partition());
        let _ = writeln!(story, "   {tenant:<5}  record of {bytes} bytes; decrypted again: all bytes are equal");
    }
    let _ = writeln!(story, "   A record is JSON. This is {:?} of alice:", String::from_utf8_lossy(GREETING));
    let json = alice.encrypt_json(GREETING).await.map_err(Failure::Encrypt)?;
    show_record(story, &json);

    heading(story, "2. Bob opens alice's record:");
    match bob.decrypt_json(&json).await {
        Err(error @ Error::WrongPartition) => {
            let _ = writeln!(story, "   refused: {error}");
            Ok(())
        }
        _ => Err(Failure::Demo("bob was not refused")),
    }
}

async fn rotation(
    story: &mut String,
    factory: &SessionFactory,
    clock: &ManualClock,
    payload: &[u8],
) -> Result<(), Failure> {
    let alice = factory.session("alice").await.map_err(Failure::Encrypt)?;
    let old = alice.encrypt(payload).await.map_err(Failure::Encrypt)?;
    clock.advance(91 * DAY);
    let new = alice.encrypt(payload).await.map_err(Failure::Encrypt)?;
    let created = |record: &DataRowRecord| record.parent_key().created;
    if created(&new) <= created(&old) {
        return Err(Failure::Demo("the key did not change"));
    }
    for record in [&old, &new] {
        if *Zeroizing::new(alice.decrypt(record).await.map_err(Failure::Decrypt)?) != payload {
            return Err(Failure::Demo("what was decrypted is not what was encrypted"));
        }
    }
    heading(story, "3. The clock is set 91 days ahead; keys encrypt for 90.");
    let _ = writeln!(
        story,
        "   alice's next record is under a new key, created {} instead of {},",
        created(&new),
        created(&old)
    );
    let _ = writeln!(story, "   and her old record still decrypts to the same bytes.");
    Ok(())
}

fn locked_memory(story: &mut String, status: &Status) {
    let memory = &status.memory;
    let limit = match memory.soft_limit {
        u64::MAX => "unlimited".to_owned(),
        bytes => format!("{bytes} bytes"),
    };
    let _ = writeln!(
        story,
        "   backend {}, {} bytes (it may lock: {limit}), {} keys in it, room for {}",
        memory.backend, memory.locked_bytes, status.live_keys, memory.slots,
    );
    let mut line = "   protections:".to_owned();
    for protection in memory.protections.iter().filter(|protection| protection.active) {
        if line.len() + protection.name.len() > LINE {
            let _ = writeln!(story, "{line}");
            line = "    ".to_owned();
        }
        let _ = write!(line, " {};", protection.name);
    }
    let _ = writeln!(story, "{}", line.trim_end_matches(';'));
}

fn heading(story: &mut String, text: &str) {
    // Writing to a string does not fail, here and above.
    let _ = writeln!(story, "\n{text}");
}

/// Breaks the one line of a record before its fields.
fn show_record(story: &mut String, json: &[u8]) {
    let mut text = String::from_utf8_lossy(json).into_owned();
    for field in [r#""Key":""#, r#""ParentKeyMeta":"#, r#""Data":"#] {
        text = text.replacen(field, &format!("\n     {field}"), 1);
    }
    let _ = writeln!(story, "     {text}");
}
