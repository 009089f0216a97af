//! How a process ends that asked for `memory::signals`: by which exit code or signal, and after what. The victim is this
//! program started again, which installs the handlers before it has another thread and talks in lines.
//!
//! What of its memory is left then, and what is not, is told by `tests/secret_memory`.

#[cfg(unix)]
mod endings;
#[cfg(unix)]
mod victim;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(unix)]
    return victim::play().unwrap_or_else(endings::run);
    #[cfg(not(unix))]
    {
        println!("SKIP signals: this system has none");
        ExitCode::SUCCESS
    }
}
