//! Installs the preloaded library, which the program carries within itself, and has commands load it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use agentfs_proto::socket::{self, SocketPathError};
use rustix::fs::OFlags;

use crate::platform::{self, LIBRARY_SUFFIX, PRELOAD_VARIABLE};

/// The library; empty when the program was built for another system than it was built on.
#[cfg(agentfs_shim)]
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim"));
#[cfg(not(agentfs_shim))]
const LIBRARY: &[u8] = &[];

/// Distinguishes the versions of the library.
#[cfg(agentfs_shim)]
const HASH: &str = env!("AGENTFS_SHIM_HASH");
#[cfg(not(agentfs_shim))]
const HASH: &str = "none";

/// Why the library cannot be put where programs load it from.
#[derive(Debug)]
pub(crate) enum InstallError {
    /// The program was built without the library.
    NotCarried,
    /// The directory is not safe.
    Directory(SocketPathError),
    /// Nothing can be loaded from the directory.
    Unusable(PathBuf),
    /// The library cannot be written.
    Io(PathBuf, io::Error),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCarried => f.write_str(
                "this agentfs was built without its preloaded library; build it on the system it is \
                 for, or name one in AGENTFS_SHIM_LIBRARY when building",
            ),
            Self::Directory(error) => error.fmt(f),
            Self::Unusable(path) => write!(
                f,
                "no library can be loaded from {}: it is mounted noexec, or its path has a space or \
                 a colon; name another directory in XDG_RUNTIME_DIR",
                path.display()
            ),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for InstallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Directory(error) => Some(error),
            Self::Io(_, error) => Some(error),
            Self::NotCarried | Self::Unusable(_) => None,
        }
    }
}

/// Puts the library into the user's runtime directory, unless it is there, and returns its path.
///
/// # Errors
///
/// [`InstallError`], whose text names the way out.
pub(crate) fn install() -> Result<PathBuf, InstallError> {
    if LIBRARY.is_empty() {
        return Err(InstallError::NotCarried);
    }
    let uid = rustix::process::geteuid().as_raw();
    let runtime = socket::path_for(None, std::env::var_os("XDG_RUNTIME_DIR"), uid);
    socket::prepare(&runtime).map_err(InstallError::Directory)?;
    let directory = runtime.parent().unwrap_or(Path::new("/"));
    install_in(directory)
}

/// Returns whether this is the file name of some version of the library.
pub(crate) fn is_name(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"shim-")
}

/// Puts the library back when it was removed.
pub(crate) fn restore() {
    match install() {
        Ok(_) | Err(InstallError::NotCarried) => {}
        Err(error) => tracing::warn!(%error, "new programs cannot load the preloaded library"),
    }
}

fn install_in(directory: &Path) -> Result<PathBuf, InstallError> {
    let path = directory.join(format!("shim-{HASH}.{LIBRARY_SUFFIX}"));
    let failed = |error| InstallError::Io(path.clone(), error);
    if !is_loadable(directory).map_err(failed)? {
        return Err(InstallError::Unusable(directory.to_owned()));
    }
    if !is_ours(&path) {
        write(&path).map_err(failed)?;
    }
    Ok(path)
}

/// Returns whether the loader takes libraries from a directory.
fn is_loadable(directory: &Path) -> io::Result<bool> {
    let separates = |byte: &u8| byte.is_ascii_whitespace() || *byte == b':';
    Ok(!platform::is_noexec(directory)? && !directory.as_os_str().as_bytes().iter().any(separates))
}

/// Returns whether the file is the library as this program carries it, and no other user could have put
/// it there.
fn is_ours(path: &Path) -> bool {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let mut options = File::options();
    options.read(true).custom_flags(flags.cast_signed());
    let Ok(mut file) = options.open(path) else {
        return false;
    };
    let uid = rustix::process::geteuid().as_raw();
    let is_private = file.metadata().is_ok_and(|it| {
        let is_same_size = it.len() == LIBRARY.len() as u64;
        it.is_file() && it.uid() == uid && it.mode() & 0o022 == 0 && is_same_size
    });
    let mut bytes = Vec::with_capacity(LIBRARY.len());
    is_private && file.read_to_end(&mut bytes).is_ok() && bytes == LIBRARY
}

/// Replaces the file in one step: a program that loads it meanwhile gets the old one or the new one.
fn write(path: &Path) -> io::Result<()> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let result = write_new(&new).and_then(|()| fs::rename(&new, path));
    if result.is_err() {
        // The first error is the one that is reported.
        drop(fs::remove_file(&new));
    }
    result
}

fn write_new(path: &Path) -> io::Result<()> {
    // A process of the same number may have been killed while it wrote.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(LIBRARY)
}

/// Has a command load the library, before all others that it loads.
pub(crate) fn preload(command: &mut Command, library: &Path) {
    let mut value = OsString::from(library);
    if let Some(others) = std::env::var_os(PRELOAD_VARIABLE).filter(|it| !it.is_empty()) {
        let mut rest = others.as_bytes().split(|byte| matches!(byte, b' ' | b':'));
        if rest.any(|it| it == library.as_os_str().as_bytes()) {
            return;
        }
        value.push(":");
        value.push(others);
    }
    command.env(PRELOAD_VARIABLE, value);
}
