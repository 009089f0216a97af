//! Stray writes over the arena, and more keys than it holds.

use std::fmt;
use std::time::Instant;

use keyward::MemoryError;
use keyward::memory::{ArenaSettings, Backend, OnDamage, Pages, Vault};

use crate::TestResult;
use crate::guards;
use crate::key::{self, Seed};
use crate::raw;
use crate::stage::{self, Scenario, Stage};
use crate::suite::{Property, control};
use crate::victim::{Ending, Victim};

pub(crate) const PROPERTIES: &[Property] = &[
    Property {
        name: "a process whose arena was overwritten ends with exit code 70 and says so at the next audit",
        needs: &[],
        check: || ends_with_70("audit"),
    },
    Property {
        name: "a process whose arena was overwritten ends with exit code 70 and says so when a key is released",
        needs: &[],
        check: || ends_with_70("release"),
    },
    Property {
        name: "an overwritten arena is wiped and every use of it an error where that is preferred to the end",
        needs: &[],
        check: every_use_is_an_error,
    },
    Property {
        name: "100,000 keys in a budget of 1 MiB all work",
        needs: &[],
        check: || ending(format_args!("{CROWD}"))?.well(),
    },
    Property {
        name: "a use for which no scratch is left is an error at once",
        needs: &[],
        check: || ending(format_args!("{EXHAUSTED}"))?.well(),
    },
];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: OVERWRITE, play: overwrite },
    Scenario { name: CROWD, play: crowd },
    Scenario { name: EXHAUSTED, play: exhaust },
];

const OVERWRITE: &str = "overwrite";
const CROWD: &str = "crowd";
const EXHAUSTED: &str = "exhausted";
const CORRUPTION: i32 = 70;

fn ends_with_70(when: &str) -> TestResult {
    controls()?;
    let ending = ending(format_args!("{OVERWRITE} arena {when}"))?;
    ending.with_code(CORRUPTION)?;
    assert!(ending.errors.contains("secret memory corrupted at slot"), "{ending:?}");
    Ok(())
}

fn every_use_is_an_error() -> TestResult {
    controls()?;
    ending(format_args!("{OVERWRITE} arena error"))?.well()
}

fn controls() -> TestResult {
    let pages = ending(format_args!("{OVERWRITE} pages audit"))?;
    control(pages.well().is_ok(), &format!("a write over pages without canaries is noticed: {pages:?}"))?;
    let nothing = ending(format_args!("{OVERWRITE} nothing audit"))?;
    control(nothing.well().is_ok(), &format!("damage is seen where there is none: {nothing:?}"))
}

fn ending(scenario: fmt::Arguments<'_>) -> TestResult<Ending> {
    Victim::start(scenario)?.end()
}

/// Writes over what the first word names, as an overrun of a buffer would, and does what the second says.
fn overwrite(stage: &Stage) -> TestResult {
    let on_damage = if stage.has("error") { OnDamage::Error } else { OnDamage::Exit };
    let vault = Vault::open(&ArenaSettings { on_damage, ..stage::arena(Backend::Mlock) })?;
    let keys = [stage::import(&vault, Seed(61))?, stage::import(&vault, Seed(62))?];
    let arena = guards::arena(vault.status().locked_bytes, "rw")?;
    if stage.has("pages") {
        let mut pages = Pages::allocate(arena.bytes() / 2)?;
        let bytes = pages.bytes_mut().ok_or("new pages are writable")?;
        raw::stray_write(bytes.as_ptr().expose_provenance(), bytes.len());
    } else if stage.has("arena") {
        raw::stray_write(arena.start + 4096, arena.bytes() / 2);
    }
    if stage.has("release") {
        // Slots are given out from the first on, and the write began in the fifth at the latest.
        let others = (0..vault.status().slots / 2).map(|_| vault.generate(b"other")).collect::<Result<Vec<_>, _>>();
        drop((others, keys));
        return Ok(());
    }
    match vault.maintain(Instant::now()) {
        Err(MemoryError::Damaged { .. }) if on_damage == OnDamage::Error => {}
        outcome => return outcome.map(drop).map_err(Into::into),
    }
    let is_damaged = |error: Option<MemoryError>| matches!(error, Some(MemoryError::Damaged { .. }));
    assert!(keys.iter().all(|key| is_damaged(key.using(|_| ()).err())));
    assert!(is_damaged(keys[0].wrap(&keys[1], &[1; 12]).err()) && is_damaged(vault.generate(b"other").err()));
    assert!(is_damaged(vault.maintain(Instant::now()).err()), "and it stays so");
    assert!((arena.start..arena.end).all(|address| raw::stray_read(address) == 0), "nothing is left");
    Ok(())
}

fn crowd(_: &Stage) -> TestResult {
    const KEYS: u64 = 100_000;
    const BUDGET: usize = 1 << 20;
    let vault = Vault::open(&ArenaSettings { bytes: BUDGET, ..ArenaSettings::default() })?;
    let keys = (0..KEYS).map(|seed| stage::import(&vault, Seed(seed))).collect::<TestResult<Vec<_>>>()?;
    let status = vault.status();
    assert!(status.locked_bytes <= BUDGET && status.slots < 3_000, "{status:?}");
    assert!(status.cold + status.hot == keys.len() && status.cold > keys.len() - status.slots, "{status:?}");
    for (key, seed) in keys.iter().zip(0_u64..) {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&seed.to_le_bytes());
        let wrapped = key.using(|lease| lease.wrap(&[7; 32], &nonce, &[]))?;
        assert_eq!(wrapped, key::wrap(&Seed(seed).key(), &[7; 32], &nonce)?, "key {seed}");
    }
    Ok(())
}

/// One thread takes all scratch there is, so that waiting for some would never end.
fn exhaust(_: &Stage) -> TestResult {
    let settings = ArenaSettings { scratch_slots: 2, ..stage::arena(Backend::Mlock) };
    let vault = Vault::open(&settings)?;
    let all = 4 * vault.status().slots;
    let keys = (0..all).map(|_| vault.generate(b"key")).collect::<Result<Vec<_>, _>>()?;
    // The first have given their slots to the last.
    let innermost = keys[0].using(|_| keys[1].using(|_| keys[2].using(|_| ())))??;
    assert!(matches!(innermost, Err(MemoryError::Exhausted { slots: 2 })), "{innermost:?}");
    assert_eq!(vault.status().exhausted, 1);
    keys[0].using(|_| keys[1].using(|_| ()))??;
    Ok(())
}
