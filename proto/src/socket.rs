//! Where the control socket is, and the check that no other user can put one there.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// The environment variable that names the socket.
pub const SOCKET_VARIABLE: &str = "AGENTFS_SOCKET";

/// The longest path of a socket: `sun_path` less its NUL.
pub const MAX_PATH: usize = if cfg!(target_vendor = "apple") {
    103
} else {
    107
};

/// What follows the socket's path in the path of the file beside it. A daemon holds a lock on that file
/// while it lives, and writes into it when it listens, so programs that watch the file learn of a new daemon.
pub const LOCK_SUFFIX: &str = ".lock";

const SOCKET_NAME: &str = "control.sock";
const PROJECT_PREFIX: &str = "project-";
const PROJECT_SUFFIX: &str = ".sock";

/// Why there is no usable socket path.
#[derive(Debug)]
pub enum SocketPathError {
    /// Longer than [`MAX_PATH`].
    TooLong(PathBuf),
    /// The path names no file in a directory.
    NoDirectory(PathBuf),
    /// The directory cannot be made or looked at.
    Io(PathBuf, io::Error),
    /// It is a link or a file.
    NotADirectory(PathBuf),
    /// It belongs to someone else.
    Owner {
        /// The directory.
        directory: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Others may enter it.
    Mode {
        /// The directory.
        directory: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl fmt::Display for SocketPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(path) => write!(
                f,
                "the socket path {} has more than {MAX_PATH} bytes; \
                 name a shorter one in {SOCKET_VARIABLE}",
                path.display()
            ),
            Self::NoDirectory(path) => write!(
                f,
                "{} is no path of a socket; name a file in a directory of yours",
                path.display()
            ),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::NotADirectory(path) => {
                write!(
                    f,
                    "{} is not a directory; move it out of the way",
                    path.display()
                )
            }
            Self::Owner { directory, uid } => write!(
                f,
                "{} belongs to user {uid}; name a socket in a directory of yours in \
                 {SOCKET_VARIABLE}",
                directory.display()
            ),
            Self::Mode { directory, mode } => write!(
                f,
                "{} lets others in (mode {mode:03o}); run: chmod 700 {}",
                directory.display(),
                directory.display()
            ),
        }
    }
}

impl std::error::Error for SocketPathError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Io(_, error) = self {
            Some(error)
        } else {
            None
        }
    }
}

/// Returns the path of the socket for programs that name no other: `AGENTFS_SOCKET`, else
/// `$XDG_RUNTIME_DIR/agentfs/control.sock`, else `/tmp/agentfs-UID/control.sock`.
#[must_use]
pub fn default_path() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    path_for(
        std::env::var_os(SOCKET_VARIABLE),
        std::env::var_os("XDG_RUNTIME_DIR"),
        uid,
    )
}

/// Returns what [`default_path`] does, for these values of the two variables and this user.
#[must_use]
pub fn path_for(socket: Option<OsString>, runtime_dir: Option<OsString>, uid: u32) -> PathBuf {
    if let Some(path) = socket.filter(|path| !path.is_empty()) {
        return path.into();
    }
    // The XDG base directory specification: a relative path is to be ignored.
    match runtime_dir
        .map(PathBuf::from)
        .filter(|directory| directory.is_absolute())
    {
        Some(directory) => directory.join("agentfs").join(SOCKET_NAME),
        None => PathBuf::from(format!("/tmp/agentfs-{uid}")).join(SOCKET_NAME),
    }
}

/// Returns the path of the socket of one project's daemon, beside the default one. Its name is made of
/// the path of the project's directory and of its device and inode number (`st_dev`, `st_ino`), so
/// that another directory at the same path has another socket.
#[must_use]
pub fn project_path(default: &Path, project: &Path, device: u64, inode: u64) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    let numbers = device.to_le_bytes().into_iter().chain(inode.to_le_bytes());
    let all = numbers.chain(project.as_os_str().as_bytes().iter().copied());
    // FNV-1a: the same in every version of this program, which the hashes of std are not.
    let hash = all.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    default.with_file_name(format!("{PROJECT_PREFIX}{hash:016x}{PROJECT_SUFFIX}"))
}

/// Returns whether a file name is one that [`project_path`] makes.
#[must_use]
pub fn is_project_name(name: &OsStr) -> bool {
    let name = name.to_str().unwrap_or_default();
    name.starts_with(PROJECT_PREFIX) && name.ends_with(PROJECT_SUFFIX)
}

/// Checks that only this user can put a socket at `path`: its directory is a real one, belongs to the
/// user, and lets nobody else in.
///
/// # Errors
///
/// [`SocketPathError`] when that is not so.
pub fn check(path: &Path) -> Result<(), SocketPathError> {
    let directory = directory_of(path)?;
    let metadata = std::fs::symlink_metadata(directory)
        .map_err(|error| SocketPathError::Io(directory.to_owned(), error))?;
    let directory = directory.to_owned();
    if !metadata.is_dir() {
        return Err(SocketPathError::NotADirectory(directory));
    }
    let uid = metadata.uid();
    if uid != rustix::process::geteuid().as_raw() {
        return Err(SocketPathError::Owner { directory, uid });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SocketPathError::Mode { directory, mode });
    }
    Ok(())
}

/// Makes the directory of the socket, with mode 0700, unless it is there, and [`check`]s it.
///
/// # Errors
///
/// [`SocketPathError`] when it cannot be made or is not safe.
pub fn prepare(path: &Path) -> Result<(), SocketPathError> {
    // The daemon binds to a name 4 bytes longer first.
    if path.as_os_str().len() + 4 > MAX_PATH {
        return Err(SocketPathError::TooLong(path.to_owned()));
    }
    let directory = directory_of(path)?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| SocketPathError::Io(directory.to_owned(), error))?;
    check(path)
}

fn directory_of(path: &Path) -> Result<&Path, SocketPathError> {
    if path.file_name().is_none() {
        return Err(SocketPathError::NoDirectory(path.to_owned()));
    }
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(SocketPathError::NoDirectory(path.to_owned())),
    }
}
