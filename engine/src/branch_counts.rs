//! How many of something there are for each branch.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentfs_core::id::BranchId;
use parking_lot::RwLock;

/// Counts by branch. To ask costs one load while nothing is counted at all, and a look into a table
/// otherwise. The cost does not depend on other branches, and no other lock is taken.
#[derive(Debug, Default)]
pub struct BranchCounts {
    all: AtomicUsize,
    each: RwLock<HashMap<BranchId, usize>>,
}

impl BranchCounts {
    /// Counts one more.
    pub fn add(&self, branch: BranchId) {
        let mut each = self.each.write();
        *each.entry(branch).or_default() += 1;
        // AcqRel here and below: pairs with the Acquire of `has`.
        self.all.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes one back that was added.
    pub fn remove(&self, branch: BranchId) {
        let mut each = self.each.write();
        let Some(count) = each.get_mut(&branch) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            each.remove(&branch);
        }
        self.all.fetch_sub(1, Ordering::AcqRel);
    }

    /// Returns whether anything is counted.
    #[inline]
    pub fn has_any(&self) -> bool {
        self.all.load(Ordering::Acquire) > 0
    }

    /// Returns whether anything is counted for a branch.
    #[inline]
    pub fn has(&self, branch: BranchId) -> bool {
        self.has_any() && self.each.read().contains_key(&branch)
    }
}
