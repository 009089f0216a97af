//! Stray reads and writes just outside of secret memory.

use std::fmt;

use keyward::memory::{Backend, Pages, Vault, purge};

use crate::TestResult;
use crate::key::Seed;
use crate::needs::Need;
use crate::raw::{self, RawPages};
use crate::scan::{self, Mapping};
use crate::stage::{self, Scenario, Stage};
use crate::suite::{Property, control};
use crate::victim::{Ending, Victim};

pub(crate) const PROPERTIES: &[Property] = &[
    Property {
        name: "a read before or behind an arena of locked memory faults",
        needs: &[],
        check: || faults_on_both_sides("mlock"),
    },
    Property {
        name: "a read before or behind an arena of memfd_secret faults",
        needs: &[Need::MemfdSecret],
        check: || faults_on_both_sides("memfd_secret"),
    },
    Property {
        name: "a read before or behind allocated pages faults",
        needs: &[],
        check: || faults_on_both_sides("pages"),
    },
    Property {
        name: "a write through the readers' view of an arena faults",
        needs: &[Need::MemfdSecret],
        check: writes_through_the_view_fault,
    },
    Property {
        name: "a reader that ignores all state faults after a wipe of everything and computes with no zero key",
        needs: &[Need::MemfdSecret],
        check: a_reader_that_ignores_state_faults,
    },
];

pub(crate) const SCENARIOS: &[Scenario] =
    &[Scenario { name: STRAY, play: stray }, Scenario { name: VIEW, play: stray_in_view }];

const STRAY: &str = "stray";
const VIEW: &str = "view";
const PAGE: usize = 4096;

fn faults_on_both_sides(place: &str) -> TestResult {
    for side in ["before", "behind"] {
        let unguarded = ending(format_args!("{STRAY} unguarded {side}"))?;
        control(unguarded.well().is_ok(), &format!("a read {side} unguarded pages faults: {unguarded:?}"))?;
        ending(format_args!("{STRAY} {place} {side}"))?.by_signal(libc::SIGSEGV)?;
    }
    for side in ["first", "last"] {
        ending(format_args!("{STRAY} {place} {side}"))?.well()?;
    }
    Ok(())
}

fn writes_through_the_view_fault() -> TestResult {
    let writable = ending(format_args!("{VIEW} plain write"))?;
    control(writable.well().is_ok(), &format!("a write into an arena without a view faults: {writable:?}"))?;
    ending(format_args!("{VIEW} view read"))?.well()?;
    ending(format_args!("{VIEW} view write"))?.by_signal(libc::SIGSEGV)
}

fn a_reader_that_ignores_state_faults() -> TestResult {
    let zeroed = ending(format_args!("{VIEW} plain purge read"))?;
    control(zeroed.well().is_ok(), &format!("a read of wiped memory without a view faults: {zeroed:?}"))?;
    ending(format_args!("{VIEW} view purge read"))?.by_signal(libc::SIGSEGV)
}

fn ending(scenario: impl fmt::Display) -> TestResult<Ending> {
    let mut victim = Victim::start(scenario)?;
    victim.expect("reaching")?;
    victim.end()
}

/// Reads one byte just outside, or just inside, of the memory that the first argument names.
fn stray(stage: &Stage) -> TestResult {
    let vault;
    let (mut pages, unguarded);
    let (start, bytes) = if stage.has("unguarded") {
        unguarded = RawPages::map(3 * PAGE)?;
        (unguarded.address() + PAGE, PAGE)
    } else if stage.has("pages") {
        pages = Pages::allocate(PAGE)?;
        let bytes = pages.bytes_mut().ok_or("new pages are writable")?;
        (bytes.as_ptr().expose_provenance(), bytes.len())
    } else {
        vault = Vault::open(&stage::arena(stage::backend(stage)))?;
        let arena = arena(vault.status().locked_bytes, "rw")?;
        (arena.start, arena.bytes())
    };
    let at = match () {
        () if stage.has("before") => start - 1,
        () if stage.has("behind") => start + bytes,
        () if stage.has("first") => start,
        () => start + bytes - 1,
    };
    stage.say("reaching")?;
    std::hint::black_box(raw::stray_read(at));
    Ok(())
}

/// Reads or writes a slot where readers see it, perhaps after a wipe of everything.
fn stray_in_view(stage: &Stage) -> TestResult {
    let with_view = stage.has("view");
    let settings = keyward::memory::ArenaSettings { read_only_view: with_view, ..stage::arena(Backend::MemfdSecret) };
    let vault = Vault::open(&settings)?;
    let key = stage::import(&vault, Seed(31))?;
    let locked = vault.status().locked_bytes;
    let view = if with_view { arena(locked / 2, "r-")? } else { arena(locked, "rw")? };
    if stage.has("purge") {
        assert_eq!(purge().failed, 0);
    }
    // A slot's first bytes, behind those of the canaries' own.
    let at = view.start + 1024;
    stage.say("reaching")?;
    if stage.has("write") {
        raw::stray_write(at, 1);
    } else {
        std::hint::black_box(raw::stray_read(at));
    }
    // Whatever was written over is found out, which is another property's business.
    std::mem::forget((vault, key));
    Ok(())
}

/// Returns the mapping of the arena, which is the only locked one of its size.
pub(crate) fn arena(bytes: usize, access: &str) -> TestResult<Mapping> {
    let of_arena =
        |mapping: &Mapping| mapping.bytes() == bytes && mapping.is_locked() && mapping.access.starts_with(access);
    let mut found = scan::mappings("self")?.into_iter().filter(of_arena);
    match (found.next(), found.next()) {
        (Some(mapping), None) => Ok(mapping),
        (first, second) => Err(format!("not one arena: {first:?} {second:?}").into()),
    }
}
