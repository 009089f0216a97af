//! How much memory this process may lock.

/// The lock limit and what is used of it, in bytes; `u64::MAX` is no limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) soft: u64,
    pub(super) hard: u64,
    pub(super) locked: u64,
}

impl Budget {
    /// Reads RLIMIT_MEMLOCK (getrlimit(2)) and `VmLck` (proc(5)).
    pub(super) fn read() -> Self {
        let (soft, hard) = limits();
        Self { soft, hard, locked: locked_now() }
    }
}

#[cfg(unix)]
fn limits() -> (u64, u64) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

#[cfg(not(unix))]
fn limits() -> (u64, u64) {
    (u64::MAX, u64::MAX)
}

/// Raises the soft limit to the hard one, as any process may; whether that helped shows when memory is locked.
pub(super) fn raise_soft_limit() {
    #[cfg(unix)]
    {
        let mut limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
        limit.current = limit.maximum;
        if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Memlock, limit) {
            tracing::debug!(%error, "the soft lock limit could not be raised");
        }
    }
}

#[cfg(target_os = "linux")]
fn locked_now() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

#[cfg(not(target_os = "linux"))]
fn locked_now() -> u64 {
    0
}
