//! Of which directories of the host somebody tells every change.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::sync::RwLock;

/// The directories of the lower directory whose changes are told with
/// [`lower_changed`](crate::FsCore::lower_changed): those that somebody watches, on a filesystem that
/// only this machine changes.
///
/// What was answered of these can be remembered until a change is told; what was answered of all
/// others has to be asked again. Nothing is announced unless somebody says so.
///
/// Paths are relative to the lower directory, which itself is the empty path.
#[derive(Debug, Default)]
pub struct Announced {
    dirs: RwLock<HashSet<Box<[u8]>>>,
    is_whole: AtomicBool,
    /// How often a directory was added.
    added: AtomicU64,
}

impl Announced {
    /// From now on changes in the directory are told, though not in those below it.
    pub fn add(&self, dir: &Path) {
        // First: whoever finds the directory, and this number as it was, looked after it was added.
        self.added.fetch_add(1, Ordering::SeqCst);
        self.dirs.write().insert(dir.as_os_str().as_bytes().into());
    }

    /// From now on changes in the directory are not told, nor in those below it.
    pub fn remove(&self, dir: &Path) {
        let dir = dir.as_os_str().as_bytes();
        self.dirs
            .write()
            .retain(|other| !is_at_or_below(other, dir));
    }

    /// As [`remove`](Self::remove) for a directory that is gone, and with it all that were below.
    pub fn forget(&self, dir: &Path) {
        self.dirs.write().remove(dir.as_os_str().as_bytes());
    }

    /// Says whether all directories that there are have been [added](Self::add), and new ones will
    /// be.
    pub fn set_whole(&self, is_whole: bool) {
        // Release: pairs with `is_whole`; every directory was added before.
        self.is_whole.store(is_whole, Ordering::Release);
    }

    /// Whether changes are told in all directories.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// How many directories there are whose changes are told.
    #[must_use]
    pub fn count(&self) -> usize {
        self.dirs.read().len()
    }

    /// Whether changes in the directory are told.
    #[must_use]
    pub fn has(&self, dir: impl AsRef<Path>) -> bool {
        self.has_bytes(dir.as_ref().as_os_str().as_bytes())
    }

    pub(crate) fn added(&self) -> u64 {
        self.added.load(Ordering::SeqCst)
    }

    pub(crate) fn has_bytes(&self, dir: &[u8]) -> bool {
        self.dirs.read().contains(dir)
    }
}

fn is_at_or_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty()
        || path
            .strip_prefix(dir)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_removed_with_those_below_and_not_with_its_namesakes() {
        let announced = Announced::default();
        for dir in ["", "a", "a/b", "ab", "c"] {
            announced.add(dir.as_ref());
        }
        announced.remove("a".as_ref());
        let left: Vec<bool> = ["", "a", "a/b", "ab", "c"]
            .map(|dir| announced.has(dir))
            .into();
        assert_eq!(left, [true, false, false, true, true]);
        announced.remove("".as_ref());
        assert_eq!(announced.count(), 0);
    }
}
