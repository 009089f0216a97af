//! Writing a file or standard output, whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::ending::Ending;
use super::error::Failure;
use super::input::is_standard;
use super::progress::Progress;

/// How much is written at a time.
const STEP: usize = 1 << 20;

/// Who may read a new file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Its owner alone (mode 0600).
    Private,
    /// Whom the umask allows.
    Usual,
}

/// Where output goes, made sure of before there is any.
pub(super) enum Output {
    Standard,
    /// A temporary file in the folder of `path`, which it will replace, or be if there is none.
    Replacing {
        path: PathBuf,
        file: NamedTempFile,
        if_new: bool,
    },
    /// A device or a pipe, which cannot be replaced.
    Through {
        path: PathBuf,
        file: File,
    },
}

impl Output {
    /// Prepares a file, or standard output for `-`.
    ///
    /// # Errors
    /// [`Failure::Create`] when nothing can be written there.
    pub(super) fn create(path: &Path, access: Access, ending: &Ending) -> Result<Self, Failure> {
        if is_standard(path) {
            return Ok(Self::Standard);
        }
        let failed = |source| Failure::Create { path: path.to_owned(), source };
        // A link stays a link: what it leads to is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        match fs::metadata(&target) {
            Ok(metadata) if metadata.is_dir() => return Err(failed(io::ErrorKind::IsADirectory.into())),
            Ok(metadata) if !metadata.is_file() => {
                let file = OpenOptions::new().write(true).open(&target).map_err(failed)?;
                return Ok(Self::Through { path: path.to_owned(), file });
            }
            _ => {}
        }
        let folder = match target.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".keyward-");
        #[cfg(unix)]
        if access == Access::Usual {
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        }
        let make = || builder.tempfile_in(folder).map_err(|error| failed(cause(&error)));
        // It may have its final name, or be removed, by then.
        let file = ending.undoing(make, |file| file.path().to_owned(), |path| drop(fs::remove_file(path)))?;
        Ok(Self::Replacing { path: target, file, if_new: false })
    }

    /// Prepares a new file, or standard output for `-`.
    ///
    /// # Errors
    /// [`Failure::Create`] when nothing can be written there, or something is there.
    pub(super) fn create_new(path: &Path, access: Access, ending: &Ending) -> Result<Self, Failure> {
        if !is_standard(path) && fs::symlink_metadata(path).is_ok() {
            let source = io::ErrorKind::AlreadyExists.into();
            return Err(Failure::Create { path: path.to_owned(), source });
        }
        Ok(match Self::create(path, access, ending)? {
            Self::Replacing { path, file, .. } => Self::Replacing { path, file, if_new: true },
            other => other,
        })
    }

    /// Writes everything; a file is on the disk, under its name, when this returns.
    ///
    /// # Errors
    /// [`Failure::Write`]; a file that was there is as it was, and standard output may have got a part.
    pub(super) fn write(self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Standard => {
                copy(bytes, &mut io::stdout().lock()).map_err(|source| written("standard output".to_owned(), source))
            }
            Self::Through { path, mut file } => {
                copy(bytes, &mut file).map_err(|source| written(path.display().to_string(), source))
            }
            Self::Replacing { path, mut file, if_new } => copy(bytes, &mut file)
                .and_then(|()| file.as_file().sync_all())
                .and_then(|()| {
                    if if_new { file.persist_noclobber(&path) } else { file.persist(&path) }
                        .map_err(|error| error.error)
                })
                .map_err(|source| written(path.display().to_string(), source))
                .map(drop),
        }
    }
}

/// Prints text to standard output.
///
/// # Errors
/// [`Failure::Write`].
pub(super) fn print(text: &str) -> Result<(), Failure> {
    Output::Standard.write(text.as_bytes())
}

fn copy(bytes: &[u8], to: &mut impl Write) -> io::Result<()> {
    let mut progress = Progress::new("writing", Some(bytes.len() as u64));
    for step in bytes.chunks(STEP) {
        to.write_all(step)?;
        progress.add(step.len());
    }
    to.flush()
}

fn written(name: String, source: io::Error) -> Failure {
    Failure::Write { name, source }
}

/// Leaves out the name of the temporary file, which says nothing to the reader.
fn cause(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error.kind().into(),
    }
}
