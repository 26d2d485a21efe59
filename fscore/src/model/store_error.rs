//! Why a store cannot be opened.

use std::fmt;
use std::path::PathBuf;

use super::errno::Errno;

/// Why a store cannot be opened. Nothing in it was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it.
    InUse(PathBuf),
    /// Other users can write in the directory.
    NotPrivate(PathBuf),
    /// The directory is no store, or one of a format that this program does not know.
    NoStore(PathBuf),
    /// What is in it makes no sense.
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The disk has failed.
    Disk {
        /// The directory.
        path: PathBuf,
        /// The error.
        errno: Errno,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => write!(
                f,
                "the store {} is in use by another process; end that one first",
                path.display()
            ),
            Self::NotPrivate(path) => write!(
                f,
                "other users can write in the store {}: take that from them with `chmod go-w`, or name \
                 another directory",
                path.display()
            ),
            Self::NoStore(path) => write!(
                f,
                "{} is not empty and no store that this program knows; name another directory",
                path.display()
            ),
            Self::Damaged { path, what } => {
                write!(f, "the store {} is damaged: {what}", path.display())
            }
            Self::Disk { path, errno } => write!(f, "the store {}: {errno}", path.display()),
        }
    }
}

impl std::error::Error for StoreError {}
