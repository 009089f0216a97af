//! Ends that are in order, and one that only looks so.

use std::io::Read;
use std::sync::mpsc;

use actix::{Actor, Arbiter, Context, System};
use keyward::memory::{Backend, Vault, init};

use crate::TestResult;
use crate::key::Seed;
use crate::scan::Needles;
use crate::stage::{self, Scenario, Stage};
use crate::suite::{Property, control};
use crate::victim::{Autopsy, Victim};
use crate::world::{World, learn_keys};

pub(crate) const PROPERTIES: &[Property] = &[
    Property {
        name: "once a session factory is closed and dropped no key of it is left in secret memory",
        needs: &[],
        check: no_key_is_left_after_close,
    },
    Property {
        name: "a panic that unwinds out of main leaves no key in secret memory",
        needs: &[],
        check: a_panic_out_of_main_leaves_no_key,
    },
];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: FACTORY, play: run_factory },
    Scenario { name: SYSTEM, play: stop_system },
    Scenario { name: PANIC, play: panic_out_of_main },
];

const FACTORY: &str = "factory";
const SYSTEM: &str = "system";
const PANIC: &str = "panic-out-of-main";
const SEED: Seed = Seed(81);

fn no_key_is_left_after_close() -> TestResult {
    let stopped = autopsy(SYSTEM, "stop")?;
    control(!stopped.found.is_clean(), "stopping its system drops an actor that is busy")?;
    stopped.ending.well()?;
    let unclosed = autopsy_of_factory("exit")?;
    control(!unclosed.found.is_clean(), "a process that exits leaves no key")?;
    let closed = autopsy_of_factory("close")?;
    assert!(closed.found.is_clean(), "{}", closed.found);
    closed.ending.well()
}

fn a_panic_out_of_main_leaves_no_key() -> TestResult {
    let leaked = autopsy(PANIC, "leak")?;
    control(!leaked.found.is_clean(), "a vault that is not dropped leaves no key")?;
    let unwound = autopsy(PANIC, "unwind")?;
    assert!(unwound.found.is_clean(), "{}", unwound.found);
    unwound.ending.with_code(101)
}

fn autopsy(scenario: &str, how: &str) -> TestResult<Autopsy> {
    let mut victim = Victim::start(format_args!("{scenario} {SEED} {how}"))?;
    victim.expect("ready")?;
    victim.die_of(&Needles::of([&SEED.key()]), |victim| victim.tell(how)).map(in_secret_memory)
}

fn autopsy_of_factory(how: &str) -> TestResult<Autopsy> {
    let mut victim = Victim::start(format_args!("{FACTORY} {SEED} {how}"))?;
    let keys = learn_keys(&mut victim, SEED)?;
    victim.expect("ready")?;
    victim.die_of(&Needles::of(&keys), |victim| victim.tell(how)).map(in_secret_memory)
}

/// What computing left elsewhere is the business of `residue.rs`.
fn in_secret_memory(autopsy: Autopsy) -> Autopsy {
    Autopsy { found: autopsy.found.in_locked_memory(), ..autopsy }
}

fn run_factory(stage: &Stage) -> TestResult {
    init(&stage::arena(Backend::Mlock))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let world = World::new(stage.seed(0)?).await?;
        let session = world.factory.session("partition").await?;
        let record = session.encrypt(b"payload").await?;
        world.tell_keys(stage, &[record]).await?;
        stage.pause("ready")?;
        if stage.has("close") {
            world.factory.close().await?;
            drop((session, world));
            return Ok(());
        }
        std::process::exit(0)
    })
}

/// Keeps a vault until it is dropped.
struct Owner {
    _vault: Vault,
    _key: std::sync::Arc<keyward::memory::LockedKey>,
}

impl Actor for Owner {
    type Context = Context<Self>;
}

/// An actor owns the keys on a thread of its own, which is busy when the system stops.
fn stop_system(stage: &Stage) -> TestResult {
    let vault = Vault::open(&stage::arena(Backend::Mlock))?;
    let key = stage::import(&vault, stage.seed(0)?)?;
    let system = System::new();
    system.block_on(async {
        let arbiter = Arbiter::new();
        let (busy, is_busy) = mpsc::channel();
        let (mut never, kept_open) = std::io::pipe()?;
        arbiter.spawn_fn(move || {
            let owner = Owner { _vault: vault, _key: key }.start();
            let told = busy.send(());
            // Whatever keeps a thread: a call to a database, a large file.
            let read = never.read(&mut [0]);
            drop((owner, told, read));
        });
        is_busy.recv()?;
        stage.pause("ready")?;
        System::current().stop();
        // Open until the process ends.
        std::mem::forget(kept_open);
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    Ok(system.run()?)
}

fn panic_out_of_main(stage: &Stage) -> TestResult {
    let vault = Vault::open(&stage::arena(Backend::Mlock))?;
    let key = stage::import(&vault, stage.seed(0)?)?;
    if stage.has("leak") {
        std::mem::forget((vault.clone(), key.clone()));
    }
    stage.pause("ready")?;
    crate::stage::panic("out of main")
}
