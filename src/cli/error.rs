//! What failed, what to do about it, and the exit code, from `sysexits.h`.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process::ExitCode;

use keyward::kms::KmsError;
use keyward::stores::StoreError;
use keyward::{BuildError, CloseError, Error, IdError, KeyId, KeyMeta, MemoryError};

use super::config::ConfigError;
use super::format::FormatError;
use super::keys::LineError;

/// The meaning of an exit code, see
/// [sysexits(3)](https://man.freebsd.org/cgi/man.cgi?query=sysexits&sektion=3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    Usage = 64,
    Data = 65,
    NoInput = 66,
    Unavailable = 69,
    Software = 70,
    System = 71,
    CannotCreate = 73,
    Io = 74,
    Temporary = 75,
    NoPermission = 77,
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("configuration file {}", path.display())]
    Config {
        path: PathBuf,
        #[source]
        source: ConfigError,
    },
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {name}")]
    Read {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("{name} is larger than {limit} bytes, the most that payloads of {max_payload} bytes can need")]
    InputTooLarge { name: String, limit: usize, max_payload: usize },
    #[error("cannot create {}", path.display())]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {name}")]
    Write {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("{what} would garble the terminal")]
    BinaryToTerminal { what: &'static str, hint: &'static str },
    #[error("not a record")]
    Format(#[from] FormatError),
    #[error("there is no store {}", path.display())]
    NoStore { path: PathBuf },
    #[error("cannot open the store")]
    Store(#[source] StoreError),
    #[error("cannot look at the table")]
    Inspect(#[source] StoreError),
    #[error("cannot change the table")]
    Migrate(#[source] StoreError),
    #[error("keys cannot be kept in this table")]
    BrokenTable,
    #[error("there is no table in {store}")]
    NoTable { store: String },
    #[error("cannot list the keys")]
    List(#[source] StoreError),
    #[error("cannot use the master key")]
    MasterKey(#[source] KmsError),
    #[error("{failed} of {all} places that keep the master key do not do what is asked of them")]
    Places { failed: usize, all: usize, is_transient: bool },
    #[error("{count} of the system keys need somebody to look after them")]
    SystemKeys { count: usize, is_transient: bool, hint: &'static str },
    #[error("cannot start")]
    Build(#[from] BuildError),
    #[error("keys in memory cannot be protected")]
    Memory(#[source] MemoryError),
    #[error("the strict memory policy is not met")]
    Doctor,
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot encrypt")]
    Encrypt(#[source] Error),
    #[error("cannot decrypt")]
    Decrypt(#[source] Error),
    #[error(transparent)]
    Close(#[from] CloseError),
    #[error("cannot make a temporary folder")]
    Folder(#[source] io::Error),
    #[error("unusable partition id")]
    Partition(#[source] IdError),
    #[error("{fault}")]
    Usage { fault: &'static str, hint: &'static str },
    #[error("there is no key {0}")]
    NoKey(KeyMeta),
    #[error("cannot revoke the keys that were not reached")]
    Revoke(#[source] StoreError),
    #[error("{0} of the rows are no key records and were left as they are")]
    CorruptKeys(usize),
    #[error("cannot copy key {key}")]
    Copy {
        key: KeyMeta,
        #[source]
        source: StoreError,
    },
    #[error("{0} of the keys are others in the store that was copied to, and were left as they are")]
    Conflicts(usize),
    #[error("cannot shred")]
    Shred(#[source] StoreError),
    #[error("key {0} was shredded: nobody makes it anew")]
    Shredded(KeyId),
    #[error("cannot rotate")]
    Rotate(#[source] Error),
    #[error("cannot re-wrap")]
    Rewrap(#[source] Error),
    #[error("line {line} of {name}")]
    Line {
        name: String,
        line: u64,
        #[source]
        source: LineError,
    },
    #[error("{failed} of the lines could not be re-wrapped")]
    Lines { failed: u64 },
    #[error("{} is there and not empty", path.display())]
    Occupied { path: PathBuf },
    #[error("{} does not hold what an earlier run made of the first {line} lines of --in", path.display())]
    OtherOutput { path: PathBuf, line: u64 },
    #[error("the demonstration went wrong: {0}")]
    Demo(&'static str),
}

impl Failure {
    /// Returns the error and all its causes, in one line.
    pub(super) fn text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            // Writing to a string does not fail.
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }

    /// Whether whoever read standard output has seen enough.
    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Write { source, .. } if source.kind() == ErrorKind::BrokenPipe)
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Config { .. } | Self::Memory(_) | Self::Doctor => Exit::Config,
            Self::Open { .. } | Self::NoStore { .. } | Self::NoTable { .. } => Exit::NoInput,
            Self::Read { .. } | Self::Write { .. } => Exit::Io,
            Self::InputTooLarge { .. }
            | Self::Format(_)
            | Self::NoKey(_)
            | Self::Shredded(_)
            | Self::Conflicts(_)
            | Self::Line { .. }
            | Self::Lines { .. }
            | Self::OtherOutput { .. } => Exit::Data,
            Self::Create { .. } | Self::Folder(_) | Self::Occupied { .. } => Exit::CannotCreate,
            Self::BinaryToTerminal { .. } | Self::Partition(_) | Self::Usage { .. } => Exit::Usage,
            Self::Store(error)
            | Self::Inspect(error)
            | Self::Migrate(error)
            | Self::List(error)
            | Self::Revoke(error)
            | Self::Copy { source: error, .. }
            | Self::Shred(error) => exit_of_store(error),
            Self::Places { is_transient: true, .. } | Self::SystemKeys { is_transient: true, .. } => Exit::Temporary,
            Self::CorruptKeys(_) | Self::BrokenTable | Self::Places { .. } | Self::SystemKeys { .. } => {
                Exit::Unavailable
            }
            Self::MasterKey(error) => exit_of_kms(error),
            Self::Build(BuildError::Id(_) | BuildError::Policy(_)) => Exit::Config,
            Self::Build(BuildError::Memory(error)) => exit_of_memory(error),
            Self::Encrypt(error) | Self::Decrypt(error) | Self::Rotate(error) | Self::Rewrap(error) => {
                exit_of_session(error)
            }
            Self::Runtime(_) | Self::Build(_) | Self::Close(_) | Self::Demo(_) => Exit::Software,
        }
    }

    /// Says what to do, where there is something and the error does not say so itself.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::InputTooLarge { .. } => Some("raise --max-payload"),
            Self::BinaryToTerminal { hint, .. } | Self::Usage { hint, .. } | Self::SystemKeys { hint, .. } => {
                Some(hint)
            }
            Self::NoKey(_) => Some("`keyward keys list` shows the ids of all keys and when they were created"),
            Self::BrokenTable => Some("make the changes that are called broken above"),
            Self::NoTable { .. } => Some("name the store that has the keys"),
            Self::Copy { .. } => Some("run it again when that is mended: it goes on where it ended"),
            Self::Conflicts(_) => Some(
                "find out which of the two stores has the key that records are encrypted under; nothing that was encrypted under \
                 the other one can be decrypted once that is gone",
            ),
            Self::Line { .. } => Some(
                "mend it, or have such lines copied as they are with --keep-going; --resume goes on where --out ends",
            ),
            Self::Occupied { .. } => Some("--resume goes on where it ends; else name another file"),
            Self::OtherOutput { .. } => Some("give the same --in and --out as the run that was interrupted"),
            Self::NoStore { .. } => Some("name an existing one with --store; `keyward encrypt` makes a new one"),
            Self::Memory(_) => {
                Some("`keyward doctor` shows what is missing; --memory-policy relaxed goes on without it")
            }
            Self::Doctor => {
                Some("change what is named above; where --memory-policy is relaxed, commands go on without it")
            }
            Self::Format(error) => error.hint(),
            Self::Decrypt(Error::WrongPartition) => {
                Some("give the --partition, --service and --product that it was encrypted with")
            }
            Self::Decrypt(Error::KeyNotFound { .. }) => {
                Some("give the --store that it was encrypted with; keys that were shredded are gone for good")
            }
            Self::Decrypt(Error::Undecryptable) => {
                Some("the record was changed, or it was made with another --store or --kms")
            }
            Self::Encrypt(Error::Kms(error))
            | Self::Decrypt(Error::Kms(error))
            | Self::Rotate(Error::Kms(error))
            | Self::Rewrap(Error::Kms(error))
                if matches!(**error, KmsError::Undecryptable { .. }) =>
            {
                Some("give the --kms that the keys in the --store were made with")
            }
            Self::Encrypt(Error::Kms(error)) | Self::Decrypt(Error::Kms(error)) if error.is_transient() => Some(
                "no system key could be opened or made, and this process has none in memory: `keyward kms check` shows what the key \
                 management service does; processes that have one loaded go on",
            ),
            Self::Rewrap(error) if exit_of_session(error) != Exit::Data => Some("--resume goes on where --out ends"),
            Self::Encrypt(Error::TooLarge { .. }) | Self::Decrypt(Error::TooLarge { .. }) => {
                Some("raise --max-payload")
            }
            _ if self.exit() == Exit::Temporary => Some("try again"),
            _ => None,
        }
    }
}

fn exit_of_session(error: &Error) -> Exit {
    match error {
        Error::Kms(error) => exit_of_kms(error),
        Error::Metastore(error) => exit_of_store(error),
        Error::Memory(error) => exit_of_memory(error),
        Error::Partition(_) => Exit::Usage,
        Error::Undecryptable
        | Error::WrongPartition
        | Error::Record(_)
        | Error::KeyNotFound { .. }
        | Error::Shredded { .. }
        | Error::TooLarge { .. } => Exit::Data,
        Error::KeyCorrupt { .. } => Exit::Unavailable,
        other if other.is_transient() => Exit::Temporary,
        _ => Exit::Software,
    }
}

fn exit_of_store(error: &StoreError) -> Exit {
    if error.is_transient() { Exit::Temporary } else { Exit::Unavailable }
}

fn exit_of_kms(error: &KmsError) -> Exit {
    match error {
        KmsError::KeyFile { source: Some(error), .. } if error.kind() == ErrorKind::PermissionDenied => {
            Exit::NoPermission
        }
        KmsError::KeyFile { .. }
        | KmsError::KeySize(_)
        | KmsError::Settings { .. }
        | KmsError::Undecryptable { .. } => Exit::Config,
        KmsError::Memory(error) => exit_of_memory(error),
        KmsError::Random(_) => Exit::Software,
        other if other.is_transient() => Exit::Temporary,
        _ => Exit::Unavailable,
    }
}

fn exit_of_memory(error: &MemoryError) -> Exit {
    match error {
        MemoryError::Budget { .. } => Exit::Config,
        MemoryError::Exhausted { .. } => Exit::Temporary,
        _ => Exit::Software,
    }
}
