//! The directories of the host in which every change is announced.

use std::collections::HashSet;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::sync::RwLock;

/// The directories below the lower directory whose changes are announced by
/// [`lower_changed`](crate::FsCore::lower_changed): those that a watcher of the host covers, on a
/// filesystem that only this machine changes.
///
/// A kernel may cache answers about these directories until a change is announced. Answers about any
/// other directory have to be looked up again. No directory is announced until it is
/// [added](Self::add).
///
/// Paths are relative to the lower directory, which itself is the empty path.
#[derive(Debug, Default)]
pub struct Announced {
    dirs: RwLock<HashSet<Box<[u8]>>>,
    is_whole: AtomicBool,
    /// How often a directory was added.
    added: AtomicU64,
    /// How often the host has reported something.
    reported: AtomicU64,
    waiter: RwLock<Option<Waiter>>,
}

/// Waits until everything that has happened so far is reported.
struct Waiter(Box<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").finish_non_exhaustive()
    }
}

impl Announced {
    /// Adds a directory: from now on, changes in it are announced. The directories below it are
    /// added one by one.
    pub fn add(&self, dir: &Path) {
        // The number comes first: a reader that finds the directory here, and the number unchanged
        // since it looked at the host, has looked after the directory was added.
        self.added.fetch_add(1, Ordering::SeqCst);
        self.dirs.write().insert(dir.as_os_str().as_bytes().into());
    }

    /// Removes a directory and all that are below it: their changes are no longer announced.
    pub fn remove(&self, dir: &Path) {
        let dir = dir.as_os_str().as_bytes();
        self.dirs
            .write()
            .retain(|other| !is_at_or_below(other, dir));
    }

    /// Removes only this directory, which is gone from the host: those that were below it went
    /// before it.
    pub fn forget(&self, dir: &Path) {
        self.dirs.write().remove(dir.as_os_str().as_bytes());
    }

    /// Sets whether all existing directories have been [added](Self::add), and new ones will be.
    pub fn set_whole(&self, is_whole: bool) {
        // Release, which pairs with the Acquire of `is_whole`: every directory was added before.
        self.is_whole.store(is_whole, Ordering::Release);
    }

    /// Returns whether changes are announced in all directories.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// Returns the number of directories whose changes are announced.
    #[must_use]
    pub fn count(&self) -> usize {
        self.dirs.read().len()
    }

    /// Returns whether changes in the directory are announced.
    #[must_use]
    pub fn has(&self, dir: impl AsRef<Path>) -> bool {
        self.has_bytes(dir.as_ref().as_os_str().as_bytes())
    }

    /// Records that the host has reported something of a directory, or may have changed something that
    /// it does not report. To be called before the change is announced.
    pub fn report(&self) {
        self.reported.fetch_add(1, Ordering::SeqCst);
    }

    /// Sets how to wait until everything that has happened so far is [reported](Self::report), and all new
    /// directories are [added](Self::add). The function returns false if that cannot be known.
    pub fn set_waiter(&self, waiter: impl Fn() -> bool + Send + Sync + 'static) {
        *self.waiter.write() = Some(Waiter(Box::new(waiter)));
    }

    /// Waits until everything that has happened so far is reported. Returns a number that stays the same
    /// for as long as nothing happens; `None` if something may happen that is not reported.
    pub(crate) fn settle(&self) -> Option<u64> {
        let is_settled = self.waiter.read().as_ref().is_some_and(|it| (it.0)());
        let number = self.added() + self.reported.load(Ordering::SeqCst);
        (is_settled && self.is_whole()).then_some(number)
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
