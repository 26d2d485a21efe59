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
use crate::model::globs::{Globs, NONE as NO_GLOBS};
use crate::model::id::{BaseId, BranchId, NodeId, Seq, SnapshotId};
use crate::store::inode::Inode;
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
                    "; make that readable and unchanging, leave it out, or do without freezing"
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

/// How a lower directory is taken.
#[derive(Clone, Copy, Debug)]
pub struct Freezing<'a> {
    /// Ends it with [`FreezeError::Cancelled`] when it is set.
    pub cancelled: &'a AtomicBool,
    /// What is left out: a frozen branch shows it only where the branch it is made from has changed it, and
    /// applying does not count it as removed.
    pub exclude: &'a Globs,
}

impl<'a> From<&'a AtomicBool> for Freezing<'a> {
    fn from(cancelled: &'a AtomicBool) -> Self {
        Self {
            cancelled,
            exclude: &NO_GLOBS,
        }
    }
}

/// How much was taken of lower directories since the filesystem was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FreezeProgress {
    /// Files and other objects, copied or not.
    pub files: u64,
    /// Bytes that were copied.
    pub bytes: u64,
}

/// The last look at all of the lower directory.
#[derive(Debug, Default)]
pub(crate) struct LastLook {
    /// The base that is as the directory was.
    base: Option<BaseId>,
    /// What was left out.
    exclude: Globs,
    /// The [number](crate::Announced) that stays the same for as long as nothing happens; `None` if
    /// something may happen that is not reported.
    settled: Option<u64>,
}

impl FsCore {
    /// Returns how much was taken of lower directories since the filesystem was opened. The numbers grow
    /// while a frozen branch or a full snapshot is made.
    #[must_use]
    pub fn freeze_progress(&self) -> FreezeProgress {
        self.core.taking_counts.progress()
    }

    /// Creates a branch that starts as another one is now, and is frozen: from then on it shows
    /// nothing that happens to the lower directory, until it ends.
    ///
    /// The lower directory is taken into the store, unless that was done before and it has not
    /// changed since. A file is taken in one version, also when the host changes it meanwhile.
    ///
    /// # Errors
    ///
    /// [`FreezeError`]; nothing is left behind then.
    pub fn branch_create_frozen<'a>(
        &self,
        caller: &Caller,
        branch: BranchId,
        name: &str,
        freezing: impl Into<Freezing<'a>>,
    ) -> Result<BranchId, FreezeError> {
        let source = self.branch(branch)?;
        let Some((tree, base)) = self.core.freeze(&source, freezing.into())? else {
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
    pub fn snapshot_create_full<'a>(
        &self,
        caller: &Caller,
        branch: BranchId,
        name: &str,
        freezing: impl Into<Freezing<'a>>,
    ) -> Result<SnapshotId, FreezeError> {
        let source = self.branch(branch)?;
        let Some((tree, base)) = self.core.freeze(&source, freezing.into())? else {
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
        freezing: Freezing<'_>,
    ) -> Result<Option<(Tree, Arc<Base>)>, FreezeError> {
        if self.shared.lower.is_none() || source.is_frozen() {
            return Ok(None);
        }
        let base = self.take_base(freezing)?;
        let live = source.inner.read().tree.without_orphans();
        if live.base().is_some() {
            // It was restored to a frozen snapshot meanwhile.
            return Ok(None);
        }
        let mut frozen = live.over_base(&base)?;
        for (key, _) in live.inodes().iter() {
            match frozen.hold_content(NodeId(key), u64::MAX) {
                // The branch cannot read it any more either.
                Ok(()) | Err(Errno::ESTALE) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Some((frozen.without_orphans(), base)))
    }

    /// Takes the lower directory as it is now. If it is as the last base has it, that is returned.
    fn take_base(&self, freezing: Freezing<'_>) -> Result<Arc<Base>, FreezeError> {
        let mut last = self.taking.lock();
        let lower = self.shared.lower.as_ref().ok_or(Errno::EINVAL)?;
        let former = self.registry.read().last_taken().cloned();
        let settled = lower.announced.settle();
        if let Some(former) = former.as_ref().filter(|former| {
            let is_last = last.base == Some(former.id) && last.exclude == *freezing.exclude;
            is_last && settled.is_some() && last.settled == settled
        }) {
            return Ok(former.clone());
        }
        let taken = now();
        let taking = Taking::new(
            (&self.shared, &self.taking_counts),
            lower,
            former.as_deref(),
            freezing,
        );
        let tree = taking.run()?;
        // Another name of a file may lie where nothing is reported.
        let is_linked_outside = |inode: &Inode| {
            inode.nlink > 1
                && !inode.is_dir()
                && inode.names.all().len() as u64 != u64::from(inode.nlink)
        };
        let is_covered = !tree.inodes().iter().any(|(_, it)| is_linked_outside(it));
        let base = match former {
            Some(former) if is_same(&former, &tree) => former,
            former => self.add_base(Some(taken), tree, former.as_ref())?,
        };
        *last = LastLook {
            base: Some(base.id),
            exclude: freezing.exclude.clone(),
            settled: settled.filter(|_| is_covered),
        };
        Ok(base)
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

/// Returns whether a base is what was taken now.
fn is_same(former: &Base, tree: &Tree) -> bool {
    let mut is_same = true;
    diff(former.tree.inodes(), tree.inodes(), &mut |_, a, b| {
        is_same &= matches!((a, b), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
    });
    is_same
}

#[cfg(test)]
mod tests;
