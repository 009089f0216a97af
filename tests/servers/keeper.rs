//! Keeps a server's process: ends it, and removes its folder, when the test program is gone, however that went.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::{TestResult, run, wait_until};

/// Starts the server for each line that it reads, and cleans up when there are no more: a pipe ends with its writer.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
folder=$1 signal=$2
shift 2
server=
while read -r line; do
    "$@" </dev/null >>"$folder/log" 2>&1 &
    server=$!
    echo "$server" >"$folder/new" && mv "$folder/new" "$folder/pid"
done
if [[ -n $server ]]; then
    kill -CONT "$server"
    kill "-$signal" "$server"
    wait "$server"
fi 2>/dev/null
rm -rf "$folder"
"#;

/// A server's process and folder.
pub(crate) struct Keeper {
    folder: PathBuf,
    script: Mutex<Child>,
}

impl Keeper {
    /// Makes a folder for a server.
    pub(super) fn folder() -> TestResult<PathBuf> {
        Ok(tempfile::Builder::new().prefix("keyward-server-").tempdir()?.keep())
    }

    /// Starts `command`, to be ended by `signal`, and takes care of `folder`.
    pub(super) fn start(folder: &Path, signal: &str, command: &Command) -> TestResult<Self> {
        let mut script = Command::new("bash");
        script
            .args(["-c", SCRIPT, "keeper"])
            .arg(folder)
            .arg(signal)
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            script.env(name, value.unwrap_or_default());
        }
        if let Some(folder) = command.get_current_dir() {
            script.current_dir(folder);
        }
        let script = script.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let keeper = Self { folder: folder.to_owned(), script: Mutex::new(script) };
        keeper.start_again()?;
        Ok(keeper)
    }

    /// Starts the server once more, after [`kill`](Self::kill).
    pub(crate) fn start_again(&self) -> TestResult {
        let pid = self.folder.join("pid");
        // There is none before the first start.
        let _ = fs::remove_file(&pid);
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.stdin.as_mut().ok_or("the keeper's input is piped")?.write_all(b"start\n")?;
        wait_until("starting a process", || Ok(pid.exists()))
    }

    /// Sends the server a signal, by its name.
    pub(crate) fn signal(&self, name: &str) -> TestResult {
        let pid = fs::read_to_string(self.folder.join("pid"))?;
        run(Command::new("kill").arg(format!("-{name}")).arg(pid.trim())).map(drop)
    }

    /// Ends the server as a power failure of its process would.
    pub(crate) fn kill(&self) -> TestResult {
        self.signal("KILL")?;
        wait_until("ending a process", || Ok(!self.is_alive()))
    }

    pub(super) fn is_alive(&self) -> bool {
        // A process that ended and is not waited for yet is a zombie.
        let Ok(pid) = fs::read_to_string(self.folder.join("pid")) else { return false };
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        state.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    /// Returns the server's folder.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Returns what the server said.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        drop(script.stdin.take());
        let _ = script.wait();
    }
}
