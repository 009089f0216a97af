//! Where records go, line by line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use keyward::DataRowRecord;

use crate::cli::error::Failure;
use crate::cli::input::is_standard;

/// The output; a file grows by whole lines.
pub(super) enum Sink {
    /// A dry run.
    Nothing,
    Standard,
    File {
        path: PathBuf,
        file: File,
    },
}

/// What an earlier run wrote.
#[derive(Default)]
pub(super) struct Earlier {
    /// Whole lines.
    pub(super) lines: u64,
    /// The last of them, without its line feed.
    pub(super) last: Vec<u8>,
    /// What follows the last line feed.
    pub(super) rest: Vec<u8>,
    /// Where the last whole line ends.
    end: u64,
    /// Whether that line lacks nothing but its line feed.
    lacks_feed: bool,
}

impl Sink {
    /// Opens the output of a run that begins at the first line.
    ///
    /// # Errors
    /// [`Failure::Occupied`] when the file has something in it, [`Failure::Create`] when it cannot be written.
    pub(super) fn begin(path: &Path) -> Result<Self, Failure> {
        if is_standard(path) {
            return Ok(Self::Standard);
        }
        let failed = |source| Failure::Create { path: path.to_owned(), source };
        // Not truncated: it may be somebody's only copy.
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_file() && metadata.len() > 0 {
            return Err(Failure::Occupied { path: path.to_owned() });
        }
        Ok(Self::File { path: path.to_owned(), file })
    }

    /// Opens the output of a run that goes on after the last whole line; changes nothing in it yet.
    ///
    /// # Errors
    /// [`Failure::Create`] when the file cannot be read and written.
    pub(super) fn resume(path: &Path, limit: usize) -> Result<(Self, Earlier), Failure> {
        let failed = |source| Failure::Create { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no file, so there is nothing to resume",
            )));
        }
        let earlier = whole_lines(&file, limit).map_err(failed)?;
        Ok((Self::File { path: path.to_owned(), file }, earlier))
    }

    /// Removes half a line after the last whole one, where the output goes on.
    ///
    /// # Errors
    /// [`Failure::Write`].
    pub(super) fn cut(&mut self, earlier: &Earlier) -> Result<(), Failure> {
        let Self::File { path, file } = self else { return Ok(()) };
        let mut cut = || {
            file.set_len(earlier.end)?;
            file.seek(SeekFrom::Start(earlier.end))?;
            if earlier.lacks_feed { file.write_all(b"\n") } else { Ok(()) }
        };
        cut().map_err(|source| written(&path.display().to_string(), source))
    }

    /// Writes a whole line, or a part of a large one.
    ///
    /// # Errors
    /// [`Failure::Write`].
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Nothing => Ok(()),
            Self::Standard => {
                let mut standard = io::stdout().lock();
                standard
                    .write_all(bytes)
                    .and_then(|()| standard.flush())
                    .map_err(|source| written("standard output", source))
            }
            Self::File { path, file } => {
                file.write_all(bytes).map_err(|source| written(&path.display().to_string(), source))
            }
        }
    }

    /// Makes sure that everything is on the disk.
    ///
    /// # Errors
    /// [`Failure::Write`].
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        match self {
            Self::File { path, file } if file.metadata().is_ok_and(|metadata| metadata.is_file()) => {
                file.sync_all().map_err(|source| written(&path.display().to_string(), source))
            }
            _ => Ok(()),
        }
    }
}

/// Whether two names are those of one file.
pub(super) fn is_same_file(a: &Path, b: &Path) -> bool {
    let real = |path| fs::canonicalize(path).ok();
    !is_standard(a) && !is_standard(b) && real(a).is_some_and(|a| real(b) == Some(a))
}

/// Counts whole lines, and tells where they end; of the last one, and of what follows it, keeps `limit` bytes.
fn whole_lines(file: &File, limit: usize) -> io::Result<Earlier> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut earlier, mut position) = (Earlier::default(), 0);
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            if DataRowRecord::from_json(&earlier.rest).is_ok() {
                earlier.lines += 1;
                earlier.last = std::mem::take(&mut earlier.rest);
                (earlier.end, earlier.lacks_feed) = (position, true);
            }
            return Ok(earlier);
        }
        let feed = available.iter().position(|&byte| byte == b'\n');
        let part = &available[..feed.unwrap_or(available.len())];
        let room = limit.saturating_sub(earlier.rest.len());
        earlier.rest.extend_from_slice(&part[..part.len().min(room)]);
        let taken = part.len() + usize::from(feed.is_some());
        reader.consume(taken);
        position += taken as u64;
        if feed.is_some() {
            earlier.lines += 1;
            earlier.last = std::mem::take(&mut earlier.rest);
            earlier.end = position;
        }
    }
}

fn written(name: &str, source: io::Error) -> Failure {
    // Half a migration is no success, whoever has seen enough of it.
    let source = if source.kind() == io::ErrorKind::BrokenPipe { io::Error::other(source) } else { source };
    Failure::Write { name: name.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_run_ends_with_its_last_whole_line() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("out");
        for (text, lines, last, kept) in [
            ("", 0, "", ""),
            ("a", 0, "", ""),
            ("a\nb\n", 2, "b", "a\nb\n"),
            ("a\n123456\nc", 2, "1234", "a\n123456\n"),
        ] {
            fs::write(&path, text)?;
            let (mut sink, earlier) = Sink::resume(&path, 4).map_err(|failure| failure.text())?;
            assert_eq!((earlier.lines, &*earlier.last), (lines, last.as_bytes()), "{text:?}");
            assert_eq!(fs::read_to_string(&path)?, text, "nothing is cut before it is looked at");
            sink.cut(&earlier).map_err(|failure| failure.text())?;
            sink.write(b"new\n").map_err(|failure| failure.text())?;
            assert_eq!(fs::read_to_string(&path)?, format!("{kept}new\n"), "{text:?}");
        }
        Ok(())
    }
}
