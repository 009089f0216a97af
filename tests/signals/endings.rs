//! The test's side: victims are started, told to end, and how they ended is looked at.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};

use crate::victim::PLAY;

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

/// A name that says what is promised, and how that is tried.
type Test = (&'static str, fn() -> TestResult);

const TESTS: &[Test] = &[
    ("the_first_signal_runs_the_drains_in_order_and_ends_with_its_code", first_signal),
    ("the_second_signal_ends_at_once", second_signal),
    ("the_deadline_ends_a_drain_that_does_not", deadline),
    ("a_drain_given_late_is_waited_for", late_drain),
    ("a_drain_that_panics_keeps_no_other_from_its_turn", panicking_drain),
    ("a_program_that_ends_in_time_has_its_own_exit_code", in_time),
    ("a_waker_that_blocks_does_not_block_the_second_signal", blocking_waker),
    ("a_blocked_runtime_does_not_block_the_second_signal", blocked_runtime),
    ("a_signal_that_the_program_was_started_to_ignore_stays_ignored", ignored),
    ("a_caught_signal_runs_the_function_and_another_does_not", caught),
    ("signals_are_taken_over_once", || ends("installs twice", Some(0), None)),
    ("a_started_program_gets_signals_when_they_are_unblocked_in_it", || ends("starts others", Some(0), None)),
    ("a_safe_exit_has_its_code_and_a_safe_panic_that_of_panics", safe_ends),
    ("a_crash_ends_with_the_signal_that_it_would_have_ended_with", crashes),
    ("an_overflow_is_told_by_the_standard_library_as_ever", overflows),
];

pub(crate) fn run() -> ExitCode {
    let trial = |&(name, test): &Test| Trial::test(name, move || test().map_err(|error| error.to_string().into()));
    libtest_mimic::run(&Arguments::from_args(), TESTS.iter().map(trial).collect()).exit_code()
}

fn first_signal() -> TestResult {
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129), ("QUIT", 131)] {
        let mut victim = Victim::start("drains")?;
        victim.expect("ready")?;
        victim.signal(signal)?;
        let name = victim.line()?;
        let name = name.strip_prefix("first ").ok_or("not the first")?;
        victim.expect(&format!("second {name}"))?;
        victim.ended(Some(code), None)?;
    }
    Ok(())
}

fn second_signal() -> TestResult {
    let mut victim = Victim::start("drains for ever")?;
    victim.expect("ready")?;
    victim.signal("TERM")?;
    victim.expect("draining")?;
    victim.signal("INT")?;
    victim.ended(Some(130), None)?;
    Ok(())
}

fn deadline() -> TestResult {
    let mut victim = Victim::start("drains beyond the deadline")?;
    victim.expect("ready")?;
    victim.signal("TERM")?;
    victim.ended(Some(143), None)?;
    Ok(())
}

fn late_drain() -> TestResult {
    let mut victim = Victim::start("drains late")?;
    victim.expect("ready")?;
    victim.signal("TERM")?;
    victim.expect("late")?;
    victim.tell("answer")?;
    victim.expect("answer")?;
    victim.ended(Some(143), None)?;
    Ok(())
}

fn panicking_drain() -> TestResult {
    let mut victim = Victim::start("has a drain that panics")?;
    victim.expect("ready")?;
    victim.signal("TERM")?;
    victim.expect("the next")?;
    victim.ended(Some(143), None)?;
    Ok(())
}

fn in_time() -> TestResult {
    let mut victim = Victim::start("ends in time")?;
    victim.expect("ready")?;
    victim.signal("INT")?;
    victim.expect("Interrupt")?;
    victim.ended(Some(0), None)?;
    Ok(())
}

fn blocking_waker() -> TestResult {
    let mut victim = Victim::start("has a waker that blocks")?;
    victim.expect("ready")?;
    victim.signal("TERM")?;
    victim.expect("woken")?;
    victim.signal("TERM")?;
    victim.ended(Some(143), None)?;
    Ok(())
}

fn blocked_runtime() -> TestResult {
    let mut victim = Victim::start("has a blocked runtime")?;
    victim.expect("ready")?;
    // Two different ones, as one that is pending is not counted twice.
    victim.signal("INT")?;
    victim.signal("TERM")?;
    let status = victim.status()?;
    if ![Some(130), Some(143)].contains(&status.code()) {
        return Err(format!("ended with {status}").into());
    }
    Ok(())
}

fn ignored() -> TestResult {
    let program = std::env::current_exe()?;
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(program).args([PLAY, "drains"]);
    let mut victim = Victim::of(command)?;
    victim.expect("ready")?;
    victim.signal("HUP")?;
    victim.signal("TERM")?;
    victim.expect("first Terminate")?;
    victim.expect("second Terminate")?;
    victim.ended(Some(143), None)?;
    Ok(())
}

fn caught() -> TestResult {
    let mut victim = Victim::start("catches quit")?;
    victim.expect("ready")?;
    victim.signal("QUIT")?;
    victim.expect("caught Quit")?;
    victim.ended(Some(131), None)?;
    let mut victim = Victim::start("catches quit")?;
    victim.expect("ready")?;
    victim.signal("TERM")?;
    victim.ended(Some(143), None)?;
    Ok(())
}

fn safe_ends() -> TestResult {
    ends("exits safely", Some(3), None)?;
    ends("panics safely", Some(101), None)
}

fn crashes() -> TestResult {
    ends("aborts", None, Some(libc::SIGABRT))?;
    ends("faults", None, Some(libc::SIGSEGV))?;
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    ends("breaks", None, Some(libc::SIGTRAP))?;
    // Of a SIGSEGV or SIGBUS that somebody sent, the standard library takes the first for itself, here as ever.
    for (name, number) in [("ILL", libc::SIGILL), ("FPE", libc::SIGFPE), ("SYS", libc::SIGSYS)] {
        let mut victim = Victim::start("waits")?;
        victim.expect("ready")?;
        victim.signal(name)?;
        victim.ended(None, Some(number))?;
    }
    Ok(())
}

fn overflows() -> TestResult {
    for scene in ["overflows its stack", "overflows without another stack"] {
        let complaint = Victim::start(scene)?.ended(None, Some(libc::SIGABRT))?;
        if !complaint.contains("has overflowed its stack") {
            return Err(format!("{scene}: {complaint}").into());
        }
    }
    Ok(())
}

/// Plays a scene to its end.
fn ends(scene: &str, code: Option<i32>, signal: Option<i32>) -> TestResult {
    Victim::start(scene)?.ended(code, signal).map(drop)
}

/// How long a victim may take for anything, on the slowest machine; killed after that.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that plays a scene; killed when dropped.
struct Victim {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    complaints: Receiver<String>,
}

impl Victim {
    fn start(scene: &str) -> TestResult<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([PLAY, scene]);
        Self::of(command)
    }

    fn of(mut command: Command) -> TestResult<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().ok_or("no stdin")?;
        let lines = lines_of(child.stdout.take().ok_or("no stdout")?);
        let complaints = lines_of(child.stderr.take().ok_or("no stderr")?);
        Ok(Self { child, stdin, lines, complaints })
    }

    fn line(&mut self) -> TestResult<String> {
        self.lines.recv_timeout(PATIENCE).map_err(|error| {
            let complaint: Vec<String> = self.complaints.try_iter().collect();
            format!("{error}; {}", complaint.join("\n")).into()
        })
    }

    fn expect(&mut self, line: &str) -> TestResult {
        let found = self.line()?;
        if found == line { Ok(()) } else { Err(format!("{found:?} instead of {line:?}").into()) }
    }

    fn tell(&mut self, line: &str) -> TestResult {
        Ok(writeln!(self.stdin, "{line}")?)
    }

    fn signal(&self, name: &str) -> TestResult {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status()?;
        if sent.success() { Ok(()) } else { Err(format!("kill -{name}: {sent}").into()) }
    }

    /// Waits for the end.
    fn status(&mut self) -> TestResult<ExitStatus> {
        // Its output ends with it.
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Err(format!("said {line:?} instead of ending").into()),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err("does not end".into()),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Ok(self.child.wait()?),
        }
    }

    /// Waits for an end by exit code or signal, and returns what was complained about.
    fn ended(mut self, code: Option<i32>, signal: Option<i32>) -> TestResult<String> {
        let status = self.status()?;
        let complaint = self.complaints.iter().collect::<Vec<_>>().join("\n");
        if (status.code(), status.signal()) == (code, signal) {
            return Ok(complaint);
        }
        Err(format!("ended with {status}: {complaint}").into())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Nothing to kill is what a test hopes for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
