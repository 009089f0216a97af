//! The command `keyward`: parse, call, print. `cli/` holds it; this is where the process starts.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
