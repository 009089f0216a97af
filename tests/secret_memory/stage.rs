//! The victim's side: a scenario is played before any thread exists, and talks in lines.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use keyward::memory::{ArenaSettings, Backend, LockedKey, Vault};

use crate::TestResult;
use crate::key::Seed;
use crate::os;

/// Names the scenario and its arguments.
pub(crate) const VARIABLE: &str = "KEYWARD_VICTIM";

/// The exit code of a scenario that failed, which none ends with otherwise.
pub(crate) const DEAD: i32 = 99;

/// No time to drain.
pub(crate) const NO_TIME: Duration = Duration::ZERO;

/// What a victim does.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) play: fn(&Stage) -> TestResult,
}

/// A scenario's arguments and its line to the parent.
pub(crate) struct Stage {
    arguments: Vec<String>,
}

/// Plays the scenario that the environment names; `None` when it names none.
pub(crate) fn play(scenarios: impl IntoIterator<Item = &'static Scenario>) -> Option<ExitCode> {
    let text = std::env::var(VARIABLE).ok()?;
    let mut words = text.split(' ').map(str::to_owned);
    let name = words.next().unwrap_or_default();
    let played = os::end_with_parent().map_err(Into::into).and_then(|()| {
        let scenario = scenarios.into_iter().find(|scenario| scenario.name == name);
        let scenario = scenario.ok_or_else(|| format!("no scenario is called {name}"))?;
        (scenario.play)(&Stage { arguments: words.collect() })
    });
    Some(match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error} ({error:?})");
            ExitCode::from(u8::try_from(DEAD).unwrap_or(u8::MAX))
        }
    })
}

impl Stage {
    pub(crate) fn argument<T: FromStr>(&self, index: usize) -> TestResult<T> {
        let text = self.arguments.get(index).ok_or_else(|| format!("no argument {index}"))?;
        text.parse().map_err(|_| format!("unusable argument {text}").into())
    }

    /// Tells whether `word` is among the arguments.
    pub(crate) fn has(&self, word: &str) -> bool {
        self.arguments.iter().any(|argument| argument == word)
    }

    /// Sends a line to the parent.
    pub(crate) fn say(&self, line: impl fmt::Display) -> TestResult {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        Ok(out.flush()?)
    }

    /// Waits for a line of the parent's.
    pub(crate) fn hear(&self) -> TestResult<String> {
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Sends a line and waits for one.
    pub(crate) fn pause(&self, line: impl fmt::Display) -> TestResult<String> {
        self.say(line)?;
        self.hear()
    }

    /// Returns the seed at `index`.
    pub(crate) fn seed(&self, index: usize) -> TestResult<Seed> {
        self.argument(index)
    }
}

/// Returns the settings of a small arena in memory of exactly this kind.
pub(crate) fn arena(backend: Backend) -> ArenaSettings {
    ArenaSettings { bytes: 64 * 1024, require: Some(backend), ..ArenaSettings::default() }
}

/// Reads a backend's name among the arguments.
pub(crate) fn backend(stage: &Stage) -> Backend {
    if stage.has("memfd_secret") { Backend::MemfdSecret } else { Backend::Mlock }
}

/// Puts the key of `seed` into a vault; nothing else has it afterwards.
#[inline(never)]
pub(crate) fn import(vault: &Vault, seed: Seed) -> TestResult<std::sync::Arc<LockedKey>> {
    let mut key = [0; 32];
    seed.fill(&mut key);
    Ok(vault.import(b"key", &mut key)?)
}

/// Panics, for a scenario about panics.
#[expect(clippy::panic, reason = "that is what it is about")]
pub(crate) fn panic(why: &str) -> ! {
    panic!("{why}")
}
