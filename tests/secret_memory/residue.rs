//! What operations leave on stacks and the heap. Release builds leave other traces than debug builds do, so both are tried.

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Waker};

use aes_gcm::aead::{AeadInOut, KeyInit};
use keyward::memory::{Backend, Vault, init};
use keyward::{DataRowRecord, Error};
use tempfile::TempDir;

use crate::TestResult;
use crate::key::Seed;
use crate::needs::Need;
use crate::raw::RawPages;
use crate::reading;
use crate::scan::{self, Needles};
use crate::stage::{self, Scenario, Stage};
use crate::suite::{Property, control};
use crate::victim::Victim;
use crate::world::{World, learn_keys};

pub(crate) const PROPERTIES: &[Property] = &[
    Property {
        name: "no single use of a key leaves any of it on the stack or the heap",
        needs: &[Need::MemfdSecret],
        check: no_use_leaves_a_key,
    },
    Property {
        name: "operations that work, fail or are cancelled leave no key on the stack or the heap",
        needs: &[Need::MemfdSecret],
        check: operations_leave_no_key,
    },
];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: USES, play: use_in_turn },
    Scenario { name: OPERATIONS, play: operate },
    Scenario { name: NAIVE, play: operate_naively },
];

const USES: &str = "uses";
const OPERATIONS: &str = "operations";
const NAIVE: &str = "operations-naive";
const MASTER: Seed = Seed(71);
const SETTLED: usize = 12;

/// Searches after each use, before others write over what it left.
fn no_use_leaves_a_key() -> TestResult {
    a_cipher_on_the_stack_leaves_its_key()?;
    let needles = Needles::of([&MASTER.key()]);
    let mut victim = Victim::start(format_args!("{USES} {MASTER}"))?;
    let mut uses = 0;
    loop {
        let what = victim.line()?;
        if what == "end" {
            break;
        }
        let found = victim.search(&needles)?;
        assert!(found.is_clean(), "{what}: {found}");
        uses += 1;
        victim.tell("go")?;
    }
    assert_eq!(uses, 10);
    victim.end()?.well()
}

/// Uses one key in every way, resident and not, and pauses after each.
fn use_in_turn(stage: &Stage) -> TestResult {
    const PLAIN: [u8; 32] = [7; 32];
    const NONCE: [u8; 12] = [9; 12];
    let vault = Vault::open(&stage::arena(Backend::MemfdSecret))?;
    let key = stage::import(&vault, stage.seed(0)?)?;
    stage.pause("import")?;
    let other = vault.generate(b"other")?;
    let wrapped = key.using(|lease| lease.wrap(&PLAIN, &NONCE, &[]))?;
    stage.pause("wrap of bytes")?;
    let mut changed = wrapped;
    changed[0] ^= 1;
    let mut opened = [0; 32];
    key.using(|lease| lease.unwrap(&wrapped, &[], &mut opened))??;
    stage.pause("unwrap")?;
    assert!(key.using(|lease| lease.unwrap(&changed, &[], &mut opened))?.is_err());
    stage.pause("unwrap that fails")?;
    key.wrap(&other, &NONCE)?;
    stage.pause("wrap of a key")?;
    let wrapped_key = other.wrap(&key, &NONCE)?;
    stage.pause("wrap under another")?;
    vault.unwrap(b"key", &other, &wrapped_key)?;
    stage.pause("unwrap under another")?;
    let others = (0..3 * vault.status().slots).map(|_| vault.generate(b"other")).collect::<Result<Vec<_>, _>>()?;
    assert_eq!(key.using(|lease| lease.wrap(&PLAIN, &NONCE, &[]))?, wrapped);
    stage.pause("use of what is not resident")?;
    vault.promote(&key)?;
    stage.pause("promotion")?;
    drop((key, others));
    stage.pause("drop")?;
    stage.say("end")
}

fn a_cipher_on_the_stack_leaves_its_key() -> TestResult {
    let mut naive = Victim::start(format_args!("{NAIVE} {MASTER}"))?;
    naive.expect("ready")?;
    let left = naive.search(&Needles::of([&MASTER.key()]))?;
    control(!left.is_clean(), "a cipher on the stack leaves no key behind")
}

fn operations_leave_no_key() -> TestResult {
    a_cipher_on_the_stack_leaves_its_key()?;
    let directory = TempDir::new()?;
    let mut victim = Victim::start_in(directory.path(), format_args!("{OPERATIONS} {MASTER}"))?;
    let keys = learn_keys(&mut victim, MASTER)?;
    assert!(keys.len() > SETTLED, "master, system, intermediate and data row keys");
    let needles = Needles::of(&keys);
    victim.expect("ready")?;
    let found = victim.search(&needles)?;
    assert!(found.is_clean(), "{found}");
    victim.tell("save")?;
    let arena = directory.path().join(victim.expect("arena")?);
    control(scan::file(&arena, &needles)? >= 6, "master, system and intermediate key are not where they should be")?;
    for _ in 0..victim.expect("others")?.parse::<usize>()? {
        let other = directory.path().join(victim.expect("other")?);
        assert_eq!(scan::file(&other, &needles)?, 0);
    }
    victim.expect("closed")?;
    let found = victim.search(&needles)?;
    assert!(found.is_clean(), "{found}");
    victim.end()?.well()
}

fn operate(stage: &Stage) -> TestResult {
    let locked = init(&stage::arena(Backend::MemfdSecret))?.locked_bytes;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let world = World::new(stage.seed(0)?).await?;
        let mut records = Vec::new();
        cancel(&world).await?;
        for number in 0..SETTLED {
            let session = world.factory.session(&format!("partition{}", number % 3)).await?;
            let record = session.encrypt(b"payload").await?;
            assert_eq!(session.decrypt(&record).await?, b"payload");
            let changed = with_changed_key(&record);
            assert!(matches!(session.decrypt(&changed).await, Err(Error::Undecryptable)));
            let changed = with_changed_data(&record);
            assert!(matches!(session.decrypt(&changed).await, Err(Error::Undecryptable)));
            records.push(record);
        }
        cancel(&world).await?;
        world.tell_keys(stage, &records).await?;
        stage.pause("ready")?;
        reading::save_hidden_pages(stage, locked)?;
        world.factory.close().await?;
        stage.pause("closed")?;
        Ok(())
    })
}

/// Begins operations whose keys are not loaded, and drops them after so many polls.
async fn cancel(world: &World) -> TestResult {
    for polls in 0..20 {
        let session = world.factory.session(&format!("cancelled{polls}")).await?;
        let mut operation = pin!(session.encrypt(b"payload"));
        for _ in 0..polls {
            if operation.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

fn with_changed_key(record: &DataRowRecord) -> DataRowRecord {
    let mut key = record.encrypted_key().to_vec();
    key[0] ^= 1;
    DataRowRecord::from_parts(record.created(), key, record.parent_key().clone(), record.data().to_vec())
}

fn with_changed_data(record: &DataRowRecord) -> DataRowRecord {
    let mut data = record.data().to_vec();
    data[0] ^= 1;
    let key = record.encrypted_key().to_vec();
    DataRowRecord::from_parts(record.created(), key, record.parent_key().clone(), data)
}

/// The control: a cipher made from a key that is well hidden, used, and left behind.
fn operate_naively(stage: &Stage) -> TestResult {
    let mut pages = RawPages::map_secret(4096)?;
    stage.seed(0)?.fill(pages.key());
    encrypt_on_the_stack(pages.key(), 8)?;
    stage.pause("ready")?;
    Ok(())
}

/// Encrypts so many pages further down the stack: below what calls afterwards write over.
#[inline(never)]
fn encrypt_on_the_stack(key: &[u8; 32], pages: usize) -> TestResult {
    let mut page = black_box([0; 4096]);
    if pages > 0 {
        encrypt_on_the_stack(key, pages - 1)?;
        black_box(&mut page);
        return Ok(());
    }
    let cipher = aes_gcm::Aes256Gcm::new(key.into());
    let tag = cipher.encrypt_inout_detached(&[1; 12].into(), &[], page.as_mut_slice().into());
    black_box(tag).map_err(|_| "a short text")?;
    // What is not dropped is not wiped.
    std::mem::forget(black_box(cipher));
    Ok(())
}
