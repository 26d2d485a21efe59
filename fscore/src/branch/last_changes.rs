//! The last changes before a store was opened: a process that was killed may have committed some of them
//! without telling its readers.

use std::collections::HashMap;

use crate::branch::Branch;
use crate::branch::fs::FsCore;
use crate::model::errno::Result;
use crate::model::event::Change;
use crate::model::id::{BranchId, Seq};
use crate::store::tree::Tree;

/// Finds the changes between two states of a branch.
pub(crate) type FindChanges = fn(&Tree, &Tree) -> Result<Vec<Change>>;

/// The branches as they were before each of the last records.
#[derive(Debug)]
pub(super) struct LastTrees {
    from: u64,
    trees: HashMap<BranchId, Vec<(Seq, Tree)>>,
}

impl Default for LastTrees {
    fn default() -> Self {
        Self::from(u64::MAX)
    }
}

impl LastTrees {
    /// Keeps the trees from this record on.
    pub(super) fn from(record: u64) -> Self {
        Self {
            from: record,
            trees: HashMap::new(),
        }
    }

    /// Notes a branch as it is before a record changes it.
    pub(super) fn note(&mut self, record: u64, branch: BranchId, seq: Seq, tree: &Tree) {
        if record >= self.from {
            let trees = self.trees.entry(branch).or_default();
            trees.push((seq, tree.clone()));
        }
    }

    /// Returns the changes of a branch, which has this last state. If they cannot be found, there are
    /// none, and only a reader that has heard of the last one has missed nothing.
    pub(super) fn changes_of(
        &self,
        branch: BranchId,
        (seq, tree): (Seq, &Tree),
        find: FindChanges,
    ) -> OfBranch {
        let trees = self.trees.get(&branch).map_or(&[][..], Vec::as_slice);
        let after = trees.iter().skip(1).map(|(seq, tree)| (*seq, tree));
        let (last, after) = (seq, after.chain([(seq, tree)]));
        let mut found = Vec::new();
        for ((_, old), (seq, new)) in trees.iter().zip(after) {
            match find(old, new) {
                Ok(all) => found.extend(all.into_iter().map(|change| (seq, change))),
                Err(errno) => {
                    tracing::warn!(%errno, "readers that missed changes look at everything anew");
                    return OfBranch {
                        after: last,
                        changes: Vec::new(),
                    };
                }
            }
        }
        OfBranch {
            after: trees.first().map_or(seq, |(seq, _)| *seq),
            changes: found,
        }
    }
}

/// The last changes of a branch.
#[derive(Debug)]
pub(super) struct OfBranch {
    /// The number of the change before the first of them.
    after: Seq,
    changes: Vec<(Seq, Change)>,
}

/// The last changes of all branches.
#[derive(Debug, Default)]
pub(crate) struct LastChanges(HashMap<BranchId, OfBranch>);

impl LastChanges {
    pub(super) fn new(all: HashMap<BranchId, OfBranch>) -> Self {
        Self(all)
    }
}

impl Branch {
    /// Returns the changes after this one that were committed to the branch before its store was opened,
    /// with their numbers, for a reader that may have missed them. They are those that the log shows,
    /// however they were made: those of the host and activity are not among them. `None` if too many came
    /// after it, or if the store was opened long ago.
    #[must_use]
    pub fn changes_before_opening(&self, after: Seq) -> Option<Vec<(Seq, Change)>> {
        let registry = self.core.registry.read();
        let last = registry.last_changes.0.get(&self.id())?;
        if after < last.after {
            return None;
        }
        let missed = last.changes.iter().filter(|(seq, _)| *seq > after);
        Some(missed.cloned().collect())
    }
}

impl FsCore {
    /// Forgets what was changed before the store was opened.
    pub fn forget_changes_before_opening(&self) {
        let last = std::mem::take(&mut self.core.registry.write().last_changes);
        // It is freed without the lock.
        drop(last);
    }
}
