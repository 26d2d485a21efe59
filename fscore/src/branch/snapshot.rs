//! Creating, listing and deleting branches and snapshots.
//!
//! A snapshot is a clone of a branch's tree, and a branch is a clone of a snapshot's. Both take
//! constant time, whatever they hold, and what is not written again is stored once.

use std::sync::Arc;

use crate::branch::Branch;
use crate::branch::event_bus::EventContext;
use crate::branch::fs::{FsCore, Registry};
use crate::branch::journal::{NewVersion, VersionId};
use crate::branch::state::BranchInner;
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::Change;
use crate::model::id::{BranchId, Seq, SnapshotId};
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
            let mut state = source.inner.write();
            state.write_changes(None)?;
            let tree = state.tree.without_orphans();
            self.write_version(&NewVersion {
                id: VersionId::Snapshot(id),
                name: &name,
                from: branch,
                seq: source.last_seq(),
                base: Some((VersionId::Branch(branch), &state.tree)),
                tree: &tree,
            })?;
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
        let mut registry = self.core.registry.write();
        let source = registry
            .snapshots
            .get(&snapshot)
            .ok_or(Errno::ENOENT)?
            .clone();
        let base = (source.from, (VersionId::Snapshot(snapshot), &source.tree));
        let branch = self.add_branch(&mut registry, caller, base, source.tree.clone(), name)?;
        drop(registry);
        branch.deliver();
        Ok(branch.id())
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
        let mut registry = self.core.registry.write();
        let source = registry.branches.get(&branch).ok_or(Errno::ENOENT)?.clone();
        // The source does not change before the new branch is in the log, whose record is based on
        // it.
        let mut state = source.write();
        state.write_changes(None)?;
        let tree = state.tree.without_orphans();
        let base = (branch, (VersionId::Branch(branch), &state.tree));
        let branch = self.add_branch(&mut registry, caller, base, tree, name)?;
        drop(state);
        drop(registry);
        branch.deliver();
        Ok(branch.id())
    }

    fn write_version(&self, version: &NewVersion<'_>) -> Result<()> {
        let journal = self.core.journal.as_ref();
        journal.map_or(Ok(()), |it| it.write_version(version))
    }

    fn write_deleted(&self, version: VersionId) -> Result<()> {
        let journal = self.core.journal.as_ref();
        journal.map_or(Ok(()), |it| it.write_deleted(version))
    }

    fn add_branch(
        &self,
        registry: &mut Registry,
        caller: &Caller,
        (from, base): (BranchId, (VersionId, &Tree)),
        tree: Tree,
        name: &str,
    ) -> Result<Branch> {
        let name: Arc<str> = Arc::from(name);
        if registry.branches.len() as u64 >= self.config().limits.branches {
            return Err(Errno::ENOSPC);
        }
        let id = BranchId(registry.last_branch + 1);
        self.write_version(&NewVersion {
            id: VersionId::Branch(id),
            name: &name,
            from,
            seq: Seq(0),
            base: Some(base),
            tree: &tree,
        })?;
        registry.last_branch = id.0;
        let journal = self.core.journal.clone();
        let inner = Arc::new(BranchInner::new(id, name.clone(), from, tree, journal));
        registry.branches.insert(id, inner.clone());
        let branch = Branch {
            core: self.core.clone(),
            inner,
        };
        // No other thread can find the branch yet, so this is its first event.
        branch.announce(caller, Change::BranchCreated { id, name });
        Ok(branch)
    }

    /// Deletes a snapshot. Branches that were made from it stay.
    ///
    /// # Errors
    ///
    /// `ENOENT`.
    pub fn snapshot_delete(&self, snapshot: SnapshotId) -> Result<()> {
        let gone = {
            let mut registry = self.core.registry.write();
            if registry.snapshots.contains_key(&snapshot) {
                self.write_deleted(VersionId::Snapshot(snapshot))?;
            }
            registry.snapshots.remove(&snapshot)
        };
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
            self.write_deleted(VersionId::Branch(branch))?;
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
