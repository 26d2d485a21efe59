//! Creating, listing and deleting branches and snapshots.
//!
//! A snapshot is a clone of a branch's tree, and a branch is a clone of a snapshot's. Both take
//! constant time, whatever they hold, and what is not written again is stored once.

use std::ops::Bound;
use std::sync::Arc;

use crate::branch::Branch;
use crate::branch::event_bus::EventContext;
use crate::branch::fs::{FsCore, Registry};
use crate::branch::journal::{NewVersion, VersionId};
use crate::branch::state::BranchInner;
use crate::model::attr::{Nanos, now};
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
    /// When it was made; `None` for one of a store that did not say so yet.
    pub(crate) made: Option<Nanos>,
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
    /// When it was made, in nanoseconds since the epoch; `None` for one in a store that an older version
    /// of this program wrote.
    pub made: Option<i64>,
}

impl FsCore {
    /// Freezes a branch as it is. Names need not be unique.
    ///
    /// Where the branch has changed nothing, nothing is copied from the lower directory: there the
    /// snapshot shows the directory as it is at any time. See
    /// [`snapshot_create_full`](Self::snapshot_create_full).
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
        let id = {
            // This may wait until the branch is released, so no lock that others need is held.
            let mut state = source.inner.write();
            state.write_changes(None)?;
            let tree = state.tree.without_orphans();
            let base = (VersionId::Branch(branch), &state.tree);
            self.add_snapshot(&source, caller, base, tree, name)?
        };
        source.deliver_from(caller.origin);
        Ok(id)
    }

    /// Adds a snapshot of a branch, which the caller has locked. The event is put into the outbox under
    /// that lock, so that its place in the order is that of the snapshot.
    pub(super) fn add_snapshot(
        &self,
        source: &Branch,
        caller: &Caller,
        base: (VersionId, &Tree),
        tree: Tree,
        name: &str,
    ) -> Result<SnapshotId> {
        let (name, from): (Arc<str>, _) = (Arc::from(name), source.id());
        let mut registry = self.core.registry.write();
        if !registry.branches.contains_key(&from) {
            return Err(Errno::ENOENT);
        }
        if registry.snapshots.len() as u64 >= self.config().limits.snapshots {
            return Err(Errno::ENOSPC);
        }
        let id = SnapshotId(registry.last_snapshot + 1);
        let made = Some(now());
        self.core.write_version(&NewVersion {
            id: VersionId::Snapshot(id),
            name: &name,
            from,
            seq: source.last_seq(),
            made,
            base: Some(base),
            tree: &tree,
        })?;
        registry.last_snapshot = id.0;
        let about = name.clone();
        source.announce(caller, Change::SnapshotCreated { id, name: about });
        registry.snapshot_names.insert((name.clone(), id));
        let snapshot = Snapshot {
            name,
            from,
            made,
            tree,
        };
        registry.snapshots.insert(id, Arc::new(snapshot));
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
        branch.deliver_from(caller.origin);
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
        let source = self.branch(branch)?;
        // The source does not change before the new branch is in the log, whose record is based on
        // it.
        let state = source.inner.read();
        if !state.is_in_log() {
            return Err(Errno::EIO);
        }
        let tree = state.tree.without_orphans();
        let base = (branch, (VersionId::Branch(branch), &state.tree));
        let mut registry = self.core.registry.write();
        if !registry.branches.contains_key(&branch) {
            return Err(Errno::ENOENT);
        }
        let branch = self.add_branch(&mut registry, caller, base, tree, name)?;
        drop(registry);
        drop(state);
        branch.deliver_from(caller.origin);
        Ok(branch.id())
    }

    pub(super) fn add_branch(
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
        self.core.write_version(&NewVersion {
            id: VersionId::Branch(id),
            name: &name,
            from,
            seq: Seq(0),
            made: None,
            base: Some(base),
            tree: &tree,
        })?;
        registry.last_branch = id.0;
        let journal = self.core.journal.clone();
        let inner = Arc::new(BranchInner::new(id, name.clone(), from, tree, journal));
        registry.branches.insert(id, inner.clone());
        registry.branch_names.insert((name.clone(), id));
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
            if !registry.snapshots.contains_key(&snapshot) {
                return Err(Errno::ENOENT);
            }
            self.core.write_deleted(VersionId::Snapshot(snapshot))?;
            let gone = registry.snapshots.remove(&snapshot).ok_or(Errno::ENOENT)?;
            registry
                .snapshot_names
                .remove(&(gone.name.clone(), snapshot));
            gone
        };
        // The tree is freed without the lock, because it may be large.
        drop(gone);
        self.has_deleted();
        Ok(())
    }

    /// Deletes a branch, and all that only it holds.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EBUSY` for [`MAIN`](Self::MAIN) and while something is open in it.
    pub fn branch_delete(&self, branch: BranchId) -> Result<()> {
        let gone = self.branch(branch)?;
        // The branch is locked first: another thread may keep it locked for long, and must not keep
        // the registry from all others.
        let state = gone.inner.read();
        if branch == Self::MAIN || state.handles.len() > 0 {
            return Err(Errno::EBUSY);
        }
        {
            let mut registry = self.core.registry.write();
            if !registry.branches.contains_key(&branch) {
                return Err(Errno::ENOENT);
            }
            self.core.write_deleted(VersionId::Branch(branch))?;
            registry.branches.remove(&branch).ok_or(Errno::ENOENT)?;
            registry
                .branch_names
                .remove(&(gone.inner.name.clone(), branch));
        }
        drop(state);
        drop(gone);
        self.has_deleted();
        Ok(())
    }

    /// Returns the branch of that name, the oldest if there are several.
    #[must_use]
    pub fn branch_named(&self, name: &str) -> Option<BranchId> {
        let from = (Arc::from(name), BranchId(0));
        let registry = self.core.registry.read();
        let (found, id) = registry.branch_names.range(from..).next()?;
        (&**found == name).then_some(*id)
    }

    /// Returns the snapshot of that name, the oldest if there are several.
    #[must_use]
    pub fn snapshot_named(&self, name: &str) -> Option<SnapshotId> {
        let from = (Arc::from(name), SnapshotId(0));
        let registry = self.core.registry.read();
        let (found, id) = registry.snapshot_names.range(from..).next()?;
        (&**found == name).then_some(*id)
    }

    /// Returns whether there is such a snapshot.
    #[must_use]
    pub fn has_snapshot(&self, id: SnapshotId) -> bool {
        self.core.registry.read().snapshots.contains_key(&id)
    }

    /// Returns up to `max` branches with greater numbers, the oldest first.
    #[must_use]
    pub fn branches_after(&self, id: BranchId, max: usize) -> Vec<BranchInfo> {
        let registry = self.core.registry.read();
        let all = registry
            .branches
            .range((Bound::Excluded(id), Bound::Unbounded));
        all.take(max)
            .map(|(id, branch)| BranchInfo {
                id: *id,
                name: branch.name.to_string(),
            })
            .collect()
    }

    /// Returns up to `max` snapshots with greater numbers, the oldest first.
    #[must_use]
    pub fn snapshots_after(&self, id: SnapshotId, max: usize) -> Vec<SnapshotInfo> {
        let registry = self.core.registry.read();
        let all = registry
            .snapshots
            .range((Bound::Excluded(id), Bound::Unbounded));
        all.take(max)
            .map(|(id, snapshot)| SnapshotInfo {
                id: *id,
                name: snapshot.name.to_string(),
                branch: snapshot.from,
                made: snapshot.made,
            })
            .collect()
    }

    /// Returns all branches, the oldest first.
    #[must_use]
    pub fn branches(&self) -> Vec<BranchInfo> {
        self.branches_after(BranchId(0), usize::MAX)
    }

    /// Returns all snapshots, the oldest first.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.snapshots_after(SnapshotId(0), usize::MAX)
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
                time_ns: now().unsigned_abs(),
                pid: caller.pid,
                origin: caller.origin,
            };
            self.inner.outbox.push(context, change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::FsConfig;

    #[test]
    fn a_snapshot_of_a_held_branch_keeps_no_other_branch_waiting() {
        let (fs, root) = (FsCore::new(FsConfig::default()).unwrap(), Caller::root());
        let main = fs.branch(FsCore::MAIN).unwrap();
        let other = fs.branch_create_from_current(&root, FsCore::MAIN, "other");
        let other = other.unwrap();
        let hold = main.inner.hold();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| fs.snapshot_create(&root, FsCore::MAIN, "late"));
            for _ in 0..10_000 {
                std::thread::yield_now();
                assert_eq!(fs.branch(other).unwrap().id(), other);
            }
            let early = fs.snapshot_create(&root, other, "early").unwrap();
            assert_eq!(fs.snapshot_named("early"), Some(early));
            assert_eq!(fs.branch_delete(other), Ok(()));
            drop(hold);
            let late = waiting.join().unwrap().unwrap();
            assert_eq!(fs.snapshot_named("late"), Some(late));
        });
    }

    #[test]
    fn many_are_found_by_name_and_listed_in_parts() {
        let (fs, root) = (FsCore::new(FsConfig::default()).unwrap(), Caller::root());
        let all: Vec<_> = (0..1000)
            .map(|number| {
                let name = format!("s{}", number % 500);
                fs.snapshot_create(&root, FsCore::MAIN, &name).unwrap()
            })
            .collect();
        assert_eq!(fs.snapshot_named("s7"), Some(all[7]), "the oldest");
        fs.snapshot_delete(all[7]).unwrap();
        assert_eq!(fs.snapshot_named("s7"), Some(all[507]));
        assert_eq!(fs.snapshot_named("s"), None);
        assert!(!fs.has_snapshot(all[7]) && fs.has_snapshot(all[8]));
        let part = fs.snapshots_after(all[5], 3);
        let ids: Vec<_> = part.iter().map(|it| it.id).collect();
        assert_eq!(ids, [all[6], all[8], all[9]]);
        assert_eq!(fs.branch_named("main"), Some(FsCore::MAIN));
        assert_eq!(fs.branches_after(FsCore::MAIN, 9), []);
    }
}
