//! A branch as it was at one moment, and what changed since.

use super::apply::merge_with_host;
use super::steps::{Step, steps};
use super::synthetic_events::changes;
use crate::branch::Branch;
use crate::model::attr::Nanos;
use crate::model::errno::{Errno, Result};
use crate::model::event::Change;
use crate::model::id::{BranchId, NodeId, Seq};
use crate::store::tree::Tree;

/// A branch as it was at one moment, for a reader that wants to catch up later. Costs as little as a
/// snapshot, and is neither listed nor counted nor told of.
#[derive(Clone, Debug)]
pub struct Frozen {
    tree: Tree,
    branch: BranchId,
    seq: Seq,
}

impl Frozen {
    /// The last change it shows.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// When what the step is about was changed last.
    fn last_change(&self, step: &Step) -> Option<Nanos> {
        let Step::Modified(node, _) = step else {
            return None;
        };
        self.tree.inode(*node).ok().map(|inode| inode.times.ctime)
    }
}

impl Branch {
    /// Keeps the branch as it is now.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        let state = self.inner.read();
        Frozen {
            tree: state.tree.without_orphans(),
            branch: self.id(),
            seq: self.last_seq(),
        }
    }

    /// What changed since, as if made step by step: the net changes, in an order in which they could
    /// be made, parents before children. What was only modified comes last, in the order of the last
    /// changes: who waits for a file that is written after others is told of those first. Also gives the moment up to which this holds.
    ///
    /// # Errors
    ///
    /// `EINVAL` for another branch's; what the host says of the lower layer.
    pub fn changes_since(&self, old: &Frozen) -> Result<(Vec<Change>, Frozen)> {
        let new = self.freeze();
        Ok((self.changes_between(old, &new)?, new))
    }

    /// As [`changes_since`](Self::changes_since), but only what the branch itself changed, as
    /// [`apply`](Self::apply) would bring it to the host. A directory that the host has made as well
    /// is merged with it, and what others put into a directory that the branch removed or made anew
    /// is not among the removed: the branch never saw it.
    ///
    /// # Errors
    ///
    /// As [`changes_since`](Self::changes_since).
    pub fn own_changes_since(&self, old: &Frozen) -> Result<Vec<Change>> {
        let mut new = self.freeze();
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

    /// As [`changes_since`](Self::changes_since), up to a moment that was kept before.
    ///
    /// # Errors
    ///
    /// `EINVAL` for another branch's; what the host says of the lower layer.
    pub fn changes_between(&self, old: &Frozen, new: &Frozen) -> Result<Vec<Change>> {
        let steps = self.steps_between(old, new)?;
        let is_open = |node| self.inner.read().handles.is_open(node);
        Ok(changes(&old.tree, &new.tree, steps, &is_open))
    }

    /// What is only modified comes last, in the order of the last changes.
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
