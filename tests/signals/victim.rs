//! The victim's side: what it does until it is ended.

use std::future::Future;
use std::io::{self, BufRead, Write};
use std::pin::pin;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use keyward::MemoryError;
use keyward::memory::signals::{
    Shutdown, Signal, SignalSettings, catch_signals, install, safe_exit, safe_panic, unblock_in,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// What the victim is told to play, as the first argument.
pub(crate) const PLAY: &str = "--play";

/// A name, and what the victim then does.
type Scene = (&'static str, fn() -> Outcome);

const SCENES: &[Scene] = &[
    ("waits", waits),
    ("drains", drains),
    ("drains for ever", drains_for_ever),
    ("drains beyond the deadline", drains_beyond_the_deadline),
    ("drains late", drains_late),
    ("has a drain that panics", has_a_drain_that_panics),
    ("ends in time", ends_in_time),
    ("has a waker that blocks", has_a_waker_that_blocks),
    ("has a blocked runtime", has_a_blocked_runtime),
    ("catches quit", catches_quit),
    ("installs twice", installs_twice),
    ("starts others", starts_others),
    ("exits safely", || safe_exit(3)),
    ("panics safely", || safe_panic("over")),
    ("aborts", aborts),
    ("faults", faults),
    ("overflows its stack", overflows_its_stack),
    ("overflows without another stack", overflows_without_another_stack),
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    ("breaks", breaks),
];

/// Plays a scene if this process was started as a victim.
pub(crate) fn play() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(PLAY) {
        return None;
    }
    let name = arguments.next().unwrap_or_default();
    let scene = SCENES.iter().find(|(of, _)| *of == name);
    let outcome = scene.map_or_else(|| Err(format!("no scene {name}").into()), |(_, scene)| scene());
    if let Err(error) = &outcome {
        eprintln!("{error}");
    }
    Some(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// So long that a test which waits for it fails.
const NEVER: SignalSettings =
    SignalSettings { drain: Duration::from_secs(3600), crash_handlers: true, at_exit: true, wipe_on_panic: false };

fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).expect("the test reads on");
}

fn hear() -> String {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).expect("the test writes lines");
    line.trim_end().to_owned()
}

fn for_ever() -> ! {
    loop {
        thread::park();
    }
}

fn ready() -> ! {
    say("ready");
    for_ever()
}

fn waits() -> Outcome {
    let _shutdown = install(&NEVER)?;
    ready()
}

fn drains() -> Outcome {
    let shutdown = install(&NEVER)?;
    shutdown.drain_with(|signal| say(&format!("first {signal:?}")));
    shutdown.drain_with(|signal| say(&format!("second {signal:?}")));
    ready()
}

fn drains_for_ever() -> Outcome {
    install(&NEVER)?.drain_with(|_| {
        say("draining");
        for_ever()
    });
    ready()
}

fn drains_beyond_the_deadline() -> Outcome {
    install(&SignalSettings { drain: Duration::from_millis(20), ..NEVER })?.drain_with(|_| for_ever());
    ready()
}

fn drains_late() -> Outcome {
    let shutdown = install(&NEVER)?;
    let late = shutdown.clone();
    shutdown.drain_with(move |_| {
        late.drain_with(|_| {
            say("late");
            say(&hear());
        });
    });
    ready()
}

fn has_a_drain_that_panics() -> Outcome {
    let shutdown = install(&NEVER)?;
    shutdown.drain_with(|_| std::panic::resume_unwind(Box::new("a drain")));
    shutdown.drain_with(|_| say("the next"));
    ready()
}

fn ends_in_time() -> Outcome {
    let shutdown = install(&NEVER)?;
    say("ready");
    let signal = wait(&shutdown);
    say(&format!("{signal:?}"));
    Ok(())
}

fn has_a_waker_that_blocks() -> Outcome {
    struct Blocks;
    impl Wake for Blocks {
        fn wake(self: Arc<Self>) {
            say("woken");
            for_ever()
        }
    }
    let shutdown = install(&NEVER)?;
    let waker = Waker::from(Arc::new(Blocks));
    let mut waits = pin!(shutdown.requested());
    if waits.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
        return Err("nobody sent a signal".into());
    }
    ready()
}

fn has_a_blocked_runtime() -> Outcome {
    let shutdown = install(&NEVER)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        tokio::spawn(async move { shutdown.requested().await });
        tokio::task::yield_now().await;
        ready()
    })
}

fn catches_quit() -> Outcome {
    catch_signals(&[Signal::Quit], |signal| say(&format!("caught {signal:?}")))?;
    ready()
}

fn installs_twice() -> Outcome {
    install(&NEVER)?;
    match install(&NEVER) {
        Err(MemoryError::Installed) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

/// Starts `cat`, which waits for input that never comes, and ends it as a supervisor does.
fn starts_others() -> Outcome {
    use std::os::unix::process::ExitStatusExt as _;

    install(&NEVER)?;
    for (unblocked, ends_over) in [(true, Some(15)), (false, None)] {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped());
        if unblocked {
            unblock_in(&mut command);
        }
        let mut child = command.spawn()?;
        // The signal is pending, or has ended the child, when this returns; so input that ends comes after it.
        let sent = unblock_in(Command::new("kill").args(["-TERM", &child.id().to_string()])).status()?;
        if !sent.success() {
            return Err("kill failed".into());
        }
        drop(child.stdin.take());
        let status = child.wait()?;
        if status.signal() != ends_over {
            return Err(format!("unblocked: {unblocked}, ended with {status}").into());
        }
    }
    Ok(())
}

fn aborts() -> Outcome {
    install(&NEVER)?;
    std::process::abort()
}

#[expect(unsafe_code, reason = "a fault")]
fn faults() -> Outcome {
    install(&NEVER)?;
    // SAFETY: there is none; the kernel ends the process here.
    unsafe { std::ptr::without_provenance_mut::<u8>(64).write_volatile(1) };
    Err("a write to nowhere went well".into())
}

fn overflows_its_stack() -> Outcome {
    install(&NEVER)?;
    Err(format!("{} frames", frames(0)).into())
}

/// As the main thread of a program whose `main` is not Rust's.
#[expect(unsafe_code, reason = "taking the alternate stack away")]
fn overflows_without_another_stack() -> Outcome {
    let none = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: reads what is borrowed for the call; no handler runs now.
    if unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    overflows_its_stack()
}

fn frames(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 512]);
    if depth == u64::MAX { 0 } else { frames(depth + 1) + frame[7].min(1) }
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[expect(unsafe_code, reason = "a breakpoint")]
fn breaks() -> Outcome {
    install(&NEVER)?;
    // SAFETY: changes no register; without a debugger the kernel ends the process.
    unsafe { std::arch::asm!("int3") };
    Err("a breakpoint was passed by".into())
}

/// Waits without a runtime.
fn wait(shutdown: &Shutdown) -> Signal {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut waits = pin!(shutdown.requested());
    loop {
        match waits.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(signal) => return signal,
            Poll::Pending => thread::park(),
        }
    }
}
