//! Branches: each is a tree and its open handles under one lock, and an outbox for its events.

#[cfg(test)]
mod bring_up_tests;
mod bring_ups;
pub(crate) mod check;
mod checkpoint;
pub(crate) mod event_bus;
#[cfg(test)]
mod faults;
pub(crate) mod freeze;
pub(crate) mod fs;
#[cfg(test)]
mod full_store_tests;
#[cfg(test)]
mod gated_disk;
#[cfg(test)]
mod histories;
pub(crate) mod journal;
#[cfg(test)]
mod large_record_tests;
pub(crate) mod last_changes;
pub(crate) mod recovery;
pub(crate) mod served_versions;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod store;
mod take;
pub(crate) mod transaction;
mod version_records;

use std::sync::Arc;

use self::fs::Core;
use self::state::BranchInner;
use crate::model::id::{BranchId, NodeId, Seq};

/// A writable view of the filesystem, and all operations on it.
///
/// A branch is cheap to clone, and all clones are the same branch. Operations come in two forms. By
/// path, they walk from the branch's root, also for a relative path. By [`NodeId`], as FUSE needs
/// them, their names end in `_at` (a name in a directory) or `_node` (an object). Each fails with
/// the [`Errno`](crate::Errno) of the Linux system call that it names, or with `ESTALE` when a node
/// is not in the branch, or no longer.
#[derive(Clone, Debug)]
pub struct Branch {
    pub(crate) core: Arc<Core>,
    pub(crate) inner: Arc<BranchInner>,
}

impl Branch {
    /// Returns the branch's number.
    #[must_use]
    pub fn id(&self) -> BranchId {
        self.inner.id
    }

    /// Returns the branch's name, or an empty text.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Returns the number of the last change that was committed to the branch.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.inner.outbox.last_seq()
    }

    /// Returns the number of the last change that was made in the branch itself.
    ///
    /// Changes of the lower directory that show in the branch
    /// ([`Origin::Lower`](crate::event::Origin::Lower)) and activity (opening, reading, closing)
    /// raise [`last_seq`](Self::last_seq), but not this number.
    #[must_use]
    pub fn last_own_seq(&self) -> Seq {
        self.inner.outbox.last_own_seq()
    }

    /// Returns whether the branch has this node, by a name or open. The host is not asked: an
    /// object of the lower layer counts until it was found to be gone.
    #[must_use]
    pub fn has_node(&self, node: NodeId) -> bool {
        self.inner.read().tree.has(node)
    }
}
