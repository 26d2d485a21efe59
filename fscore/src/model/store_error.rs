//! Why a store cannot be opened.

use std::fmt;
use std::path::{Path, PathBuf};

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

/// A path as a word of a shell.
struct Quoted<'p>(&'p Path);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.display().to_string();
        let is_plain = |it: char| it.is_alphanumeric() || "/-_.+@:,".contains(it);
        if text.chars().all(is_plain) {
            return f.write_str(&text);
        }
        write!(f, "'{}'", text.replace('\'', "'\\''"))
    }
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
                "other users can write in the store {}: take that from them with `chmod go-w {}`, or \
                 name another directory",
                path.display(),
                Quoted(path)
            ),
            Self::NoStore(path) => write!(
                f,
                "{} is not empty and no store that this program knows; name another directory",
                path.display()
            ),
            Self::Damaged { path, what } => {
                write!(
                    f,
                    "the store {} is damaged: {what}; to read what is left of it: agentfs daemon \
                     --salvage --store {}",
                    path.display(),
                    Quoted(path)
                )
            }
            Self::Disk {
                path,
                errno: errno @ (Errno::ENOSPC | Errno::EDQUOT),
            } => write!(
                f,
                "the store {}: {errno}; free some room on its disk, or read the store without writing to \
                 it: agentfs daemon --salvage --store {}",
                path.display(),
                Quoted(path)
            ),
            Self::Disk { path, errno } => write!(f, "the store {}: {errno}", path.display()),
        }
    }
}

impl std::error::Error for StoreError {}
