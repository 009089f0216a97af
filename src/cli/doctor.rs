//! `keyward doctor`

use std::fmt::Write as _;

use keyward::MemoryError;
use keyward::memory::{ArenaSettings, Limits, MemoryPolicy, Protection, Report, harden, init, report};
use serde::Serialize;

use super::config::Config;
use super::error::Failure;
use super::options::Doctor;
use super::output::print;

/// What no setting changes; the rest is in the documentation.
const LIMITS: &[&str] = &[
    "root, or whoever may trace a process, can make it run code that prints its keys",
    "registers, hibernation, snapshots of virtual machines and access by devices are not covered",
    "SIGKILL leaves locked memory to the kernel as it is; memfd_secret memory is zeroed by it",
];

/// What was found, and what to do about it.
#[derive(Serialize)]
struct Finding {
    strict_satisfied: bool,
    /// What the strict policy says when it refuses.
    refusal: Option<String>,
    report: Report,
    advice: Vec<String>,
}

/// Tries what the strict policy asks for, and prints what came of it.
///
/// # Errors
/// [`Failure::Doctor`] when the strict policy refuses, after everything was printed.
pub(super) fn run(config: &Config, options: &Doctor) -> Result<(), Failure> {
    let strict = ArenaSettings { policy: MemoryPolicy::Strict, ..config.memory.clone() };
    let hardened = harden(MemoryPolicy::Strict);
    let mapped = init(&strict);
    if mapped.is_err() {
        // Shows what is missing, and what a relaxed start would get; that it gets something is no comfort to the strict policy.
        let _ = init(&ArenaSettings { policy: MemoryPolicy::Relaxed, require: None, ..config.memory.clone() });
    }
    let refusal = hardened.err().or(mapped.err());
    let report = report();
    let advice =
        advice(refusal.as_ref(), report.arena.as_ref().map(|arena| arena.locked_bytes), &strict, report.limits)
            .chain(report.protections().filter_map(advice_on))
            .collect();
    let finding = Finding {
        strict_satisfied: refusal.is_none(),
        refusal: refusal.as_ref().map(|error| Failure::Memory(error.clone()).text()),
        report,
        advice,
    };
    print(&if options.json { to_json(&finding) } else { to_text(&finding) })?;
    if finding.strict_satisfied { Ok(()) } else { Err(Failure::Doctor) }
}

/// What to do about memory that is not to be had, or less than was asked for.
fn advice(
    refusal: Option<&MemoryError>,
    locked: Option<usize>,
    asked: &ArenaSettings,
    limits: Limits,
) -> impl Iterator<Item = String> + use<> {
    let needed = asked.bytes.min(1 << 40).next_power_of_two().max(64 * 1024) * 2;
    let fewer = locked.is_some_and(|locked| locked < asked.bytes);
    let lines = match refusal {
        Some(MemoryError::Traced { .. }) => vec!["detach the debugger or tracer".to_owned()],
        Some(MemoryError::Budget { .. }) => raise(needed),
        None if fewer => {
            let mut lines = vec![format!(
                "the lock limit of {} bytes leaves room for less than the {} bytes asked for; more keys are kept sealed",
                limits.soft, asked.bytes
            )];
            lines.extend(raise(needed));
            lines
        }
        _ => Vec::new(),
    };
    lines.into_iter()
}

fn raise(bytes: usize) -> Vec<String> {
    vec![
        format!("shell:      ulimit -l {}    (its hard limit: /etc/security/limits.conf, memlock)", bytes / 1024),
        format!("systemd:    LimitMEMLOCK={bytes}"),
        format!("docker:     --ulimit memlock={bytes}:{bytes}"),
        "Kubernetes: raise LimitMEMLOCK of the container runtime's unit; adding IPC_LOCK helps a container that runs \
         as root, and no other: the capability must be effective"
            .to_owned(),
    ]
}

/// What to do about an absent protection.
fn advice_on(absent: &Protection) -> Option<String> {
    if absent.active || !absent.name.starts_with("hidden") {
        return None;
    }
    let advice = match absent.errno() {
        Some(errno) if errno == EPERM => "a sandbox forbids memfd_secret: allow it in the seccomp profile",
        Some(errno) if errno == ENOSYS => {
            "memfd_secret needs Linux 5.14 with CONFIG_SECRETMEM; before 6.5 also the boot option secretmem.enable=1"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

fn to_json(finding: &Finding) -> String {
    let mut text = serde_json::to_string_pretty(finding).expect("plain data serializes");
    text.push('\n');
    text
}

fn to_text(finding: &Finding) -> String {
    let Finding { report, .. } = finding;
    let mut text = "Memory for keys\n".to_owned();
    let mut row = |name: &str, value: String| {
        // Writing to a string does not fail, here and below.
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    match &report.arena {
        Some(arena) => {
            let policy = match arena.policy {
                MemoryPolicy::Strict => "",
                MemoryPolicy::Relaxed => ", under the relaxed policy alone",
            };
            row("backend", format!("{}{policy}", arena.backend));
            row("locked", format!("{} KiB", arena.locked_bytes / 1024));
            let room = format!("{} keys ready for use, {} scratch slots", arena.slots, arena.scratch_slots);
            row("room", format!("{room}; more keys are kept sealed"));
        }
        None => row("backend", "none".to_owned()),
    }
    let Limits { soft, hard, locked, .. } = report.limits;
    row("limit", format!("{} soft, {} hard; {} KiB locked", kib(soft), kib(hard), locked / 1024));
    row("panics", report.panic.to_owned());
    text.push_str("\nProtections\n");
    for protection in report.protections() {
        let state = if protection.active { "active" } else { "absent" };
        let why = match &protection.cause {
            Some(cause) => format!(": {cause}"),
            None if !protection.active && !protection.required => " (optional)".to_owned(),
            None => String::new(),
        };
        let _ = writeln!(text, "  {state}     {}{why}", protection.name);
    }
    list(&mut text, "What to change", finding.advice.iter().map(String::as_str));
    list(&mut text, "What no setting changes", LIMITS.iter().copied());
    let verdict = match &finding.refusal {
        None => "The strict policy is satisfied.".to_owned(),
        Some(refusal) => format!("The strict policy refuses: {refusal}"),
    };
    let _ = writeln!(text, "\n{verdict}");
    text
}

fn list<'a>(text: &mut String, heading: &str, lines: impl Iterator<Item = &'a str>) {
    for (at, line) in lines.enumerate() {
        let heading = if at == 0 { format!("\n{heading}\n") } else { String::new() };
        let _ = writeln!(text, "{heading}  {line}");
    }
}

fn kib(bytes: u64) -> String {
    if bytes == u64::MAX { "unlimited".to_owned() } else { format!("{} KiB", bytes / 1024) }
}
