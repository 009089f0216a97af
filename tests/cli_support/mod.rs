//! The stage of the command's tests: a folder, and processes in it.
#![allow(dead_code, reason = "every test binary uses its own part of the stage")]

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) type TestResult<T = ()> = Result<T, Box<dyn Error>>;

/// Ids of keys that commands without --service and --product use.
pub(crate) const ALICE: &str = "_IK_alice_keyward_default";
pub(crate) const BOB: &str = "_IK_bob_keyward_default";
pub(crate) const SYSTEM: &str = "_SK_keyward_default";

/// A folder of its own, in which commands run.
pub(crate) struct World {
    folder: TempDir,
}

impl World {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { folder: tempfile::tempdir()? })
    }

    /// The command in this folder, without what the surroundings say about it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command.args(arguments).current_dir(self.folder.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KEYWARD_")) {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str], input: &[u8]) -> io::Result<Output> {
        self.command(arguments).stdin(file_of(input)?).output()
    }

    /// Runs a command that succeeds in silence, and returns its output.
    pub(crate) fn ok(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
        let output = self.run(arguments, input)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaint.is_empty(), "{arguments:?}: {}: {complaint}", output.status);
        Ok(output.stdout)
    }

    /// Runs a command that fails with `code` and no output, and returns its complaint.
    pub(crate) fn refused(&self, arguments: &[&str], input: &[u8], code: i32) -> Result<String, Box<dyn Error>> {
        let output = self.run(arguments, input)?;
        let complaint = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
        assert!(!complaint.is_empty(), "{arguments:?}");
        Ok(complaint)
    }

    pub(crate) fn encrypt(&self, partition: &str, payload: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
        self.ok(&["encrypt", "--partition", partition], payload)
    }

    /// Runs a command that succeeds in silence, and returns what it says.
    pub(crate) fn says(&self, arguments: &[&str]) -> TestResult<String> {
        Ok(String::from_utf8(self.ok(arguments, b"")?)?)
    }

    /// Has something done while there is no master key.
    pub(crate) fn without_master_key<R>(&self, work: impl FnOnce() -> TestResult<R>) -> TestResult<R> {
        fs::rename(self.path("keyward.key"), self.path("away.key"))?;
        let result = work()?;
        assert!(!self.has("keyward.key"), "none was made");
        fs::rename(self.path("away.key"), self.path("keyward.key"))?;
        Ok(result)
    }

    /// Returns ids and states of all keys, as they are listed.
    pub(crate) fn states(&self) -> TestResult<Vec<(String, String)>> {
        let keys: Vec<Value> = serde_json::from_slice(&self.ok(&["keys", "list", "--json"], b"")?)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(keys.iter().map(|key| (text(&key["id"]), text(&key["state"]))).collect())
    }

    /// Makes sure that these are all keys, by id and state.
    pub(crate) fn has_keys(&self, expected: &[(&str, &str)]) -> TestResult {
        let states = self.states()?;
        let states: Vec<(&str, &str)> = states.iter().map(|(id, state)| (&**id, &**state)).collect();
        assert_eq!(states, expected);
        Ok(())
    }

    /// Opens the key table behind the command's back.
    pub(crate) fn table(&self) -> rusqlite::Result<rusqlite::Connection> {
        rusqlite::Connection::open(self.path("keyward.db"))
    }

    /// Inserts a row behind the command's back.
    pub(crate) fn row(&self, id: &str, created: i64, text: &str) -> TestResult {
        let insert = "INSERT INTO encryption_key VALUES (?1, datetime(?2, 'unixepoch'), ?3)";
        self.table()?.execute(insert, (id, created, text))?;
        Ok(())
    }

    /// Returns the text of a row.
    pub(crate) fn text(&self, id: &str, created: i64) -> TestResult<String> {
        let select = "SELECT key_record FROM encryption_key WHERE id = ?1 AND created = datetime(?2, 'unixepoch')";
        Ok(self.table()?.query_row(select, (id, created), |row| row.get(0))?)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::write(self.path(name), bytes)
    }

    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    /// Tells whether the key table's file, or one beside it, holds a text.
    pub(crate) fn holds(&self, text: &str) -> io::Result<bool> {
        for entry in fs::read_dir(self.folder.path())? {
            let entry = entry?;
            let is_table = entry.file_name().to_string_lossy().starts_with("keyward.db");
            if is_table && fs::read(entry.path())?.windows(text.len()).any(|window| window == text.as_bytes()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    #[cfg(unix)]
    pub(crate) fn mode(&self, name: &str) -> io::Result<u32> {
        use std::os::unix::fs::PermissionsExt;
        Ok(fs::metadata(self.path(name))?.permissions().mode() & 0o777)
    }

    #[cfg(unix)]
    pub(crate) fn set_mode(&self, name: &str, mode: u32) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode))
    }

    /// The names of all files, sorted; those that SQLite keeps beside an open database are not counted.
    pub(crate) fn files(&self) -> io::Result<Vec<String>> {
        let names =
            fs::read_dir(self.folder.path())?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
        names.retain(|name| Path::new(name).extension().is_none_or(|it| it != "db-wal" && it != "db-shm"));
        names.sort();
        Ok(names)
    }
}

/// An open file that holds `bytes`, to be read by a child.
pub(crate) fn file_of(bytes: &[u8]) -> io::Result<fs::File> {
    use std::io::Seek;
    let mut file = tempfile::tempfile()?;
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// Returns when the key of a record was created, as its JSON text says.
pub(crate) fn created(record: &[u8]) -> TestResult<String> {
    let record: Value = serde_json::from_slice(record)?;
    Ok(record["Key"]["ParentKeyMeta"]["Created"].to_string())
}
