//! What applying left on the host, so that a watcher of the host does not take it for news in the
//! branch that was applied.

use std::collections::HashMap;
use std::path::Path;

use std::os::unix::ffi::OsStrExt as _;

use crate::lower::Lower;
use crate::model::event::ObjectKind;
use crate::model::id::{BranchId, NodeId};
use crate::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Paths that are remembered before all are forgotten.
const MAX_PATHS: usize = 1 << 20;

/// What tells one state of an object on the host from a later one: device, inode number and time of
/// the last change of any kind. Nothing where there is no object.
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
    /// Waits until no other branch is looked at or applied. Taken before a branch is held, and apart
    /// from [`applying`](Self::applying), so that many who wait do not keep a watcher of the host
    /// waiting, too.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock()
    }

    /// Something is being applied until the guard goes.
    pub(crate) fn applying(&self) -> RwLockWriteGuard<'_, ()> {
        self.applying.write()
    }

    /// Waits until nothing is being applied.
    fn settled(&self) -> RwLockReadGuard<'_, ()> {
        self.applying.read()
    }

    /// A branch takes this object away.
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

    /// A branch did something at these paths.
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

    /// Which branch left the path as it is now.
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

    /// What a branch took away from there; told once.
    pub(crate) fn take_removed(&self, path: &[u8]) -> Option<(NodeId, ObjectKind)> {
        self.paths.lock().get_mut(path)?.was.take()
    }
}
