//! A branch as it was at one moment, and what changed since.

use super::apply::merge_with_host;
use super::steps::{Step, steps};
use super::synthetic_events::changes;
use crate::branch::Branch;
use crate::branch::fs::FsCore;
use crate::model::attr::Nanos;
use crate::model::errno::{Errno, Result};
use crate::model::event::Change;
use crate::model::id::{BranchId, NodeId, Seq, SnapshotId};
use crate::store::tree::Tree;

/// A branch as it was at one moment, for a reader that will catch up later. It costs as little as a
/// snapshot. Unlike a snapshot it is neither listed nor counted, and emits no event.
#[derive(Clone, Debug)]
pub struct Frozen {
    tree: Tree,
    branch: BranchId,
    seq: Seq,
}

impl Frozen {
    /// Returns the number of the last change that it shows.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Returns when the object of a modification was last changed.
    fn last_change(&self, step: &Step) -> Option<Nanos> {
        let Step::Modified(node, _) = step else {
            return None;
        };
        self.tree.inode(*node).ok().map(|inode| inode.times.ctime)
    }
}

impl FsCore {
    /// Returns a branch as it was when a snapshot of it was made. As if it had been frozen before its
    /// first change, because a snapshot does not keep which change was the last.
    ///
    /// # Errors
    ///
    /// `ENOENT` without such a snapshot.
    pub fn frozen_in(&self, snapshot: SnapshotId, branch: BranchId) -> Result<Frozen> {
        Ok(Frozen {
            tree: self.snapshot(snapshot)?.tree.clone(),
            branch,
            seq: Seq(0),
        })
    }
}

impl Branch {
    /// Freezes the branch as it is now.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        let state = self.inner.read();
        Frozen {
            tree: state.tree.without_orphans(),
            branch: self.id(),
            seq: self.last_seq(),
        }
    }

    /// Returns what a [frozen](Self::is_frozen) branch is based on: the lower directory as it was
    /// taken, or what was last [applied](Self::apply). `None` for a live branch.
    #[must_use]
    pub fn frozen_base(&self) -> Option<Frozen> {
        let tree = self.inner.read().tree.base()?.tree.clone();
        Some(self.frozen_over(tree))
    }

    fn frozen_over(&self, tree: Tree) -> Frozen {
        Frozen {
            tree,
            branch: self.id(),
            seq: Seq(0),
        }
    }

    /// Returns the net changes since `old`, and the branch as it is up to those.
    ///
    /// The changes are in an order in which they could be made one by one, parents before children.
    /// Objects that were only modified come last, in the order of their last changes: a program
    /// that waits for one file to be written after others gets the events of those others first.
    ///
    /// # Errors
    ///
    /// `EINVAL` when `old` is of another branch; what the host answers when the lower layer is
    /// read.
    pub fn changes_since(&self, old: &Frozen) -> Result<(Vec<Change>, Frozen)> {
        let new = self.freeze();
        Ok((self.changes_between(old, &new)?, new))
    }

    /// Returns what [`changes_since`](Self::changes_since) returns, but only what the branch itself
    /// changed, as [`apply`](Self::apply) would write it to the host. A directory that the host has
    /// created as well is merged with it. If others have put files into a directory that the branch
    /// removed or replaced, these are not among the removed, because the branch never saw them.
    ///
    /// # Errors
    ///
    /// Those of [`changes_since`](Self::changes_since).
    pub fn own_changes_since(&self, old: &Frozen) -> Result<Vec<Change>> {
        let mut new = self.freeze();
        if let Some(base) = new.tree.base() {
            let is_of_it = old.tree.base().is_some_and(|it| it.id == base.id);
            let base = self.frozen_over(base.tree.clone());
            let old = if is_of_it { old } else { &base };
            return self.changes_between(old, &new);
        }
        if let Some(lower) = &self.core.shared.lower {
            merge_with_host(&mut new.tree, lower)?;
        }
        let is_unseen =
            |node: NodeId| !old.tree.is_own(node) && new.tree.seen().get(node.0).is_none();
        let mut steps = self.steps_between(old, &new)?;
        steps.retain(|step| !matches!(step, Step::Removed(named) if is_unseen(named.node)));
        let is_open = |node| self.inner.read().handles.is_open(node);
        Ok(changes(&old.tree, &new.tree, steps, &is_open))
    }

    /// Returns what [`changes_since`](Self::changes_since) returns, up to a moment at which the
    /// branch was frozen.
    ///
    /// # Errors
    ///
    /// `EINVAL` when one of the two is of another branch; what the host answers when the lower layer
    /// is read.
    pub fn changes_between(&self, old: &Frozen, new: &Frozen) -> Result<Vec<Change>> {
        let steps = self.steps_between(old, new)?;
        let is_open = |node| self.inner.read().handles.is_open(node);
        Ok(changes(&old.tree, &new.tree, steps, &is_open))
    }

    /// Returns the steps. Those that only modify come last, in the order of the last changes.
    fn steps_between(&self, old: &Frozen, new: &Frozen) -> Result<Vec<Step>> {
        if old.branch != self.id() || new.branch != self.id() {
            return Err(Errno::EINVAL);
        }
        let mut steps = steps(&old.tree, &new.tree)?;
        let modified = steps.partition_point(|step| !matches!(step, Step::Modified(..)));
        steps[modified..].sort_by_cached_key(|step| new.last_change(step));
        Ok(steps)
    }
}
