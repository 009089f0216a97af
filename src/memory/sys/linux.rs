//! Linux, by its own calls.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use super::posix::mapped;
use super::{Access, Limits, check, lock_limits};

/// Keeps a range out of core files: MADV_DONTDUMP, madvise(2).
///
/// # Safety
/// The range must be a mapping of the caller's.
#[expect(unsafe_code, reason = "madvise")]
pub(in super::super) unsafe fn exclude_from_dumps(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's own mapping; the advice does not change what the process reads.
    unsafe { advise(at, bytes, libc::MADV_DONTDUMP) }
}

/// Has a forked child find a private range zeroed: MADV_WIPEONFORK, madvise(2).
///
/// # Safety
/// As for [`exclude_from_dumps`].
#[expect(unsafe_code, reason = "madvise")]
pub(in super::super) unsafe fn clear_on_fork(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: as above.
    unsafe { advise(at, bytes, libc::MADV_WIPEONFORK) }
}

/// Has a forked child not find a range at all: MADV_DONTFORK, madvise(2).
///
/// # Safety
/// As for [`exclude_from_dumps`].
#[expect(unsafe_code, reason = "madvise")]
pub(in super::super) unsafe fn remove_on_fork(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: as above.
    unsafe { advise(at, bytes, libc::MADV_DONTFORK) }
}

#[expect(unsafe_code, reason = "madvise")]
unsafe fn advise(at: NonNull<u8>, bytes: usize, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: the caller's own mapping, and an advice that leaves its contents alone.
    check(unsafe { libc::madvise(at.as_ptr().cast(), bytes, advice) })
}

/// Memory that the kernel hides from everybody but this process, itself included, and zeroes when it is freed:
/// memfd_secret(2). Lives on in its mappings when this is dropped, and should be: whoever may read the process's
/// descriptors could map it.
pub(in super::super) struct SecretFile(File);

/// Makes secret memory of `bytes`.
#[expect(unsafe_code, reason = "memfd_secret has no wrapper in libc")]
pub(in super::super) fn secret_file(bytes: usize) -> io::Result<SecretFile> {
    // SAFETY: the call takes one flag and returns a new descriptor or -1.
    let descriptor = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let Some(descriptor) = i32::try_from(descriptor).ok().filter(|&descriptor| descriptor >= 0) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: the descriptor was opened in the line above and is owned by nothing else.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    file.set_len(bytes as u64)?;
    Ok(SecretFile(file))
}

/// Tells whether secret memory can be mapped: the limit on locked memory is checked when it is.
#[expect(unsafe_code, reason = "mmap")]
pub(in super::super) fn try_secret(file: &SecretFile, bytes: usize) -> io::Result<()> {
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
    let at = mapped(unsafe {
        libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, libc::MAP_SHARED, file.0.as_raw_fd(), 0)
    })?;
    // SAFETY: made in the lines above, and nobody knows of it.
    unsafe { super::unmap(at, bytes) }
}

/// Maps secret memory over part of a mapping of the caller's, which is gone when this fails. A page comes with the first touch, whatever mmap(2) is asked
/// for, and then stays resident; a touch for which the system has no page left ends the process with SIGBUS.
///
/// # Safety
/// The range must lie in a mapping of the caller's, and nothing may refer to it.
#[expect(unsafe_code, reason = "mmap")]
pub(in super::super) unsafe fn map_secret(
    file: &SecretFile,
    at: NonNull<u8>,
    bytes: usize,
    access: Access,
) -> io::Result<()> {
    let protection = if access == Access::ReadWrite { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    // SAFETY: replaces part of the caller's own mapping, which nothing refers to.
    mapped(unsafe { libc::mmap(at.as_ptr().cast(), bytes, protection, flags, file.0.as_raw_fd(), 0) })?;
    Ok(())
}

/// Returns the lock limit and what is used of it.
pub(in super::super) fn limits() -> Limits {
    let (soft, hard) = lock_limits();
    Limits { soft, hard, locked: kilobytes_of("VmLck:").unwrap_or(0) * 1024 }
}

/// Keeps other processes of the same user from reading this one's memory and tracing it: PR_SET_DUMPABLE, prctl(2).
#[expect(unsafe_code, reason = "prctl")]
pub(in super::super) fn forbid_tracing() -> io::Result<()> {
    // SAFETY: sets an attribute of the process by value.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })
}

/// Tells whether other processes of the same user are kept from tracing this one.
#[expect(unsafe_code, reason = "prctl")]
pub(in super::super) fn tracing_is_forbidden() -> io::Result<bool> {
    // SAFETY: reads an attribute of the process.
    match unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        dumpable => Ok(dumpable != 1),
    }
}

/// Returns the process that traces this one, a debugger for example.
pub(in super::super) fn tracer() -> io::Result<Option<u64>> {
    let process = status_of("TracerPid:")?.trim().parse().map_err(io::Error::other)?;
    Ok((process != 0).then_some(process))
}

fn kilobytes_of(field: &str) -> Option<u64> {
    status_of(field).ok()?.trim().trim_end_matches(" kB").parse().ok()
}

/// Returns a field of `/proc/self/status`, proc(5).
fn status_of(field: &str) -> io::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.map(str::to_owned).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}
