//! A branch: a tree, its open handles, one lock over both, and the way out for events.

pub(crate) mod event_bus;
pub(crate) mod fs;
pub(crate) mod served_versions;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod transaction;

use std::sync::Arc;

use self::fs::Core;
use self::state::BranchInner;
use crate::model::id::{BranchId, NodeId, Seq};

/// A writable view of the filesystem, and all operations on it.
///
/// Cheap to clone. Operations come in two forms: by path, walked from the branch's root (relative
/// paths too), and by [`NodeId`], as FUSE needs them; the names of the latter end in `_at` (a name in
/// a directory) or `_node` (an object). Each fails with the [`Errno`](crate::Errno) that Linux gives for the
/// system call, or `ESTALE` when a node is not in the branch (any more).
#[derive(Clone, Debug)]
pub struct Branch {
    pub(crate) core: Arc<Core>,
    pub(crate) inner: Arc<BranchInner>,
}

impl Branch {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> BranchId {
        self.inner.id
    }

    /// Its name, or an empty text.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The number of the last change that was committed to it.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.inner.outbox.last_seq()
    }

    /// Returns the number of the last change that was made in the branch itself.
    ///
    /// Changes of the lower directory that show in the branch ([`Origin::Lower`](crate::event::Origin::Lower)), and what was only
    /// opened, read or closed, raise [`last_seq`](Self::last_seq) but not this number.
    #[must_use]
    pub fn last_own_seq(&self) -> Seq {
        self.inner.outbox.last_own_seq()
    }

    /// Whether the branch has this node, by a name or open. Answered from what is known: an object
    /// of the lower layer counts until it was found to be gone.
    #[must_use]
    pub fn has_node(&self, node: NodeId) -> bool {
        self.inner.read().tree.has(node)
    }
}
