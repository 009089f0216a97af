//! What secret memory promises, each promise tried on a victim: this program started again, which keeps keys, is read, traced,
//! forked, starved, overwritten or killed, and is then searched for what is left of them.
//!
//! Each property has a negative control, the same without the protection, which must show the leak: where it does not, the
//! test proves nothing and fails. Keys are made in place from a number, so that neither the environment nor a pipe has a copy;
//! what is searched for is either half of a key, which are also its first two round keys. Everybody waits for lines on
//! pipes, with a deadline; nobody sleeps.
//!
//! ```sh
//! cargo test --test secret_memory                     # each property by its name
//! cargo test --test secret_memory -- 'core file'      # some of them
//! cargo test --release --test secret_memory           # with the residue that the optimiser leaves
//! ```

#[cfg(target_os = "linux")]
mod attackers;
#[cfg(target_os = "linux")]
mod closing;
#[cfg(target_os = "linux")]
mod damage;
#[cfg(target_os = "linux")]
mod dumps;
#[cfg(target_os = "linux")]
mod ends;
#[cfg(target_os = "linux")]
mod forks;
#[cfg(target_os = "linux")]
mod guards;
#[cfg(target_os = "linux")]
mod keeper;
#[cfg(target_os = "linux")]
mod key;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(target_os = "linux")]
mod needs;
#[cfg(target_os = "linux")]
mod os;
#[cfg(target_os = "linux")]
mod race;
#[cfg(target_os = "linux")]
mod raw;
#[cfg(target_os = "linux")]
mod reading;
#[cfg(target_os = "linux")]
mod residue;
#[cfg(target_os = "linux")]
mod scan;
#[cfg(target_os = "linux")]
mod stage;
#[cfg(target_os = "linux")]
mod suite;
#[cfg(target_os = "linux")]
mod victim;
#[cfg(target_os = "linux")]
mod world;

use std::error::Error;
use std::process::ExitCode;

/// What a property or a scenario ends with.
pub(crate) type TestResult<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    return suite::run();
    #[cfg(not(target_os = "linux"))]
    {
        println!("SKIP secret memory: its victims live on Linux");
        ExitCode::SUCCESS
    }
}
