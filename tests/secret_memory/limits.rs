//! Little locked memory, and a user without rights.

use keyward::MemoryError;
use keyward::memory::{ArenaSettings, Backend, MemoryPolicy, Vault};

use crate::TestResult;
use crate::key::{self, Seed};
use crate::os;
use crate::stage::{self, Scenario, Stage};
use crate::suite::{Property, control};
use crate::victim::Victim;

pub(crate) const PROPERTIES: &[Property] = &[
    Property {
        name: "a vault works for a user without rights who may lock 64 KiB",
        needs: &[],
        check: works_in_64_kib,
    },
    Property {
        name: "under the strict policy nothing starts where no memory may be locked, and the error has the numbers",
        needs: &[],
        check: || play("0 strict"),
    },
    Property {
        name: "under the relaxed policy a vault works where no memory may be locked, and says that it is degraded",
        needs: &[],
        check: || play("0 relaxed"),
    },
];

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario { name: LIMITED, play: run_limited }];

const LIMITED: &str = "limited";
const SEED: Seed = Seed(51);

fn works_in_64_kib() -> TestResult {
    play("65536 strict")?;
    play("65536 strict mlock")?;
    // The limit is one: what fits without it does not fit with it.
    let refused = play("65536 raw");
    control(refused.is_ok(), &format!("more than the limit can be locked: {refused:?}"))
}

fn play(arguments: &str) -> TestResult {
    Victim::start(format_args!("{LIMITED} {arguments}"))?.end()?.well()
}

fn run_limited(stage: &Stage) -> TestResult {
    let limit = stage.argument(0)?;
    os::set_limit(libc::RLIMIT_MEMLOCK, limit, limit)?;
    os::become_nobody()?;
    if stage.has("raw") {
        let pages = crate::raw::RawPages::map(65536 + 4096)?;
        assert!(pages.lock().is_err(), "the limit binds");
        return Ok(());
    }
    let policy = if stage.has("strict") { MemoryPolicy::Strict } else { MemoryPolicy::Relaxed };
    let require = stage.has("mlock").then_some(Backend::Mlock);
    let settings = ArenaSettings { policy, require, ..ArenaSettings::default() };
    let vault = match Vault::open(&settings) {
        Err(error) if limit == 0 && policy == MemoryPolicy::Strict => return is_about_budget(&error),
        other => other?,
    };
    let status = vault.status();
    assert_eq!(status.is_degraded(), limit == 0, "{status:?}");
    assert_eq!((status.soft_limit, status.hard_limit), (limit, limit));
    assert!(status.locked_bytes as u64 <= limit, "{status:?}");
    assert_eq!(status.backend == Backend::Unlocked, limit == 0, "{status:?}");
    let parent = stage::import(&vault, SEED)?;
    let count = 4 * status.slots;
    let children = (0..count).map(|_| vault.generate(b"child")).collect::<Result<Vec<_>, _>>()?;
    for child in &children {
        key::unwrap(&SEED.key(), &parent.wrap(child, &[1; 12])?)?;
    }
    Ok(())
}

/// Checks what an operator is told.
fn is_about_budget(error: &MemoryError) -> TestResult {
    let MemoryError::Budget { needed, soft: 0, hard: 0, locked: 0, .. } = error else {
        return Err(format!("not about the budget: {error:?}").into());
    };
    let text = error.to_string();
    assert!(*needed > 0 && text.contains(&needed.to_string()) && text.contains("ulimit -l"), "{text}");
    Ok(())
}
