//! The system calls of the suite, each as a safe function; the only other `unsafe` is in `raw.rs`.
#![expect(unsafe_code, reason = "calls that neither the standard library nor the crate under test has")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;

/// The user and group without rights that every system has.
pub(crate) const NOBODY: u32 = 65_534;

fn check(outcome: i64) -> io::Result<i64> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

pub(crate) fn is_root() -> bool {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::geteuid() == 0 }
}

/// Has this process go on as nobody, readable by that user's other processes as if it had been started so: changing the
/// user forbids that, prctl(2).
pub(crate) fn become_nobody() -> io::Result<()> {
    if is_root() {
        // SAFETY: passes no list, and integers.
        unsafe {
            check(libc::setgroups(0, ptr::null()).into())?;
            check(libc::setresgid(NOBODY, NOBODY, NOBODY).into())?;
            check(libc::setresuid(NOBODY, NOBODY, NOBODY).into())?;
        }
    }
    // SAFETY: sets an attribute of the process by value.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }.into())?;
    Ok(())
}

/// Has this process end when the thread that started it does.
pub(crate) fn end_with_parent() -> io::Result<()> {
    // SAFETY: sets an attribute of the process by value.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }.into())?;
    Ok(())
}

pub(crate) type Resource = libc::__rlimit_resource_t;

/// Returns the soft and the hard limit.
pub(crate) fn limit(resource: Resource) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes to a structure of this frame.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) }.into())?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

pub(crate) fn set_limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: reads a structure of this frame.
    check(unsafe { libc::setrlimit(resource, &raw const limit) }.into())?;
    Ok(())
}

/// Makes and drops a memfd_secret, to see whether the kernel has it.
pub(crate) fn try_memfd_secret() -> io::Result<OwnedFd> {
    // SAFETY: takes one flag and returns a new descriptor or -1.
    let descriptor = check(unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) })?;
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: opened above and owned by nothing else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A child that is not waited for by the standard library.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    handle: OwnedFd,
}

impl Process {
    /// Takes charge of a child that was just started and not waited for.
    pub(crate) fn adopt(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        // SAFETY: takes integers and returns a new descriptor or -1.
        let descriptor = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
        // SAFETY: opened above and owned by nothing else.
        Ok(Self { pid, handle: unsafe { OwnedFd::from_raw_fd(descriptor) } })
    }

    /// Another handle on the same process, for another thread.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(Self { pid: self.pid, handle: self.handle.try_clone()? })
    }

    /// Sends a signal; never to a later process of the same number.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        let (handle, no_info) = (self.handle.as_raw_fd(), ptr::null::<libc::siginfo_t>());
        // SAFETY: a descriptor of this value's, and no information.
        check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle, signal, no_info, 0) })?;
        Ok(())
    }

    /// Waits until the process stops for its tracer or ends.
    pub(crate) fn wait(&self) -> io::Result<Change> {
        let mut status = 0;
        loop {
            // SAFETY: writes to an integer of this frame.
            match check(unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) }.into()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map(drop)?,
            }
        }
        if !libc::WIFSTOPPED(status) {
            return Ok(Change::Ended(ExitStatus::from_raw(status)));
        }
        Ok(match status >> 16 {
            0 => Change::Signal(libc::WSTOPSIG(status)),
            libc::PTRACE_EVENT_EXIT => Change::AtExit,
            _ => Change::Stopped,
        })
    }

    /// Becomes the tracer of the process's first thread, which will stop before it exits, its memory still there;
    /// ptrace(2). Only the calling thread may then call [`go_on`](Self::go_on).
    pub(crate) fn stop_at_exit(&self) -> io::Result<()> {
        let options = libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_EXITKILL;
        self.trace(libc::PTRACE_SEIZE, options)
    }

    /// Lets a stopped process go on, delivering `signal` unless it is 0.
    pub(crate) fn go_on(&self, signal: i32) -> io::Result<()> {
        self.trace(libc::PTRACE_CONT, signal)
    }

    fn trace(&self, request: libc::c_uint, data: i32) -> io::Result<()> {
        let data = ptr::without_provenance_mut::<libc::c_void>(usize::try_from(data).map_err(io::Error::other)?);
        // SAFETY: neither request reads or writes memory of this process; the data is an integer.
        check(unsafe { libc::ptrace(request, self.pid, ptr::null_mut::<libc::c_void>(), data) })?;
        Ok(())
    }
}

/// What a wait ended with.
pub(crate) enum Change {
    /// The tracee is about to receive a signal.
    Signal(i32),
    /// The tracee is about to exit.
    AtExit,
    /// The tracee stopped for another reason.
    Stopped,
    Ended(ExitStatus),
}

/// Tries what a debugger begins with, on a process that this one did not start.
pub(crate) fn try_to_trace(pid: i32) -> io::Result<()> {
    // SAFETY: the request reads and writes no memory of this process.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, ptr::null_mut::<libc::c_void>(), 0_usize) })?;
    Ok(())
}

/// Tries to copy memory out of another process, process_vm_readv(2).
pub(crate) fn try_to_copy(pid: i32, address: usize, into: &mut [u8]) -> io::Result<usize> {
    let here = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let there = libc::iovec { iov_base: ptr::without_provenance_mut(address), iov_len: into.len() };
    // SAFETY: writes into the slice at most its length; the other address is the kernel's to check.
    let copied = check(unsafe { libc::process_vm_readv(pid, &raw const here, 1, &raw const there, 1, 0) } as i64)?;
    usize::try_from(copied).map_err(io::Error::other)
}

/// Runs `child` in a fork of this process, which must have one thread, and returns how that ended.
pub(crate) fn in_fork(child: impl FnOnce()) -> io::Result<ExitStatus> {
    // SAFETY: the process has one thread, says the caller, so the child finds no lock taken.
    match check(unsafe { libc::fork() }.into())? {
        0 => {
            child();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) }
        }
        pid => {
            let process = Process::adopt(u32::try_from(pid).map_err(io::Error::other)?)?;
            match process.wait()? {
                Change::Ended(status) => Ok(status),
                _ => Err(io::Error::other("the fork stopped")),
            }
        }
    }
}

/// Ends a fork that found something wrong.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(code) }
}
