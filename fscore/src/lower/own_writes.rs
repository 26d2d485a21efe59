//! What applying has written to the host, so that a watcher of the host does not report it as well:
//! applying itself emits it in the other branches.

use std::collections::HashMap;
use std::path::Path;

use std::os::unix::ffi::OsStrExt as _;

use crate::lower::Lower;
use crate::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How many paths are remembered before all are forgotten.
const MAX_PATHS: usize = 1 << 20;

/// The state of an object on the host, which a later state differs from: device, inode number and
/// time of the last change of any kind. `None` where there is no object.
pub(crate) type HostState = Option<(u64, u64, i64)>;

#[derive(Debug, Default)]
pub(crate) struct OwnWrites {
    /// How applying has left each path.
    paths: Mutex<HashMap<Vec<u8>, HostState>>,
    turn: Mutex<()>,
    applying: RwLock<()>,
}

impl OwnWrites {
    /// Waits until no other branch is compared with the host or applied. Taken before a branch is
    /// held, and apart from [`applying`](Self::applying), so that many waiting branches do not keep
    /// a watcher of the host waiting as well.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock()
    }

    /// Marks that a branch is being applied, until the guard is dropped.
    pub(crate) fn applying(&self) -> RwLockWriteGuard<'_, ()> {
        self.applying.write()
    }

    /// Waits until nothing is being applied.
    fn settled(&self) -> RwLockReadGuard<'_, ()> {
        self.applying.read()
    }

    /// Records how applying a branch has left these paths.
    pub(crate) fn record<'a>(&self, lower: &Lower, changed: impl Iterator<Item = &'a Path>) {
        let mut paths = self.paths.lock();
        if paths.len() > MAX_PATHS {
            paths.clear();
        }
        for path in changed {
            let path = path.as_os_str().as_bytes();
            paths.insert(path.to_vec(), lower.state_of(path));
        }
    }

    /// Returns whether the path still is as applying has left it.
    pub(crate) fn has_left(&self, lower: &Lower, path: &[u8]) -> bool {
        let _settled = self.settled();
        let mut paths = self.paths.lock();
        let Some(left) = paths.get(path) else {
            return false;
        };
        if *left == lower.state_of(path) {
            return true;
        }
        paths.remove(path);
        false
    }
}
