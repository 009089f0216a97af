//! The list of properties, and the program that tries them.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::needs::Need;
use crate::stage::{self, Scenario};
use crate::{
    TestResult, attackers, closing, damage, dumps, ends, forks, guards, keeper, limits, race, reading, residue,
};

/// A promise and how it is tried.
pub(crate) struct Property {
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Need],
    pub(crate) check: fn() -> TestResult,
}

const PROPERTIES: [&[Property]; 11] = [
    reading::PROPERTIES,
    attackers::PROPERTIES,
    dumps::PROPERTIES,
    guards::PROPERTIES,
    forks::PROPERTIES,
    residue::PROPERTIES,
    limits::PROPERTIES,
    race::PROPERTIES,
    closing::PROPERTIES,
    ends::PROPERTIES,
    damage::PROPERTIES,
];

const SCENARIOS: [&[Scenario]; 11] = [
    keeper::SCENARIOS,
    attackers::SCENARIOS,
    reading::SCENARIOS,
    guards::SCENARIOS,
    forks::SCENARIOS,
    residue::SCENARIOS,
    limits::SCENARIOS,
    race::SCENARIOS,
    closing::SCENARIOS,
    ends::SCENARIOS,
    damage::SCENARIOS,
];

/// Plays a victim if this process was started as one, and else tries the properties that the command line names.
pub(crate) fn run() -> ExitCode {
    if let Some(code) = stage::play(SCENARIOS.into_iter().flatten()) {
        return code;
    }
    let arguments = Arguments::from_args();
    let on_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    let trials = PROPERTIES.into_iter().flatten().map(|property| trial(property, on_ci, !arguments.list)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(property: &'static Property, on_ci: bool, aloud: bool) -> Trial {
    let check = move || (property.check)().map_err(|error| Failed::from(error.to_string()));
    let Some(lack) = property.needs.iter().find_map(|need| need.lack()) else {
        return Trial::test(property.name, check);
    };
    if on_ci && !lack.is_of_kernel {
        return Trial::test(property.name, move || Err(format!("not to be skipped on CI: {}", lack.reason).into()));
    }
    if aloud {
        println!("SKIP {}: {}", property.name, lack.reason);
    }
    Trial::test(property.name, check).with_ignored_flag(true)
}

/// Fails, with the words for a control that does not show the leak, unless it does.
pub(crate) fn control(leaks: bool, what: &str) -> TestResult {
    if leaks { Ok(()) } else { Err(format!("the test is void: {what}").into()) }
}
