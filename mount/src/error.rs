//! Why a mount cannot be made or taken away.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a branch cannot be mounted. The text names the way out.
#[derive(Debug)]
pub enum MountError {
    /// There is no `/dev/fuse`.
    NoDevice,
    /// This process may not open `/dev/fuse`.
    DeviceDenied(io::Error),
    /// The mount point is missing or is no directory.
    NotADirectory(PathBuf, io::Error),
    /// `fusermount3`, which mounts for ordinary users, is missing.
    NoHelper,
    /// The kernel or the helper refused.
    Refused(PathBuf, io::Error),
    /// There is no such branch.
    NoBranch,
    /// What was passed to be served is no descriptor of the mount it was said to be, or the mount has
    /// ended.
    NoSuchMount,
    /// A thread or a process could not be started.
    Io(io::Error),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => f.write_str(
                "there is no /dev/fuse: run `modprobe fuse` as root \
                 (a container needs `--device /dev/fuse --cap-add SYS_ADMIN`)",
            ),
            Self::DeviceDenied(error) => write!(
                f,
                "/dev/fuse cannot be opened ({error}): run `chmod 666 /dev/fuse` as root"
            ),
            Self::NotADirectory(path, error) => {
                write!(f, "{} cannot be mounted on: {error}", path.display())?;
                if error.kind() == io::ErrorKind::NotConnected {
                    f.write_str(
                        ": it lies on a mount whose daemon was killed; \
                         take that away with `agentfs umount DIR`",
                    )?;
                }
                Ok(())
            }
            Self::NoHelper => f.write_str(
                "an ordinary user mounts by fusermount3, and there is none: \
                 install the package fuse3, or use `unshare -Urm`",
            ),
            Self::Refused(path, error) => {
                write!(f, "mounting on {} was refused: {error}", path.display())
            }
            Self::NoBranch => f.write_str("there is no such branch"),
            Self::NoSuchMount => f.write_str(
                "nothing is mounted with this descriptor: \
                 pass the /dev/fuse that was mounted, and its st_dev",
            ),
            Self::Io(error) => write!(f, "the mount cannot be served: {error}"),
        }
    }
}

impl std::error::Error for MountError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::DeviceDenied(error)
            | Self::NotADirectory(_, error)
            | Self::Refused(_, error)
            | Self::Io(error) => Some(error),
            Self::NoDevice | Self::NoHelper | Self::NoBranch | Self::NoSuchMount => None,
        }
    }
}

/// Why a mount cannot be left to another server.
#[derive(Debug)]
pub enum LeaveError {
    /// It is mounted no more, or was left before.
    NotMounted(PathBuf),
    /// The kernel does not send requests again: Linux before 6.9.
    NoResend(PathBuf),
    /// A request takes long. The mount is left when it is answered.
    Busy(PathBuf),
}

impl fmt::Display for LeaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMounted(path) => write!(f, "no branch is mounted on {}", path.display()),
            Self::NoResend(path) => write!(
                f,
                "the mount on {} cannot be passed on by this kernel (Linux 6.9 and later can): \
                 unmount it",
                path.display()
            ),
            Self::Busy(path) => write!(
                f,
                "a request on {} is not answered yet: end this process, \
                 and the next daemon answers it",
                path.display()
            ),
        }
    }
}

impl std::error::Error for LeaveError {}

/// Why a mount cannot be taken away.
#[derive(Debug)]
pub enum UnmountError {
    /// A program has a file open or its working directory in it.
    Busy(PathBuf),
    /// Something else is mounted over it.
    Covered(PathBuf),
    /// Nothing of this process is mounted there.
    NotMounted(PathBuf),
    /// The kernel or the helper refused.
    Refused(PathBuf, io::Error),
}

impl fmt::Display for UnmountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(path) => write!(
                f,
                "{} is in use: end the programs in it (`fuser -vm` lists them), or detach it",
                path.display()
            ),
            Self::Covered(path) => write!(
                f,
                "something else is mounted over the branch on {0}: `umount {0}` first",
                path.display()
            ),
            Self::NotMounted(path) => write!(f, "no branch is mounted on {}", path.display()),
            Self::Refused(path, error) => {
                write!(f, "unmounting {} was refused: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for UnmountError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_, error) => Some(error),
            Self::Busy(_) | Self::Covered(_) | Self::NotMounted(_) => None,
        }
    }
}
