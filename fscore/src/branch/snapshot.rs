//! Creating, listing and deleting branches and snapshots.
//!
//! A snapshot is a clone of a branch's tree, and a branch is a clone of a snapshot's. Both take
//! constant time, whatever they hold, and what is not written again is stored once.

use std::sync::Arc;

use crate::branch::Branch;
use crate::branch::event_bus::EventContext;
use crate::branch::fs::FsCore;
use crate::branch::state::BranchInner;
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::Change;
use crate::model::id::{BranchId, SnapshotId};
use crate::store::tree::Tree;

/// A frozen view of a branch.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) name: Arc<str>,
    pub(crate) from: BranchId,
    pub(crate) tree: Tree,
}

/// One branch, as it is listed.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct BranchInfo {
    /// Its number.
    pub id: BranchId,
    /// Its name, or an empty text.
    pub name: String,
}

/// One snapshot, as it is listed.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct SnapshotInfo {
    /// Its number.
    pub id: SnapshotId,
    /// Its name, or an empty text.
    pub name: String,
    /// The branch from which it was made.
    pub branch: BranchId,
}

impl FsCore {
    /// Freezes a branch as it is. Names need not be unique.
    ///
    /// Where the branch has changed nothing, nothing is copied from the lower directory: there the
    /// snapshot shows the directory as it is at any time.
    ///
    /// # Errors
    ///
    /// `ENOENT` without such a branch, `ENOSPC` at the limit.
    pub fn snapshot_create(
        &self,
        caller: &Caller,
        branch: BranchId,
        name: &str,
    ) -> Result<SnapshotId> {
        let source = self.branch(branch)?;
        let name: Arc<str> = Arc::from(name);
        let id = {
            let mut registry = self.core.registry.write();
            if registry.snapshots.len() as u64 >= self.config().limits.snapshots {
                return Err(Errno::ENOSPC);
            }
            registry.last_snapshot += 1;
            let id = SnapshotId(registry.last_snapshot);
            // The event is put into the outbox under the branch's lock, so that its place in the
            // order is that of the snapshot.
            let state = source.inner.write();
            let tree = state.tree.without_orphans();
            source.announce(
                caller,
                Change::SnapshotCreated {
                    id,
                    name: name.clone(),
                },
            );
            drop(state);
            let snapshot = Snapshot {
                name,
                from: branch,
                tree,
            };
            registry.snapshots.insert(id, Arc::new(snapshot));
            id
        };
        source.deliver();
        Ok(id)
    }

    /// Creates a branch that starts as the snapshot. Its first event is
    /// [`BranchCreated`](crate::event::EventKind::BranchCreated).
    ///
    /// # Errors
    ///
    /// `ENOENT` without such a snapshot, `ENOSPC` at the limit.
    pub fn branch_create_from_snapshot(
        &self,
        caller: &Caller,
        snapshot: SnapshotId,
        name: &str,
    ) -> Result<BranchId> {
        let tree = self.snapshot(snapshot)?.tree.clone();
        self.add_branch(caller, tree, name)
    }

    /// Creates a branch that starts as another one is now.
    ///
    /// # Errors
    ///
    /// `ENOENT` without such a branch, `ENOSPC` at the limit.
    pub fn branch_create_from_current(
        &self,
        caller: &Caller,
        branch: BranchId,
        name: &str,
    ) -> Result<BranchId> {
        let tree = self.branch(branch)?.inner.read().tree.without_orphans();
        self.add_branch(caller, tree, name)
    }

    fn add_branch(&self, caller: &Caller, tree: Tree, name: &str) -> Result<BranchId> {
        let name: Arc<str> = Arc::from(name);
        let branch = {
            let mut registry = self.core.registry.write();
            if registry.branches.len() as u64 >= self.config().limits.branches {
                return Err(Errno::ENOSPC);
            }
            registry.last_branch += 1;
            let id = BranchId(registry.last_branch);
            let inner = Arc::new(BranchInner::new(id, name.clone(), tree));
            registry.branches.insert(id, inner.clone());
            let branch = Branch {
                core: self.core.clone(),
                inner,
            };
            // No other thread can find the branch yet, so this is its first event.
            branch.announce(caller, Change::BranchCreated { id, name });
            branch
        };
        branch.deliver();
        Ok(branch.id())
    }

    /// Deletes a snapshot. Branches that were made from it stay.
    ///
    /// # Errors
    ///
    /// `ENOENT`.
    pub fn snapshot_delete(&self, snapshot: SnapshotId) -> Result<()> {
        let gone = self.core.registry.write().snapshots.remove(&snapshot);
        // The tree is freed without the lock, because it may be large.
        gone.map(drop).ok_or(Errno::ENOENT)
    }

    /// Deletes a branch, and all that only it holds.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EBUSY` for [`MAIN`](Self::MAIN) and while something is open in it.
    pub fn branch_delete(&self, branch: BranchId) -> Result<()> {
        let gone = {
            let mut registry = self.core.registry.write();
            let inner = registry.branches.get(&branch).ok_or(Errno::ENOENT)?;
            if branch == Self::MAIN || inner.read().handles.len() > 0 {
                return Err(Errno::EBUSY);
            }
            registry.branches.remove(&branch)
        };
        drop(gone);
        Ok(())
    }

    /// Returns all branches, the oldest first.
    #[must_use]
    pub fn branches(&self) -> Vec<BranchInfo> {
        let registry = self.core.registry.read();
        let all = registry.branches.iter();
        all.map(|(id, branch)| BranchInfo {
            id: *id,
            name: branch.name.to_string(),
        })
        .collect()
    }

    /// Returns all snapshots, the oldest first.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        let registry = self.core.registry.read();
        let all = registry.snapshots.iter();
        all.map(|(id, snapshot)| SnapshotInfo {
            id: *id,
            name: snapshot.name.to_string(),
            branch: snapshot.from,
        })
        .collect()
    }

    pub(crate) fn snapshot(&self, id: SnapshotId) -> Result<Arc<Snapshot>> {
        let registry = self.core.registry.read();
        registry.snapshots.get(&id).cloned().ok_or(Errno::ENOENT)
    }
}

impl Branch {
    /// Puts an event into the outbox that is about the branch and not about files.
    fn announce(&self, caller: &Caller, change: Change) {
        if self.core.bus.is_listening() {
            let context = EventContext {
                time_ns: crate::model::attr::now().unsigned_abs(),
                pid: caller.pid,
                origin: caller.origin,
            };
            self.inner.outbox.push(context, change);
        }
    }
}
