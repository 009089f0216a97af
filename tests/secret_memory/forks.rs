//! What a forked child has of its parent's keys, and what it can do to them.

use std::fmt;

use keyward::MemoryError;
use keyward::memory::{Vault, init, purge};

use crate::TestResult;
use crate::key::{self, Seed};
use crate::needs::Need;
use crate::os;
use crate::raw::{self, RawPages};
use crate::stage::{self, NO_TIME, Scenario, Stage};
use crate::suite::{Property, control};
use crate::victim::Victim;

pub(crate) const PROPERTIES: &[Property] = &[
    Property {
        name: "a forked child gets an error for every key on locked memory and cannot harm its parent",
        needs: &[],
        check: || a_child_gets_errors("mlock"),
    },
    Property {
        name: "a forked child gets an error for every key on memfd_secret and cannot harm its parent",
        needs: &[Need::MemfdSecret],
        check: || a_child_gets_errors("memfd_secret"),
    },
    Property {
        name: "a forked child finds the arena of locked memory zeroed",
        needs: &[],
        check: a_child_finds_zeroes,
    },
    Property {
        name: "a forked child does not find an arena of memfd_secret at all",
        needs: &[Need::MemfdSecret],
        check: a_child_finds_nothing,
    },
];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: FORKING, play: fork_with_keys },
    Scenario { name: RAW, play: fork_with_raw_memory },
    Scenario { name: LOOKING, play: look_in_a_fork },
];

const FORKING: &str = "forking";
const RAW: &str = "forking-raw";
const LOOKING: &str = "forking-looking";
const SEED: Seed = Seed(41);

fn a_child_gets_errors(backend: &str) -> TestResult {
    a_child_of_plain_memory_sees_the_key()?;
    holds(format_args!("{FORKING} {SEED} {backend}"))
}

fn a_child_finds_zeroes() -> TestResult {
    a_child_of_plain_memory_sees_the_key()?;
    holds(format_args!("{LOOKING} {SEED} mlock zeroes"))
}

fn a_child_finds_nothing() -> TestResult {
    let what = "the child of plain memfd_secret sees the key, and its wipe reaches the parent";
    leaks(format_args!("{RAW} {SEED} secret"), what)?;
    holds(format_args!("{LOOKING} {SEED} memfd_secret fault"))
}

fn a_child_of_plain_memory_sees_the_key() -> TestResult {
    leaks(format_args!("{RAW} {SEED} plain"), "the child of plain memory sees the key")
}

/// Plays a scenario that checks itself and is to hold.
fn holds(scenario: fmt::Arguments<'_>) -> TestResult {
    Victim::start(scenario)?.end()?.well()
}

/// Plays a control that checks itself, and shows that `what` is so without protection.
fn leaks(scenario: fmt::Arguments<'_>, what: &str) -> TestResult {
    let outcome = holds(scenario);
    control(outcome.is_ok(), &format!("not so: {what}: {outcome:?}"))
}

fn fork_with_keys(stage: &Stage) -> TestResult {
    let settings = stage::arena(stage::backend(stage));
    let vault = Vault::open(&settings)?;
    let seed = stage.seed(0)?;
    let resident = stage::import(&vault, seed)?;
    // One that is not resident: others took its place.
    let cold = stage::import(&vault, seed)?;
    let mut others = Vec::new();
    for _ in 0..3 * vault.status().slots {
        resident.using(|_| ())?;
        others.push(vault.generate(b"other")?);
    }
    assert!(vault.status().cold > 0, "{:?}", vault.status());
    let wrapped = resident.wrap(&cold, &[1; 12])?;
    let child = || {
        let forked = |error: Option<MemoryError>| matches!(error, Some(MemoryError::Forked));
        for key in [&resident, &cold].into_iter().chain(&others) {
            let wrap = key.using(|lease| lease.wrap(&[0; 32], &[2; 12], &[]));
            demand(forked(wrap.err()), 10);
            demand(forked(key.wrap(&resident, &[3; 12]).err()), 11);
            demand(forked(vault.unwrap(b"child", key, &wrapped).err()), 12);
        }
        demand(forked(vault.generate(b"child").err()), 13);
        demand(forked(vault.import(b"child", &mut [1; 32]).err()), 14);
        demand(forked(vault.maintain(std::time::Instant::now()).err()), 15);
        vault.close(NO_TIME);
        purge();
        // A vault of the child's own works, and is not the parent's.
        let own = init(&settings).and_then(|_| Vault::open(&settings)).and_then(|own| own.generate(b"own"));
        demand(own.is_ok_and(|key| key.using(|_| ()).is_ok()), 16);
        drop((vault.clone(), resident.clone()));
        purge();
        std::process::exit(7);
    };
    let status = os::in_fork(child)?;
    assert_eq!(status.code(), Some(7), "the child ends where it should: {status}");
    let expected = key::wrap(&seed.key(), &seed.key(), &[1; 12])?;
    assert_eq!(resident.wrap(&cold, &[1; 12])?, expected, "the parent's keys are as they were");
    vault.unwrap(b"child", &cold, &wrapped)?;
    others.iter().try_for_each(|key| key.using(|_| ()))?;
    vault.generate(b"another")?;
    Ok(())
}

/// Ends a child that got what it should not.
fn demand(holds: bool, code: i32) {
    if !holds {
        os::exit_now(code);
    }
}

/// The controls: pages about which nothing was done.
fn fork_with_raw_memory(stage: &Stage) -> TestResult {
    let seed = stage.seed(0)?;
    let secret = stage.has("secret");
    let mut pages = if secret { RawPages::map_secret(4096)? } else { RawPages::map(4096)? };
    seed.fill(pages.key());
    let status = os::in_fork(|| {
        let mut pages = pages;
        demand(*pages.key() == seed.key(), 20);
        pages.key().fill(0);
    })?;
    assert_eq!(status.code(), Some(0), "the child sees the key: {status}");
    assert_eq!(*pages.key() == [0; 32], secret, "the child's wipe reaches the parent where memory is shared");
    Ok(())
}

/// Reads the whole arena in a child, as a bug or an attacker would.
fn look_in_a_fork(stage: &Stage) -> TestResult {
    let vault = Vault::open(&stage::arena(stage::backend(stage)))?;
    let key = stage::import(&vault, stage.seed(0)?)?;
    let arena = crate::guards::arena(vault.status().locked_bytes, "rw")?;
    let is_zeroed = || (arena.start..arena.end).all(|address| raw::stray_read(address) == 0);
    assert!(!is_zeroed(), "the parent's is not empty");
    let status = os::in_fork(|| demand(is_zeroed(), 30))?;
    let as_expected = if stage.has("fault") {
        std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGSEGV)
    } else {
        status.code() == Some(0)
    };
    assert!(as_expected, "{status}");
    drop(key);
    Ok(())
}
