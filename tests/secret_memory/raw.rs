//! Memory without the library: what the controls keep keys in, and stray reads and writes.
#![expect(unsafe_code, reason = "the controls are what the library protects from")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use crate::os;
use crate::scan::Mapping;

/// Pages of this process, mapped for as long as it lives.
#[derive(Clone, Copy)]
pub(crate) struct RawPages {
    start: NonNull<u8>,
    bytes: usize,
}

impl RawPages {
    /// Maps private memory with nothing around it or about it.
    pub(crate) fn map(bytes: usize) -> io::Result<Self> {
        Self::map_with(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// Maps memory that the kernel hides, without anything else that is done about it.
    pub(crate) fn map_secret(bytes: usize) -> io::Result<Self> {
        let file = File::from(os::try_memfd_secret()?);
        file.set_len(bytes as u64)?;
        Self::map_with(bytes, libc::MAP_SHARED, OwnedFd::from(file).as_raw_fd())
    }

    fn map_with(bytes: usize, flags: i32, descriptor: i32) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let at =
            unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, descriptor, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(at.cast()).map(|start| Self { start, bytes }).ok_or_else(|| io::Error::other("mapped at zero"))
    }

    pub(crate) fn lock(self) -> io::Result<()> {
        // SAFETY: locking an own mapping changes nothing in it.
        match unsafe { libc::mlock(self.start.as_ptr().cast(), self.bytes) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(crate) fn address(self) -> usize {
        self.start.addr().get()
    }

    /// The first 32 bytes, where a key goes.
    pub(crate) fn key(&mut self) -> &mut [u8; 32] {
        // SAFETY: mapped readable and writable for good, longer than this, and borrowed with the value.
        unsafe { self.start.cast().as_mut() }
    }
}

/// Reads a byte wherever it is.
pub(crate) fn stray_read(address: usize) -> u8 {
    // SAFETY: none is claimed: the process may fault here, which is what the caller wants to see.
    unsafe { ptr::with_exposed_provenance::<u8>(address).read_volatile() }
}

/// Writes over `bytes` from `address` on.
pub(crate) fn stray_write(address: usize, bytes: usize) {
    for address in address..address + bytes {
        // SAFETY: none is claimed: the process may fault here, which is what the caller wants to see.
        unsafe { ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(0xee) };
    }
}

/// Writes a mapping to a file straight from where it is, as write(2) does even from memory that the kernel hides.
pub(crate) fn save(mapping: &Mapping, file: &mut File) -> io::Result<()> {
    let start = ptr::with_exposed_provenance::<u8>(mapping.start);
    // SAFETY: mapped readable, and nothing changes it while the one thread is here.
    file.write_all(unsafe { std::slice::from_raw_parts(start, mapping.bytes()) })
}
