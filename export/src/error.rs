//! Why changes are not written or carried over.

use std::fmt;
use std::io;
use std::path::PathBuf;

use agentfs_core::Errno;

use crate::cancel::Stopped;

/// Why changes are not written or carried over.
#[derive(Debug)]
pub enum ExportError {
    /// The host refused.
    Io(PathBuf, io::Error),
    /// The branch cannot be read.
    Branch(PathBuf, Errno),
    /// This is no list of changes.
    List(PathBuf, String),
    /// It belongs to another user.
    Owner {
        /// What does.
        path: PathBuf,
        /// That user.
        uid: u32,
    },
    /// Other users may write to it.
    Writable(PathBuf),
    /// It is neither a file nor anything else that is read here.
    NotAFile(PathBuf),
    /// The project has something else where the list expects what it moves.
    Kept(PathBuf),
    /// It depends on a change that was not made.
    Depends(PathBuf),
    /// The project was changed while this was at work there.
    Changed(PathBuf),
    /// It was asked to end, or took too long.
    Stopped,
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
            Self::Stopped => f.write_str("it was interrupted, or took too long"),
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
            | Self::Stopped => None,
        }
    }
}

impl From<Stopped> for ExportError {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

/// Why one thing was not done; the path is known to the caller.
#[derive(Debug)]
pub(crate) enum StepError {
    Io(io::Error),
    Changed,
    Stopped,
    /// Something else, which names its own path.
    Other(ExportError),
}

pub(crate) type StepResult<T = ()> = Result<T, StepError>;

impl StepError {
    pub(crate) fn at(self, path: PathBuf) -> ExportError {
        match self {
            Self::Io(error) => ExportError::Io(path, error),
            Self::Changed => ExportError::Changed(path),
            Self::Stopped => ExportError::Stopped,
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

impl From<Stopped> for StepError {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<ExportError> for StepError {
    fn from(error: ExportError) -> Self {
        Self::Other(error)
    }
}
