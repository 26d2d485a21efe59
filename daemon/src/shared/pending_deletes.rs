//! Branches that are to be deleted as soon as nothing uses them any more.

use std::collections::HashMap;

use agentfs_core::id::{BranchId, Seq};
use agentfs_core::{Branch, FsCore};
use parking_lot::Mutex;

/// The branches, each with its last change that may be thrown away. Later changes in a branch keep
/// it; changes of the host that show in it do not.
#[derive(Debug, Default)]
pub(crate) struct PendingDeletes(Mutex<HashMap<BranchId, Seq>>);

impl PendingDeletes {
    /// Has a branch deleted, if it is then as it was after this change.
    pub(crate) fn add(&self, branch: &Branch, seq: Seq) {
        self.0.lock().insert(branch.id(), seq);
    }

    /// Returns whether the branch may be deleted as it is now.
    pub(crate) fn is_done_with(&self, branch: &Branch) -> bool {
        let all = self.0.lock();
        let seq = all.get(&branch.id());
        seq.is_some_and(|seq| is_unchanged_since(branch, *seq))
    }

    /// Returns the branches that may be deleted now, again and again until they are gone.
    /// `is_in_use` returns whether a mount or a run has a branch, `is_as_made` whether it is known
    /// that the branch is as it was made.
    pub(crate) fn due(
        &self,
        core: &FsCore,
        is_in_use: impl Fn(BranchId) -> bool,
        is_as_made: impl Fn(BranchId) -> bool,
    ) -> Vec<BranchId> {
        let mut all = self.0.lock();
        let mut due = Vec::new();
        all.retain(|id, seq| {
            let Ok(branch) = core.branch(*id) else {
                return false;
            };
            if is_in_use(*id) {
                return true;
            }
            let may_go = is_unchanged_since(&branch, *seq) || is_as_made(*id);
            if may_go {
                due.push(*id);
            }
            may_go
        });
        due
    }
}

fn is_unchanged_since(branch: &Branch, seq: Seq) -> bool {
    branch.last_own_seq() <= seq
}
