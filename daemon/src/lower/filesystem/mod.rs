//! The kind of filesystem that a directory is on, and whether only this machine changes it.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod platform;

use std::path::Path;

/// A kind of filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Filesystem {
    /// Its name, as far as it is known.
    pub name: &'static str,
    /// Whether inotify hears of every change: nobody but this kernel makes any.
    pub is_local: bool,
}

/// Returns the kind of the filesystem that the directory at a path is on.
///
/// What is not known to be local counts as if it were not: it is slower, and right.
#[must_use]
pub fn of(path: &Path) -> Filesystem {
    platform::of(path)
}
