//! Who can read a key in the memory of a living process.

use std::fs::File;
use std::path::{Path, PathBuf};

use keyward::memory::{Backend, Vault};
use tempfile::TempDir;

use crate::TestResult;
use crate::keeper::{KEEPER, Place};
use crate::key::{self, Seed, from_hex, to_hex};
use crate::needs::Need;
use crate::raw;
use crate::scan::{self, Needles};
use crate::stage::{self, Scenario, Stage};
use crate::suite::{Property, control};
use crate::victim::Victim;

pub(crate) const PROPERTIES: &[Property] = &[
    Property {
        name: "root finds no key of a vault in the memory of the process",
        needs: &[Need::MemfdSecret],
        check: root_finds_no_key,
    },
    Property {
        name: "locked memory holds the one copy of a key that there is",
        needs: &[],
        check: locked_memory_holds_the_one_copy,
    },
    Property {
        name: "nothing beside the arena holds a key while a vault works",
        needs: &[Need::MemfdSecret],
        check: nothing_beside_the_arena_holds_a_key,
    },
];

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario { name: WORKER, play: work }];

const WORKER: &str = "worker";

const SEED: Seed = Seed(11);

fn root_finds_no_key() -> TestResult {
    let needles = Needles::of([&SEED.key()]);
    let heap = keeper(Place::Heap)?.search(&needles)?;
    control(heap.hits.len() >= 2, "a key in ordinary memory is not found")?;
    let found = keeper(Place::MemfdSecret)?.search(&needles)?;
    assert!(found.is_clean(), "{found}");
    assert!(
        found.hidden.iter().any(|mapping| mapping.is_hidden()),
        "the pages are there and cannot be read: {found:?}"
    );
    Ok(())
}

/// Locked memory does not hide from root, which serves to see what else there is.
fn locked_memory_holds_the_one_copy() -> TestResult {
    let victim = keeper(Place::Mlock)?;
    let found = victim.search(&Needles::of([&SEED.key()]))?;
    control(found.hits.len() >= 2, "a key in locked memory is not found")?;
    // A schedule for either direction: the first two round keys, and the last of the other one.
    assert!(found.hits.len() <= 3 && found.hits.iter().all(|(_, mapping)| mapping.is_locked()), "{found}");
    Ok(())
}

/// Of the keys that a working vault makes, loads, demotes and uses cold, none stands anywhere but in the arena: not in what
/// others can read, and not in the pages that the kernel hides for the library's other needs.
fn nothing_beside_the_arena_holds_a_key() -> TestResult {
    let directory = TempDir::new()?;
    let mut victim = Victim::start_in(directory.path(), format_args!("{WORKER} {SEED}"))?;
    let count: usize = victim.expect("children")?.parse()?;
    let parent = SEED.key();
    let mut keys = vec![parent];
    for _ in 0..count {
        keys.push(key::unwrap(&parent, &from_hex(&victim.expect("wrapped")?)?)?);
    }
    let needles = Needles::of(&keys);
    victim.expect("ready")?;
    let found = victim.search(&needles)?;
    assert!(found.is_clean(), "{found}");
    victim.tell("save")?;
    let arena = scan::file(&saved(&mut victim, directory.path(), "arena")?, &needles)?;
    control(arena >= 2, "no key is found where keys are")?;
    let others: usize = victim.expect("others")?.parse()?;
    control(others > 0, "the library has no other hidden pages")?;
    for _ in 0..others {
        assert_eq!(scan::file(&saved(&mut victim, directory.path(), "other")?, &needles)?, 0);
    }
    victim.end()?.well()
}

fn saved(victim: &mut Victim, directory: &Path, kind: &str) -> TestResult<PathBuf> {
    Ok(directory.join(victim.expect(kind)?))
}

fn work(stage: &Stage) -> TestResult {
    let vault = Vault::open(&stage::arena(Backend::MemfdSecret))?;
    let parent = stage::import(&vault, stage.seed(0)?)?;
    let slots = vault.status().slots;
    let children = (0..2 * slots).map(|_| vault.generate(b"child")).collect::<Result<Vec<_>, _>>()?;
    stage.say(format_args!("children {}", children.len()))?;
    for (child, number) in children.iter().zip(0_u32..) {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&number.to_le_bytes());
        let wrapped = parent.wrap(child, &nonce)?;
        child.using(|lease| lease.wrap(&[0; 32], &nonce, b"a use, mostly cold"))?;
        drop(vault.unwrap(b"child", &parent, &wrapped)?);
        stage.say(format_args!("wrapped {}", to_hex(&wrapped)))?;
    }
    stage.pause("ready")?;
    save_hidden_pages(stage, vault.status().locked_bytes)?;
    drop(children);
    Ok(())
}

/// Saves the arena, and then every other mapping that the kernel hides.
pub(crate) fn save_hidden_pages(stage: &Stage, arena: usize) -> TestResult {
    let hidden = scan::mappings("self")?.into_iter().filter(|mapping| mapping.is_hidden());
    let (arenas, others): (Vec<_>, Vec<_>) = hidden.partition(|mapping| mapping.bytes() == arena);
    let save = |mapping: &scan::Mapping| -> TestResult<String> {
        let name = format!("{:x}", mapping.start);
        raw::save(mapping, &mut File::create_new(&name)?)?;
        Ok(name)
    };
    for arena in &arenas {
        stage.say(format_args!("arena {}", save(arena)?))?;
    }
    stage.say(format_args!("others {}", others.len()))?;
    for other in &others {
        stage.say(format_args!("other {}", save(other)?))?;
    }
    Ok(())
}

fn keeper(place: Place) -> TestResult<Victim> {
    let mut victim = Victim::start(format_args!("{KEEPER} {SEED} {place}"))?;
    victim.expect("ready")?;
    Ok(victim)
}
