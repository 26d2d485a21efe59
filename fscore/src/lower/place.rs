//! Whether the directory below the branches still is where it was.
//!
//! Its path may show another directory by now: the project was cloned anew, moved or deleted, or
//! something is mounted over it. The directory that is held open decides: while it is open, no
//! other directory gets its inode number, even after it was deleted.

use std::path::{Path, PathBuf};

use rustix::fd::AsFd;

use super::Lower;
use super::stat::{number, object_of};

/// Where the directory below the branches is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// At its path.
    InPlace,
    /// Its path shows another directory or nothing. The path that it has now is given if it is
    /// known.
    Elsewhere(Option<PathBuf>),
    /// It was deleted.
    Deleted,
}

/// The directory below the branches, and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LowerPlace {
    /// The path that it was opened by.
    pub path: PathBuf,
    /// Its device, as `st_dev`.
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
    /// Where it is now.
    pub place: Place,
}

impl Lower {
    pub(crate) fn place(&self, path: &Path) -> LowerPlace {
        let (device, inode) = self.root_object();
        LowerPlace {
            path: path.to_owned(),
            device,
            inode,
            place: self.place_now(path),
        }
    }

    fn place_now(&self, path: &Path) -> Place {
        use rustix::io::Errno;
        let ours = rustix::fs::fstat(&self.root);
        if ours.as_ref().is_ok_and(|it| number(it.st_nlink) == 0) {
            return Place::Deleted;
        }
        match rustix::fs::stat(path) {
            Ok(found) if object_of(&found) == self.root_object() => Place::InPlace,
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                Place::Elsewhere(self.path_now())
            }
            // The path cannot be looked at now, so nothing shows that another directory is there.
            Err(_) => Place::InPlace,
        }
    }

    fn path_now(&self) -> Option<PathBuf> {
        let path = path_of(&self.root)?;
        let found = rustix::fs::stat(&path).ok()?;
        (object_of(&found) == self.root_object()).then_some(path)
    }
}

/// Returns the path of an open directory (proc_pid_fd(5)). The caller must check that the directory
/// is really there.
#[cfg(target_os = "linux")]
fn path_of(directory: impl AsFd) -> Option<PathBuf> {
    use std::os::fd::AsRawFd as _;
    let number = directory.as_fd().as_raw_fd();
    std::fs::read_link(format!("/proc/self/fd/{number}")).ok()
}

/// Returns the path of an open directory (fcntl(2), `F_GETPATH`).
#[cfg(target_vendor = "apple")]
fn path_of(directory: impl AsFd) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let path = rustix::fs::getpath(directory).ok()?;
    Some(std::ffi::OsString::from_vec(path.into_bytes()).into())
}

/// Returns `None`: other systems do not report the path of an open directory.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn path_of(_: impl AsFd) -> Option<PathBuf> {
    None
}
