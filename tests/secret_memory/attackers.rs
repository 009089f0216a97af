//! Other processes of the same user, who may do to a process what a debugger does, unless it is hardened.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use keyward::memory::{MemoryPolicy, harden};

use crate::TestResult;
use crate::keeper::KEEPER;
use crate::key::{Seed, to_hex};
use crate::needs::{Need, debugger};
use crate::os;
use crate::stage::{Scenario, Stage};
use crate::suite::{Property, control};
use crate::victim::Victim;

pub(crate) const PROPERTIES: &[Property] = &[
    Property {
        name: "no process of the same user reads, copies or traces the memory of a hardened one",
        needs: &[],
        check: the_same_user_gets_nothing,
    },
    Property {
        name: "a debugger of the same user cannot attach to a hardened process",
        needs: &[Need::Debugger],
        check: no_debugger_attaches,
    },
    Property {
        name: "a process that is traced refuses to be called hardened",
        needs: &[],
        check: a_traced_process_says_so,
    },
];

pub(crate) const SCENARIOS: &[Scenario] =
    &[Scenario { name: ATTACKER, play: attack }, Scenario { name: TRACED, play: harden_when_told }];

const ATTACKER: &str = "attacker";
const TRACED: &str = "traced";
const SEED: Seed = Seed(95);

/// Starts a keeper of a key in ordinary memory, where it can be read by whoever may, and returns it with the address.
fn keeper(hardened: bool) -> TestResult<(Victim, usize)> {
    let how = if hardened { "harden" } else { "as-it-is" };
    let mut victim = Victim::start(format_args!("{KEEPER} {SEED} heap nobody {how}"))?;
    let address = victim.expect("ready")?;
    Ok((victim, usize::from_str_radix(address.trim_start_matches("0x"), 16)?))
}

/// Returns what an attacker got in each of the ways that it tries.
fn loot(hardened: bool) -> TestResult<Vec<String>> {
    let (victim, address) = keeper(hardened)?;
    let mut attacker = Victim::start(format_args!("{ATTACKER} {} {address}", victim.pid()))?;
    let loot = ["read", "copied", "traced"].map(|way| attacker.expect(way));
    attacker.end()?.well()?;
    loot.into_iter().collect()
}

fn the_same_user_gets_nothing() -> TestResult {
    let key = to_hex(&SEED.key());
    let plain = loot(false)?;
    control(plain == [key.as_str(), key.as_str(), "yes"], &format!("the same user gets no key: {plain:?}"))?;
    let hardened = loot(true)?;
    assert!(hardened.iter().all(|got| got.starts_with("refused")), "{hardened:?}");
    Ok(())
}

fn attack(stage: &Stage) -> TestResult {
    let (pid, address): (i32, usize) = (stage.argument(0)?, stage.argument(1)?);
    os::become_nobody()?;
    let mut key = [0; 32];
    let read = File::open(format!("/proc/{pid}/mem")).and_then(|memory| memory.read_exact_at(&mut key, address as u64));
    stage.say(format_args!("read {}", read.map_or_else(refused, |()| to_hex(&key))))?;
    key = [0; 32];
    let copied = os::try_to_copy(pid, address, &mut key);
    stage.say(format_args!("copied {}", copied.map_or_else(refused, |_| to_hex(&key))))?;
    stage.say(format_args!("traced {}", os::try_to_trace(pid).map_or_else(refused, |()| "yes".to_owned())))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_or_else asks for")]
fn refused(error: std::io::Error) -> String {
    format!("refused: {error}")
}

fn no_debugger_attaches() -> TestResult {
    let key: Vec<String> = SEED.key().iter().map(|byte| format!("0x{byte:02x}")).collect();
    let plain = debug(false)?;
    control(key.iter().take(8).all(|byte| plain.contains(byte)), &format!("a debugger sees no key: {plain}"))?;
    let hardened = debug(true)?;
    assert!(hardened.contains("Operation not permitted"), "{hardened}");
    Ok(())
}

/// Returns what a debugger of the same user prints of the key.
fn debug(hardened: bool) -> TestResult<String> {
    let (victim, address) = keeper(hardened)?;
    let mut debugger = Command::new(debugger().ok_or("no debugger")?);
    if os::is_root() {
        debugger.uid(os::NOBODY).gid(os::NOBODY);
    }
    let output = debugger
        .args(["-batch", "-nx", "-p", &victim.pid().to_string(), "-ex", &format!("x/32xb {address}")])
        .env_clear()
        .current_dir("/")
        .output()?;
    Ok([output.stdout, output.stderr].iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect())
}

fn a_traced_process_says_so() -> TestResult {
    let mut alone = Victim::start(TRACED)?;
    alone.tell("go")?;
    control(alone.expect("hardened")? == "Ok", "a process that nobody traces cannot be hardened")?;
    alone.end()?.well()?;
    let mut traced = Victim::start(TRACED)?;
    traced.trace()?;
    traced.tell("go")?;
    let answer = traced.expect("hardened")?;
    assert!(answer.starts_with("Traced"), "{answer}");
    Ok(())
}

fn harden_when_told(stage: &Stage) -> TestResult {
    stage.hear()?;
    let answer = harden(MemoryPolicy::Strict).map_or_else(|error| format!("{error:?}"), |_| "Ok".to_owned());
    stage.say(format_args!("hardened {answer}"))
}
