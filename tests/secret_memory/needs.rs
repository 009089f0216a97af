//! What some properties need, found by trying. A property that lacks it is skipped with the reason; with CI=true on Linux
//! that is a failure, unless it is the kernel that lacks it.

use std::fs;
use std::path::PathBuf;

use crate::os;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// memfd_secret(2).
    MemfdSecret,
    /// Core files, written into the working directory of the process; core(5).
    CoreFiles,
    /// gdb(1).
    Debugger,
}

/// Why something is lacking.
pub(crate) struct Lack {
    pub(crate) reason: String,
    /// Whether nobody but the kernel can help.
    pub(crate) is_of_kernel: bool,
}

impl Need {
    pub(crate) fn lack(self) -> Option<Lack> {
        let (reason, is_of_kernel) = match self {
            Self::MemfdSecret => (os::try_memfd_secret().err().map(|error| format!("memfd_secret: {error}")), true),
            Self::CoreFiles => (no_core_files(), false),
            Self::Debugger => {
                let missing = debugger().is_none();
                (missing.then(|| "gdb is not on PATH".to_owned()), false)
            }
        };
        reason.map(|reason| Lack { reason, is_of_kernel })
    }
}

fn no_core_files() -> Option<String> {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";
    match fs::read_to_string(PATTERN) {
        Ok(pattern) if pattern.starts_with(['|', '/', '@']) || pattern.trim().is_empty() => {
            return Some(format!("{PATTERN} is `{}`, not a file name", pattern.trim()));
        }
        Ok(_) => {}
        Err(error) => return Some(format!("{PATTERN}: {error}")),
    }
    match os::limit(libc::RLIMIT_CORE) {
        Ok((_, 0)) => Some("the hard RLIMIT_CORE is 0".to_owned()),
        Ok(_) => None,
        Err(error) => Some(format!("getrlimit(RLIMIT_CORE): {error}")),
    }
}

/// Returns the path of gdb.
pub(crate) fn debugger() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|directory| directory.join("gdb")).find(|path| path.is_file())
}
