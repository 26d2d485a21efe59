//! What applying did, would do, or could not do.

use std::path::{Path, PathBuf};

use super::lock::LockError;
use crate::model::errno::Errno;
use crate::model::event::ObjectKind;

/// How [`Branch::apply`](crate::Branch::apply) shall go about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplyMode {
    /// Only say what would be done.
    DryRun,
    /// Do it, unless something conflicts.
    Refuse,
    /// Do it, also where the host changed what the branch changed. What others put into a directory
    /// stays all the same.
    Force,
}

/// One thing to do on the host. Paths are relative to the lower directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A new directory, link or special file.
    Create(PathBuf, ObjectKind),
    /// A file, written whole.
    Write(PathBuf),
    /// Permissions, owner, times and extended attributes.
    SetAttributes(PathBuf),
    /// A name moves.
    Rename(PathBuf, PathBuf),
    /// A name goes away.
    Remove(PathBuf, ObjectKind),
}

impl Action {
    /// What it is done to; of a rename, the new name.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Create(path, _)
            | Self::Write(path)
            | Self::SetAttributes(path)
            | Self::Rename(_, path)
            | Self::Remove(path, _) => path,
        }
    }

    /// Returns every path that it changes: of a rename, the old name and the new one.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let old = match self {
            Self::Rename(old, _) => Some(&**old),
            Self::Create(..) | Self::Write(_) | Self::SetAttributes(_) | Self::Remove(..) => None,
        };
        old.into_iter().chain([self.path()])
    }
}

/// What applying did, or would do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// In the order in which it is done.
    pub actions: Vec<Action>,
    /// What the host changed since the branch saw it.
    pub conflicts: Vec<PathBuf>,
    /// What stays although the branch removed the directory it is in, because the branch never saw
    /// it; and those directories.
    pub kept: Vec<PathBuf>,
    /// How many changes lie too deep for a path (4,095 bytes). They are left out and stay in the
    /// branch.
    pub too_deep: usize,
}

/// Why nothing, or not everything, was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ApplyError {
    /// There is no lower directory.
    NoLower,
    /// The host changed what the branch changed; nothing was done.
    Conflicts(Vec<PathBuf>),
    /// The host changed something while the branch was applied. What was done is done and no longer
    /// among the branch's changes; the rest is, and nothing of the host's was overwritten.
    Changed {
        /// What was done before.
        done: Vec<Action>,
        /// What the host changed.
        conflicts: Vec<PathBuf>,
    },
    /// The branch has something else where the host has directories with files that the branch never
    /// saw, or the host moved directories that the branch changed; nothing was done, also when forced.
    InTheWay(Vec<PathBuf>),
    /// The host refused. What was done before is no longer among the branch's changes.
    Host {
        /// What was being done.
        path: PathBuf,
        /// Why not.
        errno: Errno,
        /// How many steps were made before.
        done: usize,
    },
    /// It was ended from outside. What was done is no longer among the branch's changes.
    Cancelled {
        /// How many steps were made.
        done: usize,
        /// How many were not.
        left: usize,
    },
    /// Another process does not stop writing to the directory; nothing was done.
    Busy,
    /// The branch moved this to where it has no path; nothing was done.
    TooDeep(PathBuf),
    /// The difference could not be found.
    Diff(Errno),
}

impl From<LockError> for ApplyError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Cancelled => Self::Cancelled { done: 0, left: 0 },
            LockError::Busy => Self::Busy,
            LockError::Host(errno) => Self::Host {
                path: PathBuf::from("."),
                errno,
                done: 0,
            },
        }
    }
}

/// The first path, and how many there are beside it.
struct Paths<'a>(&'a [PathBuf]);

impl std::fmt::Display for Paths<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some((first, rest)) = self.0.split_first() else {
            return f.write_str("nothing");
        };
        first.display().fmt(f)?;
        match rest.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl std::fmt::Display for ApplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rest = "the others are still in the branch; apply it again for them";
        match self {
            Self::NoLower => {
                f.write_str("there is no lower directory; set overlay in the FsConfig")
            }
            Self::Conflicts(paths) => write!(
                f,
                "the host changed {} since the branch saw them; force it or resolve them in the \
                 branch",
                Paths(paths)
            ),
            Self::Changed { done, conflicts } => write!(
                f,
                "the host changed {} while the branch was applied; {} steps are done, and what is \
                 left is still in the branch",
                Paths(conflicts),
                done.len()
            ),
            Self::InTheWay(paths) => write!(
                f,
                "the host moved a directory that the branch changed, or filled one that the branch \
                 replaced: {}; nothing was done, also by force, because files would be lost: move \
                 it back or away, or rename what the branch has there",
                Paths(paths)
            ),
            Self::Host { path, errno, done } => {
                write!(f, "{}: {errno}", path.display())?;
                match done {
                    0 => Ok(()),
                    done => write!(f, "; {done} steps are done, {rest}"),
                }
            }
            Self::Cancelled { done, left } => write!(
                f,
                "applying was ended: {done} steps are done and {left} are not; {rest}"
            ),
            Self::Busy => f.write_str(
                "another process keeps the directory locked (flock) for longer than a minute; wait \
                 for it or end it, then apply again",
            ),
            Self::TooDeep(path) => write!(
                f,
                "{} was moved deeper than a path can lead (4,095 bytes), so nothing was applied; \
                 move it up in the branch",
                path.display()
            ),
            Self::Diff(errno) => write!(f, "the changes of the branch cannot be read: {errno}"),
        }
    }
}

impl std::error::Error for ApplyError {}
