//! Reading a file or standard input, whole, up to a limit.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::Failure;
use super::progress::Progress;

/// How much is read at a time.
const STEP: usize = 1 << 20;

/// What `-` stands for.
const STANDARD: &str = "-";

/// A file or standard input, open.
pub(super) struct Input {
    name: String,
    /// Bytes to come, where that is known.
    size: Option<u64>,
    reader: Box<dyn Read>,
}

/// The most that is read, and the option it comes from.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    pub(super) bytes: usize,
    pub(super) max_payload: usize,
}

impl Limit {
    pub(super) fn of_payload(max_payload: usize) -> Self {
        Self { bytes: max_payload, max_payload }
    }
}

/// Whether `path` means standard input or output.
pub(super) fn is_standard(path: &Path) -> bool {
    path == Path::new(STANDARD)
}

impl Input {
    /// Opens a file, or standard input for `-`.
    ///
    /// # Errors
    /// [`Failure::Open`].
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if is_standard(path) {
            return Ok(Self { name: "standard input".to_owned(), size: None, reader: Box::new(io::stdin().lock()) });
        }
        let failed = |source| Failure::Open { path: PathBuf::from(path), source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let size = Some(metadata.len()).filter(|_| metadata.is_file());
        Ok(Self { name: path.display().to_string(), size, reader: Box::new(file) })
    }

    /// Returns its name, its size where that is known, and what reads it.
    pub(super) fn into_parts(self) -> (String, Option<u64>, Box<dyn Read>) {
        (self.name, self.size, self.reader)
    }

    /// Reads everything.
    ///
    /// # Errors
    /// [`Failure::InputTooLarge`] as soon as there is more than `limit`, [`Failure::Read`].
    ///
    /// # Security
    /// The bytes are wiped when dropped, and where they grew out of.
    pub(super) fn read(mut self, limit: Limit) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let expected = self.size.unwrap_or(0);
        let too_large = |name: &str| Failure::InputTooLarge {
            name: name.to_owned(),
            limit: limit.bytes,
            max_payload: limit.max_payload,
        };
        if expected > limit.bytes as u64 {
            return Err(too_large(&self.name));
        }
        let mut progress = Progress::new("reading", self.size);
        let expected = usize::try_from(expected).unwrap_or(0);
        // Room for one byte more, so that the end of a file of the expected size is seen without growing.
        let mut bytes = Zeroizing::new(vec![0; expected + 1]);
        let mut filled = 0;
        loop {
            if filled == bytes.len() {
                let mut larger = Zeroizing::new(vec![0; (2 * filled).max(STEP)]);
                larger[..filled].copy_from_slice(&bytes);
                bytes = larger;
            }
            let end = bytes.len().min(filled + STEP);
            match self.reader.read(&mut bytes[filled..end]) {
                Ok(0) => break,
                Ok(read) => {
                    filled += read;
                    progress.add(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Failure::Read { name: self.name, source }),
            }
            if filled > limit.bytes {
                return Err(too_large(&self.name));
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

#[cfg(test)]
impl Input {
    /// Makes an input of bytes.
    pub(super) fn of_bytes(name: &str, bytes: &'static [u8]) -> Self {
        Self { name: name.to_owned(), size: None, reader: Box::new(bytes) }
    }
}

/// Whether standard output is a terminal.
pub(super) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}
