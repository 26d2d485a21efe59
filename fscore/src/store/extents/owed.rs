//! Changes of branches that are in no record of the log.

use std::sync::Arc;

use super::Extents;
use crate::sync::atomic::Ordering;

/// A guard: while it exists, a branch has changes that are in no record yet. What is freed meanwhile
/// stays as it is, because the records may still refer to it.
#[derive(Debug)]
pub(crate) struct Owed(Arc<Extents>);

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.owed.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Extents {
    /// Records, during an operation, that a branch has changes that are in no record.
    pub(crate) fn owe(self: &Arc<Self>) -> Owed {
        self.owed.fetch_add(1, Ordering::Relaxed);
        Owed(self.clone())
    }

    /// Returns whether a branch has such changes. Called while no operation is under way, whose lock
    /// orders the count.
    pub(super) fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Relaxed) > 0
    }
}
