//! A branch: a tree, its open handles, one lock over both, and the way out for events.

pub(crate) mod event_bus;
pub(crate) mod fs;
pub(crate) mod served;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod transaction;

use std::sync::Arc;

use self::fs::Core;
use self::state::{BranchInner, State};
use self::transaction::{Txn, View};
use crate::model::attr::now;
use crate::model::caller::Caller;
use crate::model::errno::Result;
use crate::model::id::{BranchId, NodeId, Seq};

/// A writable view of the filesystem, and all operations on it.
///
/// Cheap to clone. Operations come in two forms: by path, walked from the branch's root (relative
/// paths too), and by [`NodeId`], as FUSE needs them; the names of the latter end in `_at` (a name in
/// a directory) or `_node` (an object). Each fails with the [`Errno`] that Linux gives for the
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
    /// Changes of the lower directory that show in the branch ([`Origin::Lower`]), and what was only
    /// opened, read or closed, raise [`last_seq`](Self::last_seq) but not this number.
    #[must_use]
    pub fn last_own_seq(&self) -> Seq {
        self.inner.outbox.last_own_seq()
    }

    /// Runs an operation that changes the branch, then tells the sinks.
    pub(crate) fn change<T>(
        &self,
        caller: &Caller,
        operation: impl FnOnce(&mut Txn<'_>) -> Result<T>,
    ) -> Result<T> {
        self.change_open(caller, true, operation)
    }

    /// As [`change`](Self::change), for what may change only what is open, and is not refused then
    /// when the filesystem is [sealed](crate::FsCore::seal).
    pub(crate) fn change_open<T>(
        &self,
        caller: &Caller,
        changes_files: bool,
        operation: impl FnOnce(&mut Txn<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut state = self.inner.write();
        if changes_files {
            self.core.check_seal()?;
        }
        let result = self.commit(caller, &mut state, operation);
        drop(state);
        self.deliver_for(caller);
        result
    }

    /// Runs an operation on a state that is locked. The sinks are still to be told.
    pub(crate) fn commit<T>(
        &self,
        caller: &Caller,
        state: &mut State,
        operation: impl FnOnce(&mut Txn<'_>) -> Result<T>,
    ) -> Result<T> {
        let State { tree, handles, .. } = state;
        operation(&mut Txn {
            tree,
            handles,
            caller,
            now: now(),
            branch: &self.inner,
            bus: &self.core.bus,
        })
    }

    /// Whether the branch has this node, by a name or open. Answered from what is known: an object
    /// of the lower layer counts until it was found to be gone.
    #[must_use]
    pub fn has_node(&self, node: NodeId) -> bool {
        self.inner.read().tree.has(node)
    }

    /// Runs an operation that does not change the branch; it may still tell of activity.
    pub(crate) fn view<T>(
        &self,
        caller: &Caller,
        operation: impl FnOnce(&View<'_>) -> Result<T>,
    ) -> Result<T> {
        let state = self.inner.read();
        operation(&View {
            tree: &state.tree,
            handles: &state.handles,
            caller,
            branch: &self.inner,
            bus: &self.core.bus,
        })
    }

    pub(crate) fn deliver_for(&self, caller: &Caller) {
        if !caller.behind_kernel {
            self.deliver();
        }
    }

    /// Tells the event sinks what was committed and not yet told, unless another thread is at it.
    ///
    /// Only for who asks [behind a kernel](Caller::behind_kernel): after every operation, when the
    /// kernel has its answer. Every other operation does this itself.
    pub fn deliver(&self) {
        if self.core.bus.is_listening() {
            self.inner.outbox.deliver(&self.core.bus);
        }
    }
}
