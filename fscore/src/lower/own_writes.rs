//! What applying has written to the host, so that a watcher of the host does not report it as a
//! change to the branch that was applied.

use std::collections::HashMap;
use std::path::Path;

use std::os::unix::ffi::OsStrExt as _;

use crate::lower::Lower;
use crate::model::event::ObjectKind;
use crate::model::id::{BranchId, NodeId};
use crate::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How many paths are remembered before all are forgotten.
const MAX_PATHS: usize = 1 << 20;

/// The state of an object on the host, which a later state differs from: device, inode number and
/// time of the last change of any kind. `None` where there is no object.
pub(crate) type HostState = Option<(u64, u64, i64)>;

#[derive(Debug, Default)]
pub(crate) struct OwnWrites {
    paths: Mutex<HashMap<Vec<u8>, OwnWrite>>,
    turn: Mutex<()>,
    applying: RwLock<()>,
}

#[derive(Debug)]
struct OwnWrite {
    by: BranchId,
    left: HostState,
    /// What was removed.
    was: Option<(NodeId, ObjectKind)>,
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

    /// Records that a branch is about to remove this object.
    pub(crate) fn record_removal(
        &self,
        by: BranchId,
        path: &[u8],
        was: Option<(NodeId, ObjectKind)>,
    ) {
        let left = None;
        self.paths
            .lock()
            .insert(path.to_vec(), OwnWrite { by, left, was });
    }

    /// Records that a branch has changed these paths, and how they are now.
    pub(crate) fn record<'a>(
        &self,
        lower: &Lower,
        by: BranchId,
        changed: impl Iterator<Item = &'a Path>,
    ) {
        let mut paths = self.paths.lock();
        if paths.len() > MAX_PATHS {
            paths.clear();
        }
        let mut note = |path: &Path| {
            let path = path.as_os_str().as_bytes();
            let left = lower.state_of(path);
            let was = paths.remove(path).and_then(|trace| trace.was);
            paths.insert(path.to_vec(), OwnWrite { by, left, was });
        };
        for path in changed {
            note(path);
        }
    }

    /// Returns the branch that left the path as it is now.
    pub(crate) fn author_of(&self, lower: &Lower, path: &[u8]) -> Option<BranchId> {
        let _settled = self.settled();
        let mut paths = self.paths.lock();
        let trace = paths.get(path)?;
        if trace.left == lower.state_of(path) {
            return Some(trace.by);
        }
        paths.remove(path);
        None
    }

    /// Returns the object that a branch removed there; each only once.
    pub(crate) fn take_removed(&self, path: &[u8]) -> Option<(NodeId, ObjectKind)> {
        self.paths.lock().get_mut(path)?.was.take()
    }
}
