//! Branches that are to be deleted when nothing shows them any more.

use std::collections::HashMap;

use agentfs_core::id::{BranchId, Seq};
use agentfs_core::{Branch, FsCore};
use parking_lot::Mutex;

/// The branches, and how far each was when it was retired. What is changed in them later is not
/// thrown away. Changes of the host that show in a branch are no changes of the branch.
#[derive(Debug, Default)]
pub(crate) struct PendingDeletes(Mutex<HashMap<BranchId, Seq>>);

impl PendingDeletes {
    /// The branch may go as it was after this change.
    pub(crate) fn add(&self, branch: &Branch, seq: Seq) {
        self.0.lock().insert(branch.id(), seq);
    }

    /// Whether the branch, as it is now, may go.
    pub(crate) fn is_done_with(&self, branch: &Branch) -> bool {
        let all = self.0.lock();
        let seq = all.get(&branch.id());
        seq.is_some_and(|seq| is_unchanged_since(branch, *seq))
    }

    /// Returns those that may go now; they are named again until they are gone. `is_in_use` says
    /// whether a mount or a run has a branch, `is_as_made` whether it differs from nothing.
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
