//! Every way a process ends, and whether its keys are wiped before the system gets the pages back.

use std::hint::black_box;
use std::io::{Read, pipe};
use std::panic::catch_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use keyward::memory::signals::{Shutdown, SignalSettings, install, safe_exit};
use keyward::memory::{Backend, Buffer, LockedKey, ProtectedMemoryFactory, SecretExt, SecretFactory, Vault};

use crate::key::Seed;
use crate::scan::Needles;
use crate::stage::{self, Scenario, Stage};
use crate::suite::{Property, control};
use crate::victim::{Autopsy, Victim};
use crate::{TestResult, os, raw};

pub(crate) const PROPERTIES: &[Property] = &[
    Property {
        name: "SIGTERM wipes an idle process, which ends with 143",
        needs: &[],
        check: || killed("idle", libc::SIGTERM),
    },
    Property { name: "SIGTERM wipes a busy process", needs: &[], check: || killed("busy", libc::SIGTERM) },
    Property {
        name: "a wipe amid threads that open and close the pages of their secrets ends in order",
        needs: &[],
        check: wiped_amid_changes,
    },
    Property {
        name: "SIGINT wipes, and the process ends with 130",
        needs: &[],
        check: || killed("idle", libc::SIGINT),
    },
    Property {
        name: "SIGHUP wipes, and the process ends with 129",
        needs: &[],
        check: || killed("idle", libc::SIGHUP),
    },
    Property {
        name: "SIGQUIT wipes, and the process ends with 131",
        needs: &[],
        check: || killed("idle", libc::SIGQUIT),
    },
    Property {
        name: "SIGTERM wipes a process whose runtime is blocked, once its time to drain is over",
        needs: &[],
        check: || killed("blocked", libc::SIGTERM),
    },
    Property { name: "a second signal does not wait for a drain that hangs", needs: &[], check: second_signal },
    Property { name: "a drain runs at the first signal, and everything is wiped after it", needs: &[], check: drained },
    Property { name: "SIGKILL leaves a key in locked memory, as documented", needs: &[], check: sigkill },
    Property { name: "abort wipes and ends by SIGABRT", needs: &[], check: || crashed("abort", libc::SIGABRT, "") },
    Property {
        name: "a stray read wipes and ends by SIGSEGV",
        needs: &[],
        check: || crashed("fault", libc::SIGSEGV, ""),
    },
    Property {
        name: "a stack overflow wipes, says so and ends by SIGABRT",
        needs: &[],
        check: || crashed("overflow", libc::SIGABRT, "has overflowed its stack"),
    },
    Property { name: "a SIGILL that somebody sends wipes and ends by it", needs: &[], check: sent_fault },
    Property { name: "exit wipes", needs: &[], check: || exited("exit", 3) },
    Property { name: "returning from main wipes what nobody dropped", needs: &[], check: || exited("return", 0) },
    Property { name: "safe_exit wipes without anything installed", needs: &[], check: safely_exited },
    Property { name: "a panic wipes where that is asked for", needs: &[], check: panicked },
];

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario { name: ENDS, play: end_somehow }];

const ENDS: &str = "ends";
const SEED: Seed = Seed(91);

/// No time for a drain that nobody ends.
const SHORT: Duration = Duration::from_millis(100);
/// Longer than any victim lives.
const LONG: Duration = Duration::from_secs(1000);

/// Starts a victim that will end somehow, waits until it has its key, has `kill` end it, and looks for the key.
fn autopsy(how: &str, kill: impl FnOnce(&mut Victim) -> TestResult) -> TestResult<Autopsy> {
    let mut victim = Victim::start(format_args!("{ENDS} {SEED} {how}"))?;
    victim.expect("ready")?;
    victim.die_of(&Needles::of([&SEED.key()]), kill)
}

fn wiped(autopsy: &Autopsy) -> TestResult {
    if autopsy.found.is_clean() { Ok(()) } else { Err(format!("a key is left: {}", autopsy.found).into()) }
}

fn killed(how: &str, signal: i32) -> TestResult {
    let kill = |victim: &mut Victim| Ok(victim.signal(signal)?);
    let bare = autopsy(how, kill)?;
    control(!bare.found.is_clean(), "a process that is killed leaves no key")?;
    bare.ending.by_signal(signal)?;
    let handled = autopsy(&format!("{how} install"), kill)?;
    wiped(&handled)?;
    handled.ending.with_code(128 + signal)
}

/// A wipe that writes to pages which their owner makes inaccessible at that moment would fault, and end by SIGSEGV.
fn wiped_amid_changes() -> TestResult {
    for _ in 0..20 {
        let handled = autopsy("idle changing install", |victim| Ok(victim.signal(libc::SIGTERM)?))?;
        wiped(&handled)?;
        handled.ending.with_code(143)?;
    }
    Ok(())
}

fn second_signal() -> TestResult {
    let handled = autopsy("hanging install", |victim| {
        victim.signal(libc::SIGTERM)?;
        victim.expect("draining")?;
        Ok(victim.signal(libc::SIGINT)?)
    })?;
    wiped(&handled)?;
    handled.ending.with_code(130)
}

fn drained() -> TestResult {
    let handled = autopsy("draining install", |victim| {
        victim.signal(libc::SIGTERM)?;
        victim.expect("the key still works")?;
        Ok(())
    })?;
    wiped(&handled)?;
    handled.ending.with_code(143)
}

fn sigkill() -> TestResult {
    let handled = autopsy("idle install", |victim| Ok(victim.signal(libc::SIGKILL)?))?;
    handled.ending.by_signal(libc::SIGKILL)?;
    control(!handled.found.is_clean(), "SIGKILL leaves no key in locked memory: say so in the documentation")
}

fn crashed(how: &str, signal: i32, message: &str) -> TestResult {
    let crash = |victim: &mut Victim| victim.tell("go");
    let bare = autopsy(how, crash)?;
    control(!bare.found.is_clean(), "a process that crashes leaves no key")?;
    bare.ending.by_signal(signal)?;
    let handled = autopsy(&format!("{how} install"), crash)?;
    wiped(&handled)?;
    handled.ending.by_signal(signal)?;
    let errors = &handled.ending.errors;
    if errors.contains(message) { Ok(()) } else { Err(format!("no `{message}` in {errors}").into()) }
}

/// Of those that the standard library does not handle: it lets the first SIGSEGV that somebody sends pass.
fn sent_fault() -> TestResult {
    let handled = autopsy("idle install", |victim| Ok(victim.signal(libc::SIGILL)?))?;
    wiped(&handled)?;
    handled.ending.by_signal(libc::SIGILL)
}

fn exited(how: &str, code: i32) -> TestResult {
    let exit = |victim: &mut Victim| victim.tell("go");
    let bare = autopsy(how, exit)?;
    control(!bare.found.is_clean(), "a process that exits leaves no key")?;
    let handled = autopsy(&format!("{how} install"), exit)?;
    wiped(&handled)?;
    handled.ending.with_code(code)
}

fn safely_exited() -> TestResult {
    let handled = autopsy("safe-exit", |victim| victim.tell("go"))?;
    wiped(&handled)?;
    handled.ending.with_code(4)
}

/// The panic is caught, and the process then ends in a way that runs nothing else.
fn panicked() -> TestResult {
    let panic = |victim: &mut Victim| victim.tell("go");
    let unasked = autopsy("panic install", panic)?;
    control(!unasked.found.is_clean(), "a panic that is caught wipes unasked")?;
    let handled = autopsy("panic install wipe-on-panic", panic)?;
    wiped(&handled)?;
    handled.ending.well()
}

fn end_somehow(stage: &Stage) -> TestResult {
    let drain = if stage.has("blocked") { SHORT } else { LONG };
    let settings = SignalSettings { drain, wipe_on_panic: stage.has("wipe-on-panic"), ..SignalSettings::default() };
    let shutdown = if stage.has("install") { Some(install(&settings)?) } else { None };
    let vault = Vault::open(&stage::arena(Backend::Mlock))?;
    let key = stage::import(&vault, stage.seed(0)?)?;
    if let Some(shutdown) = &shutdown {
        prepare(stage, shutdown, &key);
    }
    if stage.has("busy") {
        for _ in 0..2 {
            let key = Arc::clone(&key);
            thread::spawn(move || while key.using(|lease| black_box(lease.wrap(&[7; 32], &[9; 12], &[]))).is_ok() {});
        }
    }
    if stage.has("changing") {
        let secret = ProtectedMemoryFactory.create(&mut stage.seed(0)?.key())?;
        thread::spawn(move || while secret.with(|bytes| black_box(bytes[0])).is_ok() {});
        let mut buffer = Buffer::from_bytes(&mut stage.seed(0)?.key())?;
        thread::spawn(move || while buffer.freeze().and_then(|()| buffer.melt()).is_ok() {});
    }
    if stage.has("blocked") {
        return block(stage);
    }
    stage.pause("ready")?;
    match stage.argument::<String>(1)?.as_str() {
        "abort" => std::process::abort(),
        "fault" => drop(raw::stray_read(16)),
        "overflow" => drop(overflow(1)),
        "exit" => std::process::exit(3),
        "safe-exit" => safe_exit(4),
        "return" => std::mem::forget((vault.clone(), Arc::clone(&key))),
        "panic" => {
            let caught = catch_unwind(|| stage::panic("caught"));
            os::exit_now(i32::from(caught.is_ok()))
        }
        other => return Err(format!("ended by nothing: {other}").into()),
    }
    drop((vault, key, shutdown));
    Ok(())
}

fn prepare(stage: &Stage, shutdown: &Shutdown, key: &Arc<LockedKey>) {
    let key = Arc::clone(key);
    if stage.has("idle") || stage.has("busy") {
        shutdown.drain_with(|_| ());
    } else if stage.has("draining") {
        shutdown
            .drain_with(move |_| say(if key.using(|_| ()).is_ok() { "the key still works" } else { "wiped early" }));
    } else if stage.has("hanging") {
        shutdown.drain_with(|_| {
            say("draining");
            wait_for_ever();
        });
    }
}

/// A runtime whose one thread reacts to nothing.
fn block(stage: &Stage) -> TestResult {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    stage.say("ready")?;
    runtime.block_on(async { wait_for_ever() });
    Ok(())
}

fn wait_for_ever() {
    let (mut from, _to) = pipe().expect("a process may have a pipe");
    // Nobody writes, and the other end stays open meanwhile.
    let _ = from.read(&mut [0]);
}

fn say(line: &str) {
    println!("{line}");
}

#[expect(unconditional_recursion, reason = "that is what overflows a stack")]
fn overflow(depth: usize) -> usize {
    let frame = std::hint::black_box([depth; 512]);
    // Not a call at the end, which would be a loop.
    overflow(depth + 1) + frame[depth % 512]
}
