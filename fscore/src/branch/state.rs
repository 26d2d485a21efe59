//! The state of a branch, and the lock over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::bring_ups::BringUps;
use super::event_bus::Outbox;
use super::journal::Journal;
use super::served_versions::ServedVersions;
use crate::log::{Purpose, Room};
use crate::model::errno::Result;
use crate::model::id::{BranchId, NodeId};
use crate::store::dir_paths::DirPaths;
use crate::store::extents::Owed;
use crate::store::format::bytes::Encoder;
use crate::store::handles::Handles;
use crate::store::tree::Tree;
use crate::sync::{Condvar, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[derive(Debug)]
pub(crate) struct BranchInner {
    pub(crate) id: BranchId,
    pub(crate) name: Arc<str>,
    /// The branch from which it was made, itself or a snapshot of it; `main` was made from itself.
    pub(super) from: BranchId,
    pub(crate) outbox: Outbox,
    journal: Option<Arc<Journal>>,
    state: RwLock<State>,
    /// The same as [`State::is_held`], for the threads that wait for its end.
    held: Mutex<bool>,
    released: Condvar,
    pub(crate) served: ServedVersions,
    keeps_nameless: AtomicBool,
    pub(super) bring_ups: BringUps,
    /// Paths of directories that events name, until a directory moves.
    dir_paths: Mutex<DirPaths>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) tree: Tree,
    pub(crate) handles: Handles,
    /// Changes of the tree that are not in the log yet.
    pub(super) changes: Encoder,
    /// Exists while there are such changes and no operation is under way.
    owed: Option<Owed>,
    /// See [`BranchInner::hold`].
    is_held: bool,
}

impl State {
    /// Returns whether all changes of the tree are in the log.
    pub(super) fn is_in_log(&self) -> bool {
        self.changes.is_empty()
    }

    fn settle_owed(&mut self) {
        if self.is_in_log() {
            self.owed = None;
        } else if self.owed.is_none() {
            self.owed = Some(self.tree.shared.extents.owe());
        }
    }
}

/// The state of a branch, locked to be changed. What was changed is in the log when this is
/// dropped.
pub(crate) struct Locked<'a> {
    branch: &'a BranchInner,
    state: RwLockWriteGuard<'a, State>,
    /// A sync of the log waits for the end of this operation.
    _operation: Option<RwLockReadGuard<'a, ()>>,
}

impl Locked<'_> {
    /// Writes to the log what was changed.
    ///
    /// # Errors
    ///
    /// Those of the log. The change is made all the same, and is written with the next one.
    pub(crate) fn write_changes(&mut self, room: Option<Room<'_>>) -> Result<()> {
        let Some(journal) = &self.branch.journal else {
            return Ok(());
        };
        let seq = self.branch.outbox.last_seq();
        let written = journal.write_changes(self.branch.id, seq, &mut self.state, room);
        self.state.settle_owed();
        written
    }

    /// Begins an operation that can be [taken back](Self::take_back). The tree shares nothing meanwhile
    /// that is changed in place.
    pub(crate) fn begin(&mut self) -> Before {
        self.branch.outbox.begin();
        let state = &mut *self.state;
        state.handles.begin();
        Before {
            changes: state.changes.len(),
            tree: state.tree.clone(),
        }
    }

    /// Keeps what an operation has done.
    pub(crate) fn keep(&mut self, before: Before) {
        self.branch.outbox.keep();
        self.state.handles.keep();
        drop(before);
    }

    /// Makes the branch as it was before an operation, which is in no record.
    pub(crate) fn take_back(&mut self, before: Before) {
        self.branch.outbox.take_back();
        self.branch.forget_dir_paths();
        let state = &mut *self.state;
        state.handles.take_back();
        state.tree = before.tree;
        state.changes.truncate(before.changes);
        state.settle_owed();
    }
}

/// What a branch was before an operation that may be taken back.
#[derive(Debug)]
pub(crate) struct Before {
    tree: Tree,
    /// How long the changes were that are not in the log yet.
    changes: usize,
}

impl std::ops::Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Err(errno) = self.write_changes(None) {
            tracing::error!(%errno, "a change could not be written to the log");
        }
    }
}

/// A guard: while it exists, the branch can be read and does not change. See [`BranchInner::hold`].
pub(crate) struct Hold<'a>(&'a BranchInner);

impl Hold<'_> {
    /// Locks the state, to be changed by the holder.
    pub(crate) fn state(&self) -> Locked<'_> {
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
    pub(crate) fn new(
        id: BranchId,
        name: Arc<str>,
        from: BranchId,
        tree: Tree,
        journal: Option<Arc<Journal>>,
    ) -> Self {
        Self {
            id,
            name,
            from,
            outbox: Outbox::new(id),
            journal,
            state: RwLock::new(State {
                tree,
                handles: Handles::default(),
                changes: Encoder::default(),
                owed: None,
                is_held: false,
            }),
            held: Mutex::new(false),
            released: Condvar::new(),
            served: ServedVersions::default(),
            keeps_nameless: AtomicBool::new(false),
            bring_ups: BringUps::default(),
            dir_paths: Mutex::default(),
        }
    }

    pub(crate) fn set_keeps_nameless(&self, keeps: bool) {
        // Set before the mount that needs it is served; the lock of the state orders the rest.
        self.keeps_nameless.store(keeps, Ordering::Relaxed);
    }

    /// Returns whether objects without a name are kept when no handle holds them.
    pub(crate) fn keeps_nameless(&self) -> bool {
        self.keeps_nameless.load(Ordering::Relaxed)
    }

    /// Locks the state, to be read.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    fn lock_state(&self) -> Locked<'_> {
        let journal = self.journal.as_ref();
        let operation = journal.map(|journal| journal.operation());
        Locked {
            branch: self,
            state: self.state.write(),
            _operation: operation,
        }
    }

    /// Finds room in the log for one operation, before it begins.
    pub(crate) fn reserve(&self, purpose: Purpose) -> Result<Option<Room<'_>>> {
        let journal = self.journal.as_ref();
        journal.map(|it| it.reserve(purpose)).transpose()
    }

    /// Waits until no other thread has the state locked.
    pub(crate) fn pass(&self) {
        drop(self.lock_state());
    }

    /// Locks the state, to be changed; waits while the branch is held.
    pub(crate) fn write(&self) -> Locked<'_> {
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
