//! What of a key is written into core files.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::TestResult;
use crate::keeper::{KEEPER, Place};
use crate::key::Seed;
use crate::needs::{Need, debugger};
use crate::scan::{self, Needles};
use crate::suite::{Property, control};
use crate::victim::Victim;

pub(crate) const PROPERTIES: &[Property] = &[
    Property {
        name: "the core file of an aborted process holds no key of a vault on locked memory",
        needs: &[Need::CoreFiles],
        check: || no_key_in_core(Place::Mlock),
    },
    Property {
        name: "the core file of an aborted process holds no key of a vault on memfd_secret",
        needs: &[Need::CoreFiles, Need::MemfdSecret],
        check: || no_key_in_core(Place::MemfdSecret),
    },
    Property {
        name: "a hardened process leaves no core file",
        needs: &[Need::CoreFiles],
        check: a_hardened_process_leaves_no_core,
    },
    Property {
        name: "a debugger's core file holds no key of a vault on locked memory",
        needs: &[Need::Debugger],
        check: gcore_holds_no_key_of_locked_memory,
    },
    Property {
        name: "a debugger's core file of everything holds no key of a vault on memfd_secret",
        needs: &[Need::Debugger, Need::MemfdSecret],
        check: gcore_of_everything_holds_no_hidden_key,
    },
];

const SEED: Seed = Seed(21);

/// What a debugger is told to leave out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// What the kernel would leave out.
    AsTheKernel,
    /// Nothing: `gcore -a`.
    Everything,
}

fn no_key_in_core(place: Place) -> TestResult {
    for leaky in [Place::Heap, Place::Locked] {
        control(keys_in_core(leaky)? > 0, &format!("the core file has no key of {leaky} memory"))?;
    }
    assert_eq!(keys_in_core(place)?, 0);
    Ok(())
}

fn keys_in_core(place: Place) -> TestResult<usize> {
    let directory = TempDir::new()?;
    let core = core_of(directory.path(), format_args!("{SEED} {place} cores"))?.ok_or("no core file was written")?;
    Ok(scan::file(&core, &Needles::of([&SEED.key()]))?)
}

fn a_hardened_process_leaves_no_core() -> TestResult {
    let (plain, hardened) = (TempDir::new()?, TempDir::new()?);
    let core = core_of(plain.path(), format_args!("{SEED} heap cores"))?;
    control(core.is_some(), "a process that is not hardened leaves no core file")?;
    assert_eq!(core_of(hardened.path(), format_args!("{SEED} heap cores harden"))?, None);
    Ok(())
}

/// Has a keeper abort and returns its core file.
fn core_of(directory: &Path, arguments: fmt::Arguments<'_>) -> TestResult<Option<PathBuf>> {
    let mut victim = Victim::start_in(directory, format_args!("{KEEPER} {arguments}"))?;
    victim.expect("ready")?;
    victim.tell("abort")?;
    victim.end()?.by_signal(libc::SIGABRT)?;
    Ok(fs::read_dir(directory)?.next().transpose()?.map(|entry| entry.path()))
}

fn gcore_holds_no_key_of_locked_memory() -> TestResult {
    control(
        keys_seen_by_debugger(Place::Heap, Extent::AsTheKernel)? > 0,
        "the debugger sees no key in ordinary memory",
    )?;
    control(
        keys_seen_by_debugger(Place::Mlock, Extent::Everything)? > 0,
        "the debugger sees no key when it takes everything",
    )?;
    assert_eq!(keys_seen_by_debugger(Place::Mlock, Extent::AsTheKernel)?, 0);
    Ok(())
}

fn gcore_of_everything_holds_no_hidden_key() -> TestResult {
    control(
        keys_seen_by_debugger(Place::Locked, Extent::Everything)? > 0,
        "the debugger sees no key in locked memory",
    )?;
    assert_eq!(keys_seen_by_debugger(Place::MemfdSecret, Extent::Everything)?, 0);
    assert_eq!(keys_seen_by_debugger(Place::MemfdSecret, Extent::AsTheKernel)?, 0);
    Ok(())
}

fn keys_seen_by_debugger(place: Place, extent: Extent) -> TestResult<usize> {
    let directory = TempDir::new()?;
    let mut victim = Victim::start(format_args!("{KEEPER} {SEED} {place}"))?;
    victim.expect("ready")?;
    let core = directory.path().join("core");
    let mut gdb = Command::new(debugger().ok_or("gdb is gone")?);
    gdb.args(["--nx", "--batch", "--readnever", "--pid", &victim.pid().to_string()]);
    if extent == Extent::Everything {
        gdb.args(["-ex", "set use-coredump-filter off", "-ex", "set dump-excluded-mappings on"]);
    }
    let said = gdb.arg("-ex").arg(format!("generate-core-file {}", core.display())).output()?;
    if !core.exists() {
        return Err(format!("gdb wrote no core file: {}", String::from_utf8_lossy(&said.stderr)).into());
    }
    victim.tell("end")?;
    victim.end()?.well()?;
    Ok(scan::file(&core, &Needles::of([&SEED.key()]))?)
}
