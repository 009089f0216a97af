//! `keyward doctor`, and the command where memory cannot be locked.

#![cfg(all(feature = "cli", feature = "sqlite", unix))]

use std::error::Error;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

const KEYWARD: &str = env!("CARGO_BIN_EXE_keyward");

#[test]
fn the_doctor_finds_the_strict_policy_satisfied_and_makes_no_file() -> TestResult {
    let folder = tempfile::tempdir()?;
    let output = run(&mut Command::new(KEYWARD), &folder, &["doctor"])?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in ["backend", "limit", "  active     canaries", "  active     wiped on crashes", "policy is satisfied"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0);

    let (json, code) = report(Command::new(KEYWARD), &folder, &[])?;
    assert_eq!((code, &json["strict_satisfied"], &json["report"]["degraded"]), (0, &true.into(), &false.into()));
    let hidden = protection(&json, "hidden from other processes and the kernel");
    if hidden["active"] != true {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "on CI the kernel has memfd_secret: {hidden}");
        eprintln!("SKIP memfd_secret: {}", hidden["cause"]);
        return Ok(());
    }
    assert_eq!(json["report"]["arena"]["backend"], "memfd_secret");
    Ok(())
}

#[test]
fn the_size_that_is_asked_for_is_tried() -> TestResult {
    let folder = tempfile::tempdir()?;
    let (json, _) = report(Command::new(KEYWARD), &folder, &["--memory-size", "64K"])?;
    assert_eq!(json["report"]["arena"]["locked_bytes"], 65_536);
    Ok(())
}

#[test]
fn under_a_limit_of_nothing_the_doctor_names_it_and_ends_with_78_whatever_the_policy() -> TestResult {
    let folder = tempfile::tempdir()?;
    for options in [&[][..], &["--memory-policy", "relaxed"], &["--memory-policy", "strict"]] {
        let Some(confined) = limited(0)? else { return Ok(()) };
        let (json, code) = report(confined, &folder, options)?;
        assert_eq!((code, &json["strict_satisfied"]), (78, &false.into()), "{options:?}");
        let refusal = json["refusal"].as_str().ok_or("no refusal")?;
        assert!(refusal.contains("limit 0 soft / 0 hard"), "{refusal}");
        assert_eq!(json["report"]["arena"]["backend"], "unlocked", "what a relaxed start gets is shown");
        let swapped = protection(&json, "never swapped");
        assert!(swapped["active"] == false && swapped["errno"].is_i64(), "{swapped}");
        let advice = json["advice"].to_string();
        for part in ["ulimit -l", "LimitMEMLOCK=", "--ulimit memlock=", "Kubernetes", "IPC_LOCK"] {
            assert!(advice.contains(part), "{part} is not in {advice}");
        }
    }
    Ok(())
}

#[test]
fn under_a_low_limit_the_strict_policy_is_satisfied_by_a_smaller_arena() -> TestResult {
    let folder = tempfile::tempdir()?;
    let Some(confined) = limited(64)? else { return Ok(()) };
    let (json, code) = report(confined, &folder, &[])?;
    assert_eq!((code, &json["strict_satisfied"]), (0, &true.into()));
    let locked = json["report"]["arena"]["locked_bytes"].as_u64().ok_or("no size")?;
    assert!((1..=65_536).contains(&locked), "{locked}");
    assert!(json["advice"].to_string().contains("65536 bytes leaves room for less"), "{}", json["advice"]);
    Ok(())
}

#[test]
fn without_locked_memory_a_command_starts_under_the_relaxed_policy_alone() -> TestResult {
    let folder = tempfile::tempdir()?;
    let Some(mut confined) = limited(0)? else { return Ok(()) };
    let strict = run(&mut confined, &folder, &["demo"])?;
    let complaint = String::from_utf8(strict.stderr)?;
    assert_eq!((strict.status.code(), strict.stdout.len()), (Some(78), 0), "{complaint}");
    assert!(complaint.contains("limit 0 soft / 0 hard") && complaint.contains("hint: `keyward doctor`"), "{complaint}");

    let Some(mut confined) = limited(0)? else { return Ok(()) };
    let relaxed = run(confined.env("KEYWARD_MEMORY_POLICY", "relaxed"), &folder, &["demo"])?;
    let (story, warning) = (String::from_utf8(relaxed.stdout)?, String::from_utf8(relaxed.stderr)?);
    assert!(relaxed.status.success(), "{warning}");
    assert!(warning.contains("WARN") && warning.contains("not locked"), "{warning}");
    assert!(story.contains("backend unlocked"), "{story}");
    Ok(())
}

fn run(command: &mut Command, folder: &TempDir, arguments: &[&str]) -> TestResult<Output> {
    Ok(command.args(arguments).current_dir(folder.path()).stdin(Stdio::null()).output()?)
}

/// Returns what the doctor says to programs, and its exit code.
fn report(mut command: Command, folder: &TempDir, options: &[&str]) -> TestResult<(Value, i32)> {
    let output = run(&mut command, folder, &[&["doctor", "--json"], options].concat())?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {complaint}"))?;
    Ok((json, output.status.code().ok_or("no exit code")?))
}

fn protection<'a>(json: &'a Value, name: &str) -> &'a Value {
    let of_arena = json["report"]["arena"]["protections"].as_array().expect("an arena");
    of_arena.iter().find(|protection| protection["name"] == name).expect("a protection of this name")
}

/// The command, unable to lock more than so many KiB: root is exempt unless it gives up CAP_IPC_LOCK. `None`, said aloud,
/// where it cannot be taken away.
fn limited(kib: u32) -> TestResult<Option<Command>> {
    const LIMIT: &str = "ulimit -l \"$1\" && shift && exec \"$@\"";
    let is_root = Command::new("id").arg("-u").output()?.stdout == b"0\n";
    let mut command = if is_root { Command::new("setpriv") } else { Command::new("sh") };
    if is_root {
        if Command::new("setpriv").arg("--version").output().is_err() {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "on CI there is setpriv, of util-linux");
            eprintln!("SKIP lock limits: root without setpriv is exempt from them");
            return Ok(None);
        }
        command.args(["--inh-caps", "-ipc_lock", "--bounding-set", "-ipc_lock", "sh"]);
    }
    command.args(["-c", LIMIT, "sh", &kib.to_string(), KEYWARD]);
    Ok(Some(command))
}
