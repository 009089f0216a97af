//! Other implementations of the format, each in a process that answers: `tests/interop/python/peer.py`.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::error::Error;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

pub(crate) type TestResult<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

pub(crate) const SERVICE: &str = "my-service";
pub(crate) const PRODUCT: &str = "my-product";
/// The one static key that the implementation in Go has.
pub(crate) const MASTER_KEY: &[u8; 32] = b"thisIsAStaticMasterKeyForTesting";
pub(crate) const MASTER_KEY_HEX: &str = "746869734973415374617469634d61737465724b6579466f7254657374696e67";

/// Which implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The one in Rust, of the Python package `asherah` 0.5.56.
    Rust,
    /// The one in Go, of the Python package `asherah` 0.3.9.
    Go,
}

impl Kind {
    /// Returns a Python that has the package.
    pub(crate) fn python(self) -> TestResult<PathBuf> {
        let variable = match self {
            Self::Rust => "KEYWARD_INTEROP_PYTHON",
            Self::Go => "KEYWARD_INTEROP_PYTHON_GO",
        };
        let python =
            std::env::var_os(variable).ok_or_else(|| format!("{variable} is not set; scripts/test sets it"))?;
        Ok(python.into())
    }
}

/// `peer.py` in batch mode: a JSON line for each job, a JSON line for each answer.
pub(crate) struct Peer {
    process: Child,
    jobs: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What it says besides: the one in Go complains about each refusal.
    words: File,
}

impl Peer {
    /// Starts a peer whose keys are in this SQLite file.
    pub(crate) fn on_file(kind: Kind, database: &Path) -> TestResult<Self> {
        Self::start(kind, ["--db".as_ref(), database.as_os_str()], &[])
    }

    /// Starts a peer whose keys are where `config` says, in the words of its package.
    pub(crate) fn on_server(kind: Kind, config: &Value, environment: &[(&str, &str)]) -> TestResult<Self> {
        Self::start(kind, ["--config".as_ref(), config.to_string().as_ref()], environment)
    }

    fn start(kind: Kind, store: [&OsStr; 2], environment: &[(&str, &str)]) -> TestResult<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/python/peer.py");
        let words = tempfile::tempfile()?;
        let mut process = Command::new(kind.python()?)
            .arg(program)
            .arg("batch")
            .args(store)
            .args(["--service", SERVICE, "--product", PRODUCT, "--key-hex", MASTER_KEY_HEX])
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(words.try_clone()?)
            .spawn()?;
        let jobs = process.stdin.take().ok_or("the peer has no stdin")?;
        let answers = BufReader::new(process.stdout.take().ok_or("the peer has no stdout")?);
        Ok(Self { process, jobs, answers, words })
    }

    /// Returns a record.
    pub(crate) fn encrypt(&mut self, partition: &str, payload: &[u8]) -> TestResult<String> {
        let job = json!({ "op": "encrypt", "partition": partition, "payload_b64": BASE64.encode(payload) });
        let answer = self.ask(&job)?;
        let record = answer["record"].as_str().ok_or_else(|| format!("the peer did not encrypt: {answer}"))?;
        Ok(record.to_owned())
    }

    /// Returns the payload, or `None` when the peer refuses.
    pub(crate) fn decrypt(&mut self, partition: &str, record: &str) -> TestResult<Option<Vec<u8>>> {
        let answer = self.ask(&json!({ "op": "decrypt", "partition": partition, "record": record }))?;
        if answer["error"].is_string() {
            return Ok(None);
        }
        let payload = answer["payload_b64"].as_str().ok_or_else(|| format!("the peer answered {answer}"))?;
        Ok(Some(BASE64.decode(payload)?))
    }

    fn ask(&mut self, job: &Value) -> TestResult<Value> {
        // What it reads no more, it answers no more.
        let _ = writeln!(self.jobs, "{job}");
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err(self.end().into());
        }
        Ok(serde_json::from_str(&answer)?)
    }

    /// Says how it ended.
    fn end(&mut self) -> String {
        let mut words = Vec::new();
        let read = self.words.rewind().and_then(|()| self.words.read_to_end(&mut words));
        format!("the peer ended early: {:?}, {read:?}: {}", self.process.wait(), String::from_utf8_lossy(&words))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a row is a note of the implementation in Rust, which is no key.
pub(crate) fn is_note(id: &str) -> bool {
    id.starts_with("__asherah_internal_config_drift_guard_")
}
