//! The parent's side of a victim: started, talked to line by line, searched, and opened up when it dies.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::TestResult;
use crate::os::{Change, Process};
use crate::scan::{self, Found, Needles};
use crate::stage::{DEAD, VARIABLE};

/// How long a victim may live; then it is killed, and whoever waits for it is told.
const LIMIT: Duration = Duration::from_secs(100);

/// A process that keeps keys; killed and waited for when dropped.
pub(crate) struct Victim {
    process: Process,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    errors: ChildStderr,
    ended: Option<ExitStatus>,
    overdue: Arc<AtomicBool>,
    /// Dropped when nobody has to watch any more.
    _watch: Sender<()>,
}

/// How a victim ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) status: ExitStatus,
    /// What it wrote to stderr.
    pub(crate) errors: String,
}

/// What was in a victim's memory when it was about to exit, and how it did.
pub(crate) struct Autopsy {
    pub(crate) found: Found,
    pub(crate) ending: Ending,
}

impl Victim {
    /// Starts this program again, to play a scenario, named with its arguments.
    pub(crate) fn start(scenario: impl fmt::Display) -> TestResult<Self> {
        Self::start_in(Path::new("."), scenario)
    }

    /// As [`start`](Self::start), in another directory.
    pub(crate) fn start_in(directory: &Path, scenario: impl fmt::Display) -> TestResult<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .current_dir(directory)
            .env(VARIABLE, scenario.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let process = Process::adopt(child.id())?;
        let missing = || io::Error::other("a pipe was asked for");
        let (input, output) = (child.stdin.take().ok_or_else(missing)?, child.stdout.take().ok_or_else(missing)?);
        let errors = child.stderr.take().ok_or_else(missing)?;
        let overdue = Arc::new(AtomicBool::new(false));
        let watch = watch(process.again()?, Arc::clone(&overdue));
        let (input, output) = (Some(input), BufReader::new(output));
        Ok(Self { process, input, output, errors, ended: None, overdue, _watch: watch })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Reads the next line.
    pub(crate) fn line(&mut self) -> TestResult<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(self.premature("a line").into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Reads the next line, which begins with `word`, and returns the rest.
    pub(crate) fn expect(&mut self, word: &str) -> TestResult<String> {
        let line = self.line()?;
        match line.strip_prefix(word) {
            Some(rest) => Ok(rest.trim_start().to_owned()),
            None => Err(format!("expected `{word}`, the victim said `{line}`").into()),
        }
    }

    /// Ends the victim's waiting for a line.
    pub(crate) fn tell(&mut self, line: impl fmt::Display) -> TestResult {
        let input = self.input.as_mut().ok_or("the victim is told nothing any more")?;
        writeln!(input, "{line}")?;
        Ok(())
    }

    /// Searches all its memory, which should stand still meanwhile.
    pub(crate) fn search(&self, needles: &Needles) -> io::Result<Found> {
        scan::process(self.pid(), needles)
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        self.process.signal(signal)
    }

    /// Becomes its tracer, for as long as this thread lives.
    pub(crate) fn trace(&self) -> io::Result<()> {
        self.process.stop_at_exit()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> TestResult<Ending> {
        self.input = None;
        match self.process.wait()? {
            Change::Ended(status) => self.ending(status),
            _ => Err("the victim stopped".into()),
        }
    }

    /// Has the victim stop before it exits, whatever for, once `kill` has been the cause of that; searches its memory then.
    ///
    /// Memory is still mapped at that point, and no other thread runs any more: what is found stays in the pages that the
    /// system gets back.
    pub(crate) fn die_of(
        mut self,
        needles: &Needles,
        kill: impl FnOnce(&mut Self) -> TestResult,
    ) -> TestResult<Autopsy> {
        self.process.stop_at_exit()?;
        kill(&mut self)?;
        let mut found = None;
        let status = loop {
            match self.process.wait()? {
                Change::Signal(signal) => self.process.go_on(signal)?,
                Change::Stopped => self.process.go_on(0)?,
                Change::AtExit => {
                    self.wait_for_other_threads()?;
                    found = Some(self.search(needles)?);
                    self.process.go_on(0)?;
                }
                Change::Ended(status) => break status,
            }
        };
        let ending = self.ending(status)?;
        let found = found.ok_or_else(|| format!("the victim did not stop before it exited: {ending:?}"))?;
        Ok(Autopsy { found, ending })
    }

    /// The first thread waits for its tracer; the others end by themselves.
    fn wait_for_other_threads(&self) -> TestResult {
        let began = Instant::now();
        loop {
            // A thread that has exited and was not yet taken off the list does not run either.
            let alive = fs::read_dir(format!("/proc/{}/task", self.pid()))?.filter(|task| {
                let stat = task.as_ref().map(|task| fs::read_to_string(task.path().join("stat")));
                matches!(stat, Ok(Ok(stat)) if !stat.contains(") Z ") && !stat.contains(") X "))
            });
            if alive.count() <= 1 {
                return Ok(());
            }
            if began.elapsed() > LIMIT {
                return Err("the victim's threads go on".into());
            }
            thread::yield_now();
        }
    }

    fn ending(&mut self, status: ExitStatus) -> TestResult<Ending> {
        self.ended = Some(status);
        let mut errors = String::new();
        self.errors.read_to_string(&mut errors)?;
        if self.overdue.load(Ordering::Acquire) {
            return Err(format!("the victim was killed after {LIMIT:?}; stderr: {errors}").into());
        }
        if status.code() == Some(DEAD) {
            return Err(format!("the scenario failed: {errors}").into());
        }
        Ok(Ending { status, errors })
    }

    /// Says how a victim ended that was to live.
    fn premature(&mut self, expected: &str) -> String {
        let how = match self.process.wait() {
            Ok(Change::Ended(status)) => format!("{:?}", self.ending(status)),
            other => format!("stopped: {}", other.is_ok()),
        };
        format!("expected {expected}, the victim ended: {how}")
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if self.ended.is_some() || self.process.signal(libc::SIGKILL).is_err() {
            return;
        }
        while let Ok(change) = self.process.wait() {
            if matches!(change, Change::Ended(_)) || self.process.go_on(0).is_err() {
                return;
            }
        }
    }
}

impl Ending {
    /// Fails unless the victim ended by itself, well.
    pub(crate) fn well(&self) -> TestResult {
        self.with_code(0)
    }

    pub(crate) fn with_code(&self, code: i32) -> TestResult {
        if self.status.code() == Some(code) {
            Ok(())
        } else {
            Err(format!("expected exit code {code}: {self:?}").into())
        }
    }

    pub(crate) fn by_signal(&self, signal: i32) -> TestResult {
        let by = self.status.signal();
        if by == Some(signal) { Ok(()) } else { Err(format!("expected signal {signal}: {self:?}").into()) }
    }
}

/// Kills the process unless the sender is dropped in time.
fn watch(process: Process, overdue: Arc<AtomicBool>) -> Sender<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        if receiver.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            overdue.store(true, Ordering::Release);
            // It may have ended at this moment, and then needs no killing.
            let _ = process.signal(libc::SIGKILL);
        }
    });
    sender
}
