//! What goes wrong in a store, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use canopy_domain::{Address, Code, Refusal};

/// Why the store refused or failed. Cloned, for all commits of a group fail
/// together.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The address has a [`crate::Writer`] already.
    #[error("`{0}` has an owner already: one writer at a time")]
    Busy(Address),
    /// Every open vault is in use.
    #[error("{open} vaults are open and in use, and `{vault}` cannot be opened: raise open_vaults_max")]
    TooManyVaults {
        /// Which one was to be opened.
        vault: String,
        /// Twice the configured number.
        open: usize,
    },
    /// The vault lost something it had acknowledged, or cannot be read.
    #[error("vault `{vault}` is quarantined: {reason}")]
    Quarantined {
        /// Its name.
        vault: String,
        /// What was found.
        reason: String,
    },
    /// A group of commits could not be written. The vault is closed, and
    /// opened again by its next use. Whether the disk kept the group shows
    /// then: repeat the request under the same id.
    #[error("vault `{vault}` could not commit: {reason}")]
    CommitFailed {
        /// Its name.
        vault: String,
        /// What the disk or fjall said.
        reason: String,
    },
    /// As [`StoreError::CommitFailed`], for want of space.
    #[error("vault `{vault}` could not commit: the disk is full")]
    DiskFull {
        /// Its name.
        vault: String,
    },
    /// The vault is being closed, and somebody still reads from it.
    #[error("vault `{0}` is still in use and cannot be closed")]
    InUse(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// A stored value or file is not what was written.
    #[error("vault `{vault}` is damaged: {reason}")]
    Corrupt {
        /// Its name.
        vault: String,
        /// What was found.
        reason: String,
    },
    /// A file of the installation itself is not what was written.
    #[error("`{path}` is damaged: {reason}; restore it from a backup")]
    CorruptFile {
        /// Which file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The passphrase or key does not open the root key. The data is fine.
    #[error("the {0} does not open this data directory: give the one it was made with")]
    WrongKey(&'static str),
    /// The key is no key.
    #[error("{0}")]
    MalformedKey(String),
    /// Another process has the directory.
    #[error("`{0}` is in use by another process: stop it first")]
    Locked(PathBuf),
    /// The directory was written by a newer release.
    #[error("`{dir}` has format `{found}`, and this release reads up to `{known}`: use a newer release")]
    NewerFormat {
        /// Which directory.
        dir: PathBuf,
        /// What its VERSION file says.
        found: String,
        /// What this release writes.
        known: &'static str,
    },
    /// The directory holds something else.
    #[error("`{0}` is no data directory of Canopy, and is not empty: give another one")]
    NotOurs(PathBuf),
    /// A backup is not what was written.
    #[error("the backup `{path}` is damaged: {reason}")]
    BackupDamaged {
        /// Which file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Nothing was ever committed there.
    #[error("there is nothing in `{0}` yet")]
    NothingThere(String),
    /// Something is where something new is to be.
    #[error("`{0}` exists already, and nothing is overwritten: give another place")]
    Exists(PathBuf),
    /// The caller had it broken off.
    #[error("it was broken off")]
    Interrupted,
    /// The system refused.
    #[error("{what}: {reason}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        reason: String,
    },
    /// What was asked for had keys of its own, and they were destroyed.
    #[error("`{0}` was shredded: its keys are destroyed, and nobody can read it again")]
    Shredded(String),
    /// The first answer to a repeated request went with what it was about.
    #[error("the request was answered, and what it was about has been shredded since, its answer with it")]
    AnswerShredded,
    /// The installation has no such thing.
    #[error("`{0}` has no keys here")]
    NoKeys(String),
    /// The change of key slots is not possible.
    #[error("{0}")]
    Slot(String),
    /// A commit about more subjects than it can be sealed for.
    #[error("a commit is about {subjects} things that are shredded apart, and at most {max} are allowed")]
    TooManySubjects {
        /// How many.
        subjects: usize,
        /// The limit.
        max: usize,
    },
    /// A row of a table whose keys start with a subject's id has a shorter key.
    #[error("a key of table {0} names no subject: it has less than 16 bytes")]
    NoSubject(u16),
    /// A change of a table that is the store's own.
    #[error("table {0:#06x} is reserved for the store")]
    ReservedTable(u16),
}

impl StoreError {
    /// An I/O error at a path.
    pub(crate) fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::Io { what: format!("{what} `{}`", path.display()), reason: error.to_string() }
    }

    /// A failed commit.
    pub(crate) fn commit(vault: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::DiskFull { vault: vault.into() }
            }
            _ => Self::CommitFailed { vault: vault.into(), reason: error.to_string() },
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Quarantined { .. } => Refusal::new(Code::Unavailable, message)
                .hint("its files are kept as they are: stop the server and see `canopy local verify`; docs/recovery.md tells more"),
            StoreError::CommitFailed { .. } => Refusal::new(Code::Unavailable, message)
                .hint("try again with the same request id; if it persists, see the server log"),
            StoreError::Busy(_) | StoreError::Closed | StoreError::InUse(_) | StoreError::Io { .. } => {
                Refusal::new(Code::Unavailable, message).hint("try again with the same request id")
            }
            StoreError::Interrupted => Refusal::new(Code::Aborted, message).hint("try again"),
            StoreError::NothingThere(_) => {
                Refusal::new(Code::FailedPrecondition, message).hint("name what has something in it")
            }
            StoreError::DiskFull { .. } => Refusal::new(Code::ResourceExhausted, message)
                .hint("free some space on the data disk, then try again with the same request id"),
            StoreError::TooManyVaults { .. } => {
                Refusal::new(Code::ResourceExhausted, message).hint("try again later, or raise open_vaults_max")
            }
            StoreError::Shredded(_) => Refusal::new(Code::FailedPrecondition, message)
                .hint("it was destroyed for good; name something else"),
            StoreError::AnswerShredded => {
                Refusal::new(Code::FailedPrecondition, message).hint("it took effect; there is nothing to repeat")
            }
            StoreError::NoKeys(_) => Refusal::new(Code::NotFound, message),
            StoreError::Slot(_) => Refusal::new(Code::FailedPrecondition, message),
            StoreError::TooManySubjects { .. }
            | StoreError::NoSubject(_)
            | StoreError::Corrupt { .. }
            | StoreError::CorruptFile { .. }
            | StoreError::BackupDamaged { .. }
            | StoreError::Exists(_)
            | StoreError::WrongKey(_)
            | StoreError::MalformedKey(_)
            | StoreError::Locked(_)
            | StoreError::NewerFormat { .. }
            | StoreError::NotOurs(_)
            | StoreError::ReservedTable(_) => Refusal::new(Code::Internal, message).hint("see the server log"),
        }
    }
}
