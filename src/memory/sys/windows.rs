//! Windows, by its own calls.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::ptr::NonNull;

use windows_sys::Win32::System::Diagnostics::Debug::{
    GetErrorMode, IsDebuggerPresent, SEM_NOGPFAULTERRORBOX, SetErrorMode,
};
use windows_sys::Win32::System::ErrorReporting::{WerRegisterExcludedMemoryBlock, WerUnregisterExcludedMemoryBlock};
use windows_sys::Win32::System::Memory::{MEM_RELEASE, MEMORY_BASIC_INFORMATION, VirtualFree, VirtualQuery};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetProcessWorkingSetSize, SetProcessWorkingSetSize, TerminateProcess,
};

use super::{Limits, unsupported};

/// Unmaps a whole mapping.
///
/// # Safety
/// The range must be a mapping of the caller's that nothing refers to any more.
#[expect(unsafe_code, reason = "VirtualFree")]
pub(in super::super) unsafe fn unmap(at: NonNull<u8>, _bytes: usize) -> io::Result<()> {
    // SAFETY: the call looks the address up in a list; that it is not there, because no part of the mapping was excluded,
    // is of no interest.
    unsafe { WerUnregisterExcludedMemoryBlock(at.as_ptr().cast()) };
    // SAFETY: the caller's own mapping, which can be given back as a whole alone: a size of 0 says so.
    check(unsafe { VirtualFree(at.as_ptr().cast(), 0, MEM_RELEASE) })
}

/// Keeps a range out of error reports: [WerRegisterExcludedMemoryBlock].
///
/// From the start of the mapping on: [`unmap`] takes it out again by that address. There may be 512 entries.
///
/// [WerRegisterExcludedMemoryBlock]: https://learn.microsoft.com/windows/win32/api/werapi/nf-werapi-werregisterexcludedmemoryblock
///
/// # Safety
/// The range must be a mapping of the caller's.
#[expect(unsafe_code, reason = "VirtualQuery, WerRegisterExcludedMemoryBlock")]
pub(in super::super) unsafe fn exclude_from_dumps(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    let mut found = MaybeUninit::<MEMORY_BASIC_INFORMATION>::zeroed();
    let size = size_of::<MEMORY_BASIC_INFORMATION>();
    // SAFETY: writes `size` bytes at most to `found`, which is that large and borrowed for the call.
    if unsafe { VirtualQuery(at.as_ptr().cast(), found.as_mut_ptr(), size) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: numbers and addresses, for which zeroes are valid as well as what the call wrote.
    let first = unsafe { found.assume_init() }.AllocationBase;
    let all = at.as_ptr().addr() - first.addr() + bytes;
    let all = u32::try_from(all).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    // SAFETY: the call notes two numbers.
    match unsafe { WerRegisterExcludedMemoryBlock(first, all) } {
        0 => Ok(()),
        refusal => Err(of_result(refusal)),
    }
}

/// Does nothing: there is no fork.
///
/// # Safety
/// As for [`exclude_from_dumps`].
#[expect(unsafe_code, reason = "of one shape with the other systems")]
pub(in super::super) unsafe fn clear_on_fork(_at: NonNull<u8>, _bytes: usize) -> io::Result<()> {
    Ok(())
}

/// Does nothing: there is no fork.
///
/// # Safety
/// As for [`exclude_from_dumps`].
#[expect(unsafe_code, reason = "of one shape with the other systems")]
pub(in super::super) unsafe fn remove_on_fork(_at: NonNull<u8>, _bytes: usize) -> io::Result<()> {
    Ok(())
}

/// Does nothing: there is no fork.
pub(in super::super) fn at_fork(_in_child: unsafe extern "C" fn()) -> io::Result<()> {
    Ok(())
}

/// Returns what may be locked: the minimum working set, less some pages that the system does not tell. A process may raise
/// it as far as memory goes; how much is locked the system does not tell either.
pub(in super::super) fn limits() -> Limits {
    let (soft, hard) = lock_limits();
    Limits { soft, hard, locked: 0 }
}

/// Returns the minimum working set in bytes, and no limit to it.
pub(in super::super) fn lock_limits() -> (u64, u64) {
    (working_set().map_or(u64::MAX, |(least, _)| least as u64), u64::MAX)
}

/// Raises the minimum working set by `bytes`, and the maximum with it: [VirtualLock] takes from the minimum.
///
/// [VirtualLock]: https://learn.microsoft.com/windows/win32/api/memoryapi/nf-memoryapi-virtuallock
#[expect(unsafe_code, reason = "SetProcessWorkingSetSize")]
pub(in super::super) fn raise_lock_limit(bytes: usize) -> io::Result<()> {
    let (least, most) = working_set()?;
    // SAFETY: sets two numbers of this process.
    check(unsafe {
        SetProcessWorkingSetSize(GetCurrentProcess(), least.saturating_add(bytes), most.saturating_add(bytes))
    })
}

/// Returns minimum and maximum of the working set in bytes.
#[expect(unsafe_code, reason = "GetProcessWorkingSetSize")]
fn working_set() -> io::Result<(usize, usize)> {
    let (mut least, mut most) = (0, 0);
    // SAFETY: writes two numbers, which are borrowed for the call.
    check(unsafe { GetProcessWorkingSetSize(GetCurrentProcess(), &raw mut least, &raw mut most) })?;
    Ok((least, most))
}

/// Has unhandled exceptions end the process without an error report, which may hold its memory: [SetErrorMode]. A process
/// that aborts is reported all the same.
///
/// [SetErrorMode]: https://learn.microsoft.com/windows/win32/api/errhandlingapi/nf-errhandlingapi-seterrormode
#[expect(unsafe_code, reason = "SetErrorMode")]
pub(in super::super) fn forbid_core_files() -> io::Result<()> {
    // SAFETY: sets an attribute of the process by value.
    unsafe { SetErrorMode(GetErrorMode() | SEM_NOGPFAULTERRORBOX) };
    Ok(())
}

/// Tells whether unhandled exceptions end the process without an error report.
#[expect(unsafe_code, reason = "GetErrorMode")]
pub(in super::super) fn core_files_are_forbidden() -> io::Result<bool> {
    // SAFETY: reads an attribute of the process.
    Ok(unsafe { GetErrorMode() } & SEM_NOGPFAULTERRORBOX != 0)
}

/// A process cannot forbid it; rights on the process decide.
pub(in super::super) fn forbid_tracing() -> io::Result<()> {
    unsupported()
}

/// A process cannot forbid it.
pub(in super::super) fn tracing_is_forbidden() -> io::Result<bool> {
    unsupported()
}

/// Returns 0 when a debugger is attached to this process; which one the system does not tell.
#[expect(unsafe_code, reason = "IsDebuggerPresent")]
pub(in super::super) fn tracer() -> io::Result<Option<u64>> {
    // SAFETY: reads an attribute of the process.
    Ok((unsafe { IsDebuggerPresent() } != 0).then_some(0))
}

/// Ends the process at once, without running anything else of it.
#[expect(unsafe_code, reason = "TerminateProcess")]
pub(in super::super) fn exit_now(code: i32) -> ! {
    // SAFETY: ends this very process, which may do so to itself.
    unsafe { TerminateProcess(GetCurrentProcess(), code.cast_unsigned()) };
    // The call returns only when it failed, and a process may always end itself.
    std::process::abort()
}

/// Turns the answer of a call that returns 0 when it failed into a result.
fn check(answer: windows_sys::core::BOOL) -> io::Result<()> {
    if answer != 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Turns an HRESULT into an error, those that stand for a system error code into that.
fn of_result(result: windows_sys::core::HRESULT) -> io::Error {
    const OF_SYSTEM: i32 = 0x8007_u16.cast_signed() as i32;
    io::Error::from_raw_os_error(if result >> 16 == OF_SYSTEM { result & 0xffff } else { result })
}
