//! The command when a signal ends it: at once, with 128 and the signal's number, and without leaving halves.

#![cfg(all(feature = "cli", feature = "sqlite", unix))]

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

/// How long anything may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_command_that_waits_for_input_ends_at_once() -> TestResult {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("QUIT", 131)] {
        let folder = tempfile::tempdir()?;
        let mut child = start(folder.path(), &["encrypt", "--partition", "alice", "--out", "record"])?;
        let mut pipe = child.stdin.take().ok_or("no stdin")?;
        // More than a pipe holds: when it is written, the command reads.
        pipe.write_all(&[7; 1 << 20])?;
        let output = end(child, signal)?;
        assert_eq!(output.status.code(), Some(code), "{signal}: {output:?}");
        assert_eq!((output.stdout.len(), output.stderr.len()), (0, 0), "{signal}: {output:?}");
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "nothing was begun");
        drop(pipe);
    }
    Ok(())
}

#[test]
fn a_command_that_is_cut_off_while_it_encrypts_leaves_no_half_output() -> TestResult {
    let world = World::new()?;
    // Somebody has the store for himself, so that a new tenant's key waits, and the output with it.
    let store = rusqlite::Connection::open(world.folder.path().join("keyward.db"))?;
    store.execute_batch("BEGIN EXCLUSIVE")?;
    world.is_cut_off(&[])
}

#[test]
fn a_command_that_is_cut_off_while_it_hangs_leaves_no_half_output() -> TestResult {
    let world = World::new()?;
    // A pipe that nobody writes to stands where the master key should.
    assert!(Command::new("mkfifo").arg(world.folder.path().join("pipe")).status()?.success());
    world.is_cut_off(&["--kms", "local:pipe"])
}

#[test]
fn a_file_that_is_cut_off_while_it_is_re_wrapped_ends_with_a_whole_line_and_can_be_resumed() -> TestResult {
    let world = World::new()?;
    let (folder, lines) = (world.folder.path(), 500);
    std::fs::write(folder.join("old"), world.record.repeat(lines))?;
    run(folder, &["keys", "rotate", "--partition", "alice", "--execute"])?;
    let rewrap = ["keys", "rewrap", "--in", "old", "--out", "new", "--execute"];
    let mut child = start(folder, &[&rewrap[..], &["--rate", "100"]].concat())?;
    let began = Instant::now();
    while std::fs::read(folder.join("new")).map_or(0, |new| new.len()) < 2 * world.record.len() {
        assert!(began.elapsed() < PATIENCE && child.try_wait()?.is_none(), "no output was begun");
        thread::yield_now();
    }
    let output = end(child, "INT")?;
    assert_eq!((output.status.code(), output.stdout.len(), output.stderr.len()), (Some(130), 0, 0), "{output:?}");
    let part = std::fs::read_to_string(folder.join("new"))?;
    assert!(part.ends_with('\n') && (1..lines).contains(&part.lines().count()), "{} lines", part.lines().count());
    run(folder, &[&rewrap[..], &["--resume"]].concat())?;
    let whole = std::fs::read_to_string(folder.join("new"))?;
    assert!(whole.starts_with(&part));
    assert_eq!(whole.lines().count(), lines);
    Ok(())
}

/// A folder with a record of alice's.
struct World {
    folder: TempDir,
    record: Vec<u8>,
}

impl World {
    fn new() -> TestResult<Self> {
        let folder = tempfile::tempdir()?;
        let mut child = start(folder.path(), &["encrypt", "--partition", "alice", "--out", "record"])?;
        drop(child.stdin.take());
        assert!(child.wait()?.success());
        let record = std::fs::read(folder.path().join("record"))?;
        Ok(Self { folder, record })
    }

    /// Begins to replace the record by one of bob's, which does not come to an end, and ends that by a signal.
    fn is_cut_off(&self, options: &[&str]) -> TestResult {
        let folder = self.folder.path();
        let encrypt = ["encrypt", "--partition", "bob", "--out", "record"];
        let mut child = start(folder, &[&encrypt, options].concat())?;
        drop(child.stdin.take());
        let began = Instant::now();
        while !has_half_output(folder)? {
            assert!(began.elapsed() < PATIENCE && child.try_wait()?.is_none(), "no output was begun");
            thread::yield_now();
        }
        let output = end(child, "TERM")?;
        assert_eq!(output.status.code(), Some(143), "{output:?}");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!complaint.contains("keyward: "), "what a signal cut off is no failure: {complaint}");
        assert!(!has_half_output(folder)?);
        assert_eq!(std::fs::read(folder.join("record"))?, self.record);
        Ok(())
    }
}

fn has_half_output(folder: &Path) -> TestResult<bool> {
    for entry in std::fs::read_dir(folder)? {
        if entry?.file_name().to_string_lossy().starts_with(".keyward-") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Runs a command that succeeds.
fn run(folder: &Path, arguments: &[&str]) -> TestResult {
    let output = start(folder, arguments)?.wait_with_output()?;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn start(folder: &Path, arguments: &[&str]) -> TestResult<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
    command.args(arguments).current_dir(folder);
    Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// Sends a signal and waits for the end.
fn end(child: Child, signal: &str) -> TestResult<Output> {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status()?.success());
    let (send, ended) = mpsc::channel();
    thread::spawn(move || send.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(PATIENCE) else {
        Command::new("kill").args(["-KILL", &id]).status()?;
        return Err(format!("SIG{signal} did not end it").into());
    };
    Ok(output?)
}
