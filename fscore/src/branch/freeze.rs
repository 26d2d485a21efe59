//! Frozen branches and snapshots: nothing that happens to the lower directory shows in them.
//!
//! The lower directory is taken into the store as a base, once, and all frozen branches and snapshots
//! that follow share it for as long as the host changes nothing. When something has changed, only
//! that is taken anew.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::take::Taking;
use crate::branch::Branch;
use crate::branch::fs::{Core, FsCore, Registry};
use crate::branch::journal::{NewVersion, VersionId};
use crate::model::attr::now;
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::id::{BaseId, BranchId, Seq, SnapshotId};
use crate::store::tree::{Base, Tree};
use crate::store::trie::diff;
use crate::sync::atomic::AtomicBool;

/// Why a lower directory was not taken. Nothing of it stays in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FreezeError {
    /// These objects, relative to the lower directory, cannot be read, or are changed more quickly
    /// than they can be read (`EBUSY`). At most twenty are listed.
    Unread(Vec<(PathBuf, Errno)>),
    /// It was cancelled.
    Cancelled,
    /// The branch or snapshot cannot be made, or the store or the host fails.
    Store(Errno),
}

impl fmt::Display for FreezeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread(all) => {
                write!(f, "the directory cannot be frozen, because of ")?;
                for (number, (path, errno)) in all.iter().enumerate() {
                    let comma = if number > 0 { ", " } else { "" };
                    write!(f, "{comma}{} ({errno})", path.display())?;
                }
                write!(
                    f,
                    "; make that readable and unchanging, or do without freezing"
                )
            }
            Self::Cancelled => f.write_str("the freezing was cancelled"),
            Self::Store(errno) => write!(f, "the directory cannot be frozen: {errno}"),
        }
    }
}

impl std::error::Error for FreezeError {}

impl From<Errno> for FreezeError {
    fn from(errno: Errno) -> Self {
        Self::Store(errno)
    }
}

impl FsCore {
    /// Creates a branch that starts as another one is now, and is frozen: from then on it shows
    /// nothing that happens to the lower directory, until it ends.
    ///
    /// The lower directory is taken into the store, unless that was done before and it has not
    /// changed since. A file is taken in one version, also when the host changes it meanwhile.
    ///
    /// # Errors
    ///
    /// [`FreezeError`]; nothing is left behind then.
    pub fn branch_create_frozen(
        &self,
        caller: &Caller,
        branch: BranchId,
        name: &str,
        cancelled: &AtomicBool,
    ) -> Result<BranchId, FreezeError> {
        let source = self.branch(branch)?;
        let Some((tree, base)) = self.core.freeze(&source, cancelled)? else {
            return Ok(self.branch_create_from_current(caller, branch, name)?);
        };
        let mut registry = self.core.registry.write();
        let from = (branch, (VersionId::Base(base.id), &base.tree));
        let made = self.add_branch(&mut registry, caller, from, tree, name)?;
        drop(registry);
        made.deliver_from(caller.origin);
        Ok(made.id())
    }

    /// Freezes a branch as it is, as [`snapshot_create`](Self::snapshot_create) does, with all that
    /// shows through from the lower directory.
    ///
    /// # Errors
    ///
    /// Those of [`branch_create_frozen`](Self::branch_create_frozen).
    pub fn snapshot_create_full(
        &self,
        caller: &Caller,
        branch: BranchId,
        name: &str,
        cancelled: &AtomicBool,
    ) -> Result<SnapshotId, FreezeError> {
        let source = self.branch(branch)?;
        let Some((tree, base)) = self.core.freeze(&source, cancelled)? else {
            return Ok(self.snapshot_create(caller, branch, name)?);
        };
        let id = {
            let _state = source.inner.write();
            let base = (VersionId::Base(base.id), &base.tree);
            self.add_snapshot(&source, caller, base, tree, name)?
        };
        source.deliver_from(caller.origin);
        Ok(id)
    }

    /// Deletes what only a version was based on that was deleted. If that fails, the next
    /// [`maintain`](Self::maintain) tries again.
    pub(super) fn has_deleted(&self) {
        if let Err(errno) = self.drop_unused_bases() {
            tracing::warn!(%errno, "what a deleted branch was based on stays in the store");
        }
    }

    /// Deletes what frozen branches and snapshots were based on that are gone. The base that was
    /// taken last stays in a store on disk, so that the next frozen branch is made quickly.
    ///
    /// # Errors
    ///
    /// Those of the log.
    pub(crate) fn drop_unused_bases(&self) -> Result<()> {
        let mut gone = Vec::new();
        if !self.core.registry.read().bases.is_empty() {
            let mut registry = self.core.registry.write();
            let is_on_disk = self.core.journal.is_some();
            let last = registry.last_taken().filter(|_| is_on_disk);
            let last = last.map(|base| base.id);
            // Every tree that refers to a base counts, also one that is in no list any more.
            let unused = |base: &&Arc<Base>| Arc::strong_count(base) == 1 && Some(base.id) != last;
            let unused = registry.bases.values().filter(unused);
            let unused: Vec<BaseId> = unused.map(|base| base.id).collect();
            for id in unused {
                self.core.write_deleted(VersionId::Base(id))?;
                gone.extend(registry.bases.remove(&id));
            }
        }
        // The trees are freed without the lock, because they may be large.
        drop(gone);
        Ok(())
    }
}

impl Branch {
    /// Returns whether the branch is frozen. Otherwise it is live: where it has changed nothing, it
    /// shows the lower directory as it is at any time.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.inner.read().tree.base().is_some()
    }
}

impl Registry {
    /// Returns the base that was taken last.
    fn last_taken(&self) -> Option<&Arc<Base>> {
        self.bases.values().rfind(|base| base.taken.is_some())
    }
}

impl Core {
    pub(super) fn write_version(&self, version: &NewVersion<'_>) -> Result<()> {
        let journal = self.journal.as_ref();
        journal.map_or(Ok(()), |it| it.write_version(version))
    }

    pub(super) fn write_deleted(&self, version: VersionId) -> Result<()> {
        let journal = self.journal.as_ref();
        journal.map_or(Ok(()), |it| it.write_deleted(version))
    }

    /// Returns what a branch shows as a frozen tree, and its base; `None` when it shows nothing but
    /// its own already.
    fn freeze(
        self: &Arc<Self>,
        source: &Branch,
        cancelled: &AtomicBool,
    ) -> Result<Option<(Tree, Arc<Base>)>, FreezeError> {
        if self.shared.lower.is_none() || source.is_frozen() {
            return Ok(None);
        }
        let base = self.take_base(cancelled)?;
        let live = source.inner.read().tree.without_orphans();
        if live.base().is_some() {
            // It was restored to a frozen snapshot meanwhile.
            return Ok(None);
        }
        Ok(Some((live.over_base(&base)?, base)))
    }

    /// Takes the lower directory as it is now. If it is as the last base has it, that is returned.
    fn take_base(&self, cancelled: &AtomicBool) -> Result<Arc<Base>, FreezeError> {
        let _alone = self.taking.lock();
        let lower = self.shared.lower.as_ref().ok_or(Errno::EINVAL)?;
        let former = self.registry.read().last_taken().cloned();
        let taken = now();
        let taking = Taking::new(&self.shared, lower, former.as_deref(), cancelled);
        let tree = taking.run()?;
        if let Some(former) = &former {
            let mut is_same = true;
            diff(former.tree.inodes(), tree.inodes(), &mut |_, a, b| {
                is_same &= matches!((a, b), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
            });
            if is_same {
                return Ok(former.clone());
            }
        }
        Ok(self.add_base(Some(taken), tree, former.as_ref())?)
    }

    /// Adds a base, which is the same as a `former` one in most. The caller has no branch locked.
    pub(crate) fn add_base(
        &self,
        taken: Option<i64>,
        mut tree: Tree,
        former: Option<&Arc<Base>>,
    ) -> Result<Arc<Base>> {
        tree.set_base(None);
        // Every operation needs the registry, so it is not locked while the record is written.
        let id = {
            let mut registry = self.registry.write();
            registry.last_base += 1;
            BaseId(registry.last_base)
        };
        let base = Arc::new(Base { id, taken, tree });
        let add = || {
            self.registry.write().bases.insert(id, base.clone());
        };
        let Some(journal) = &self.journal else {
            add();
            return Ok(base);
        };
        let new = NewVersion {
            id: VersionId::Base(id),
            name: &base.name(),
            from: BranchId(0),
            seq: Seq(0),
            made: None,
            base: former.map(|former| (VersionId::Base(former.id), &former.tree)),
            tree: &base.tree,
        };
        journal.write_large(&new, add)?;
        Ok(base)
    }
}

#[cfg(test)]
mod tests;
