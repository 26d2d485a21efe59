//! Branches and snapshots: making, listing, deleting.
//!
//! A snapshot is a clone of a branch's tree and a branch is a clone of a snapshot's: O(1), whatever
//! they hold. What nobody has written since is stored once.

use std::sync::Arc;

use crate::branch::Branch;
use crate::branch::event_bus::Circumstances;
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

/// What a list of branches says of one.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct BranchInfo {
    /// Its number.
    pub id: BranchId,
    /// Its name, or an empty text.
    pub name: String,
}

/// What a list of snapshots says of one.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct SnapshotInfo {
    /// Its number.
    pub id: SnapshotId,
    /// Its name, or an empty text.
    pub name: String,
    /// The branch it was made of.
    pub branch: BranchId,
}

impl FsCore {
    /// Freezes a branch as it is. Names need not be unique.
    ///
    /// What the branch has not touched is not copied from the lower directory: a snapshot goes on to
    /// show that as it is.
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
            // Under the branch's lock: the event's place in the order is the snapshot's.
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

    /// A new branch that starts as the snapshot. Its first event is
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

    /// A new branch that starts as another is now.
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
            // Before anybody can find it: this is its first event.
            branch.announce(caller, Change::BranchCreated { id, name });
            branch
        };
        branch.deliver();
        Ok(branch.id())
    }

    /// Forgets a snapshot. Branches made of it stay.
    ///
    /// # Errors
    ///
    /// `ENOENT`.
    pub fn snapshot_delete(&self, snapshot: SnapshotId) -> Result<()> {
        let gone = self.core.registry.write().snapshots.remove(&snapshot);
        // Freed here, without the lock: it may be large.
        gone.map(drop).ok_or(Errno::ENOENT)
    }

    /// Forgets a branch and all that only it holds.
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

    /// All branches, oldest first.
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

    /// All snapshots, oldest first.
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
    /// Puts an event that is no operation on files into the outbox.
    fn announce(&self, caller: &Caller, change: Change) {
        if self.core.bus.is_listening() {
            let circumstances = Circumstances {
                time_ns: crate::model::attr::now().unsigned_abs(),
                pid: caller.pid,
                origin: caller.origin,
            };
            self.inner.outbox.push(circumstances, change);
        }
    }
}
