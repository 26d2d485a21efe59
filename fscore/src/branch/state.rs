//! The state of a branch, and the lock over it.

use std::sync::Arc;

use super::event_bus::Outbox;
use super::served_versions::ServedVersions;
use crate::model::id::{BranchId, NodeId};
use crate::store::dir_paths::DirPaths;
use crate::store::handles::Handles;
use crate::store::tree::Tree;
use crate::sync::{Condvar, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[derive(Debug)]
pub(crate) struct BranchInner {
    pub(crate) id: BranchId,
    pub(crate) name: Arc<str>,
    pub(crate) outbox: Outbox,
    state: RwLock<State>,
    /// The same as [`State::is_held`], for the threads that wait for its end.
    held: Mutex<bool>,
    released: Condvar,
    pub(crate) served: ServedVersions,
    /// Paths of directories that events name, until a directory moves.
    dir_paths: Mutex<DirPaths>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) tree: Tree,
    pub(crate) handles: Handles,
    /// See [`BranchInner::hold`].
    is_held: bool,
}

/// A guard: while it exists, the branch can be read and does not change. See [`BranchInner::hold`].
pub(crate) struct Hold<'a>(&'a BranchInner);

impl Hold<'_> {
    /// Locks the state, to be changed by the holder.
    pub(crate) fn state(&self) -> RwLockWriteGuard<'_, State> {
        self.0.lock_state()
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock_state();
        state.is_held = false;
        *self.0.held.lock() = false;
        self.0.released.notify_all();
    }
}

impl BranchInner {
    pub(crate) fn new(id: BranchId, name: Arc<str>, tree: Tree) -> Self {
        Self {
            id,
            name,
            outbox: Outbox::new(id),
            state: RwLock::new(State {
                tree,
                handles: Handles::default(),
                is_held: false,
            }),
            held: Mutex::new(false),
            released: Condvar::new(),
            served: ServedVersions::default(),
            dir_paths: Mutex::default(),
        }
    }

    /// Locks the state, to be read.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    fn lock_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    /// Waits until no other thread has the state locked.
    pub(crate) fn pass(&self) {
        drop(self.lock_state());
    }

    /// Locks the state, to be changed; waits while the branch is held.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        loop {
            let state = self.lock_state();
            if !state.is_held {
                return state;
            }
            drop(state);
            self.wait_for_release();
        }
    }

    #[cold]
    fn wait_for_release(&self) {
        let mut held = self.held.lock();
        self.released.wait_while(&mut held, |held| *held);
    }

    /// Keeps the branch as it is, for work that takes long. No lock is held meanwhile: the branch
    /// can be read, and an operation that would change it waits.
    pub(crate) fn hold(&self) -> Hold<'_> {
        let mut state = self.write();
        state.is_held = true;
        *self.held.lock() = true;
        Hold(self)
    }

    pub(crate) fn dir_path(&self, tree: &Tree, dir: NodeId) -> Option<Arc<[u8]>> {
        Some(self.dir_paths.lock().of(tree, dir)?.text)
    }

    pub(crate) fn forget_dir_paths(&self) {
        self.dir_paths.lock().clear();
    }

    pub(super) fn forget_moved_dir(&self, dir: NodeId) {
        self.dir_paths.lock().forget_moved(dir);
    }

    pub(super) fn forget_dir_path(&self, dir: NodeId) {
        self.dir_paths.lock().forget(dir);
    }
}
