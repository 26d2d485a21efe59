//! Why changes are not exported or imported.

use std::fmt;
use std::io;
use std::path::PathBuf;

use agentfs_core::Errno;

use crate::cancel::Cancelled;

/// Why changes are not exported or imported.
#[derive(Debug)]
pub enum ExportError {
    /// The host refused an operation on this path.
    Io(PathBuf, io::Error),
    /// The branch cannot be read at this path.
    Branch(PathBuf, Errno),
    /// The file is no list of changes.
    List(PathBuf, String),
    /// The object belongs to another user.
    Owner {
        /// The object.
        path: PathBuf,
        /// The user that it belongs to.
        uid: u32,
    },
    /// Other users may write to the object.
    Writable(PathBuf),
    /// The object is not a regular file.
    NotAFile(PathBuf),
    /// The project has something else where the list expects what it moves.
    Kept(PathBuf),
    /// The change depends on one that was not applied.
    Depends(PathBuf),
    /// The project was changed while an import was at work there.
    Changed(PathBuf),
    /// The work was cancelled, or took too long.
    Cancelled,
}

impl fmt::Display for ExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => {
                let path = path.display();
                match rustix::io::Errno::from_io_error(error) {
                    Some(rustix::io::Errno::LOOP) => write!(
                        f,
                        "{path}: a symbolic link is in the way, and nothing is written through one; \
                         move it away"
                    ),
                    Some(rustix::io::Errno::XDEV) => write!(
                        f,
                        "{path}: something is mounted there, and nothing is written into another \
                         mount; unmount it first"
                    ),
                    _ => write!(f, "{path}: {error}"),
                }
            }
            Self::Branch(path, errno) => {
                write!(
                    f,
                    "{} of the branch cannot be read: {errno}",
                    path.display()
                )
            }
            Self::List(path, why) => write!(
                f,
                "{} is no list of changes as this agentfs writes it: {why}",
                path.display()
            ),
            Self::Owner { path, uid } => write!(
                f,
                "{} belongs to user {uid}, who could have put anything into it; apply it as that \
                 user, or look through it and make it yours: chown -R {} {}",
                path.display(),
                rustix::process::geteuid().as_raw(),
                path.display()
            ),
            Self::Writable(path) => write!(
                f,
                "other users may write to {}, and could have put anything into it; look through it \
                 and close it: chmod -R go-w {}",
                path.display(),
                path.display()
            ),
            Self::NotAFile(path) => write!(f, "{} is not a regular file", path.display()),
            Self::Changed(path) => write!(
                f,
                "{} was changed by somebody else while the changes were applied; look at it, then \
                 apply them again: what is done already stays done",
                path.display()
            ),
            Self::Kept(path) => write!(
                f,
                "{}: what the branch moved there cannot be told from what the project has by now, so \
                 nothing is overwritten; compare both and move it by hand",
                path.display()
            ),
            Self::Depends(path) => write!(
                f,
                "{}: this depends on another change that was not made",
                path.display()
            ),
            Self::Cancelled => f.write_str("it was interrupted, or took too long"),
        }
    }
}

impl std::error::Error for ExportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            Self::Branch(_, errno) => Some(errno),
            Self::List(..)
            | Self::Owner { .. }
            | Self::Writable(_)
            | Self::NotAFile(_)
            | Self::Kept(_)
            | Self::Depends(_)
            | Self::Changed(_)
            | Self::Cancelled => None,
        }
    }
}

impl From<Cancelled> for ExportError {
    fn from(Cancelled: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Why one step failed. The caller knows the path.
#[derive(Debug)]
pub(crate) enum StepError {
    Io(io::Error),
    Changed,
    Cancelled,
    /// An error that names its own path.
    Other(ExportError),
}

pub(crate) type StepResult<T = ()> = Result<T, StepError>;

impl StepError {
    pub(crate) fn at(self, path: PathBuf) -> ExportError {
        match self {
            Self::Io(error) => ExportError::Io(path, error),
            Self::Changed => ExportError::Changed(path),
            Self::Cancelled => ExportError::Cancelled,
            Self::Other(error) => error,
        }
    }
}

impl From<io::Error> for StepError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustix::io::Errno> for StepError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl From<Errno> for StepError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl From<Cancelled> for StepError {
    fn from(Cancelled: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl From<ExportError> for StepError {
    fn from(error: ExportError) -> Self {
        Self::Other(error)
    }
}
