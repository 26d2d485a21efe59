//! What applying did, would do, or could not do.

use std::path::{Path, PathBuf};

use crate::lower::transaction::LockError;
use crate::model::errno::Errno;
use crate::model::event::ObjectKind;

/// What [`Branch::apply`](crate::Branch::apply) does about conflicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplyMode {
    /// Only reports what would be done.
    DryRun,
    /// Applies the branch, unless there are conflicts.
    Refuse,
    /// Applies the branch even where the host changed what the branch changed. What others put into
    /// a directory stays all the same.
    Force,
}

/// One step on the host. Paths are relative to the lower directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A directory, symbolic link or special file is created.
    Create(PathBuf, ObjectKind),
    /// A file is written as a whole.
    Write(PathBuf),
    /// Permissions, owner, times or extended attributes are set.
    SetAttributes(PathBuf),
    /// An object is renamed.
    Rename(PathBuf, PathBuf),
    /// A name is removed.
    Remove(PathBuf, ObjectKind),
}

impl Action {
    /// Returns the path that it changes; for a rename, the new name.
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

    /// Returns every path that it changes: for a rename, the old name and the new one.
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
    /// The steps, in their order.
    pub actions: Vec<Action>,
    /// The paths that the host changed since the branch saw them.
    pub conflicts: Vec<PathBuf>,
    /// The paths that stay although the branch removed their directory, because the branch never
    /// saw them; and those directories.
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
    /// The host changed what the branch changed, before the branch was applied or meanwhile; nothing
    /// was done.
    Conflicts(Vec<PathBuf>),
    /// The branch has something else where the host has directories with files that the branch
    /// never saw, or the host moved directories that the branch changed. Nothing was done, even if
    /// forced.
    InTheWay(Vec<PathBuf>),
    /// The host refused a step. Nothing was done.
    Host {
        /// The path that the step was about.
        path: PathBuf,
        /// What the host answered.
        errno: Errno,
    },
    /// What an earlier process left half applied cannot be taken back. Nothing was done.
    Recovery(Errno),
    /// The caller cancelled it. Nothing was done.
    Cancelled,
    /// Another process keeps the directory locked; nothing was done.
    Busy,
    /// The branch moved this object to where it has no path; nothing was done.
    TooDeep(PathBuf),
    /// The difference between the branch and the host could not be found.
    Diff(Errno),
}

impl From<LockError> for ApplyError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Cancelled => Self::Cancelled,
            LockError::Busy => Self::Busy,
            LockError::Host(errno) => Self::Host {
                path: PathBuf::from("."),
                errno,
            },
        }
    }
}

/// The first path, and how many others there are.
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
        match self {
            Self::NoLower => {
                f.write_str("there is no lower directory; set overlay in the FsConfig")
            }
            Self::Conflicts(paths) => write!(
                f,
                "the host changed {} since the branch saw them, so nothing was done; force it or \
                 resolve them in the branch",
                Paths(paths)
            ),
            Self::InTheWay(paths) => write!(
                f,
                "the host moved a directory that the branch changed, or filled one that the branch \
                 replaced: {}; nothing was done, also by force, because files would be lost: move \
                 it back or away, or rename what the branch has there",
                Paths(paths)
            ),
            Self::Host { path, errno } => write!(
                f,
                "{}: {errno}; nothing was done, and the changes are still in the branch",
                path.display()
            ),
            Self::Recovery(errno) => write!(
                f,
                "an earlier apply was interrupted, and what it did cannot be taken back now: \
                 {errno}; nothing was done, apply again when the reason is gone"
            ),
            Self::Cancelled => f.write_str(
                "applying was ended before anything was done; the changes are still in the branch, \
                 apply it again for them",
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
