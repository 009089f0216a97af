//! Files that hold a master key: read with care, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use zeroize::Zeroizing;

use super::KmsError;

/// What a key file that is sealed under a passphrase begins with; its version follows.
pub(super) const SEALED: &[u8] = b"keyward sealed key ";

/// Bytes that are read of a file, more than any key file has.
const LIMIT: usize = 128;

/// Reads a key file that nobody but its owner can read or change.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let mut file = File::open(path).map_err(|error| {
        let reason = match error.kind() {
            ErrorKind::NotFound => "not found; name the one that the keys in the store were made with: `keyward encrypt` makes one for a new store",
            ErrorKind::PermissionDenied => "may not be read by this user",
            _ => "cannot be read",
        };
        key_file(path, reason, Some(error))
    })?;
    let failed = |error| key_file(path, "cannot be read", Some(error));
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(key_file(path, "is not a regular file", None));
    }
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
        return Err(key_file(path, "may be read or changed by others; run `chmod 600` on it", None));
    }
    let (mut contents, mut size) = (Zeroizing::new(vec![0; LIMIT]), 0);
    loop {
        match file.read(&mut contents[size..]) {
            Ok(0) => break,
            Ok(read) => size += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    contents.truncate(size);
    Ok(contents)
}

/// Makes a key file of mode 0600, unless there is one: other processes see a whole one or none.
pub(super) fn create(path: &Path, contents: &[u8]) -> Result<(), KmsError> {
    // A link to its own name fails where that exists.
    place(path, contents, |temporary| match fs::hard_link(temporary, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    })
}

/// Puts other contents in the place of a key file, with its mode and owner: whoever reads it sees the old ones or the new ones.
#[cfg(feature = "passphrase")]
pub(super) fn replace(path: &Path, contents: &[u8]) -> Result<(), KmsError> {
    let path = fs::canonicalize(path).map_err(|error| key_file(path, "cannot be replaced", Some(error)))?;
    place(&path, contents, |temporary| {
        let metadata = fs::metadata(&path)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, chown};
            let new = fs::metadata(temporary)?;
            if (new.uid(), new.gid()) != (metadata.uid(), metadata.gid()) {
                chown(temporary, Some(metadata.uid()), Some(metadata.gid()))?;
            }
        }
        fs::set_permissions(temporary, metadata.permissions())?;
        fs::rename(temporary, &path)
    })
}

/// Writes a file under a temporary name, onto the disk, and has it put in its place.
fn place(path: &Path, contents: &[u8], put: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), KmsError> {
    let mut name = path.file_name().ok_or_else(|| key_file(path, "is not the name of a file", None))?.to_owned();
    name.push(format!(".new-{}-{:x}", std::process::id(), std::ptr::from_ref(&contents).addr()));
    let temporary = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let failed = |reason| move |error| key_file(path, reason, Some(error));
    let mut file =
        options.open(&temporary).map_err(failed("cannot be created; check that the folder exists and is writable"))?;
    let written = file.write_all(contents).and_then(|()| file.sync_all()).map_err(failed("cannot be written"));
    drop(file);
    let put = written.and_then(|()| put(&temporary).map_err(failed("cannot be put in place")));
    let removed = match fs::remove_file(&temporary) {
        // It was renamed.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    };
    put?;
    removed.map_err(failed("left a temporary copy beside it that cannot be removed"))?;
    #[cfg(unix)]
    sync_folder(path);
    Ok(())
}

/// Has a name reach the disk. Not every file system can; what the file holds is there already.
#[cfg(unix)]
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

pub(super) fn key_file(path: &Path, reason: &'static str, source: Option<io::Error>) -> KmsError {
    KmsError::KeyFile { path: path.display().to_string(), reason, source }
}
