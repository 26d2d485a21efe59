//! Objects without a name that no handle of this process holds, because programs have them open through a
//! mount that an earlier process served.

use crate::branch::Branch;
use crate::model::caller::Caller;
use crate::model::errno::Result;
use crate::model::id::NodeId;

impl Branch {
    /// Sets whether an object is kept when its last name is removed and no handle holds it. Programs may
    /// have it open through a mount that this process has taken over, which shows with the next request
    /// only. What is kept ends with [`drop_nameless`](Self::drop_nameless).
    pub fn keep_nameless(&self, keeps: bool) {
        self.inner.set_keeps_nameless(keeps);
    }

    /// Returns the objects without a name that no handle holds.
    #[must_use]
    pub fn nameless(&self) -> Vec<NodeId> {
        let state = self.inner.read();
        let all = state.tree.orphans().iter();
        all.map(|(node, _)| NodeId(node))
            .filter(|node| !state.handles.is_open(*node))
            .collect()
    }

    /// Forgets an object that has no name, unless a handle holds it.
    ///
    /// # Errors
    ///
    /// Those of writing to the store.
    pub fn drop_nameless(&self, node: NodeId) -> Result<()> {
        let is_nameless = |branch: &Self| branch.inner.read().tree.orphans().get(node.0).is_some();
        if !is_nameless(self) {
            return Ok(());
        }
        self.change(&Caller::root(), |txn| {
            if txn.tree.orphans().get(node.0).is_some() && !txn.handles.is_open(node) {
                txn.tree.forget(node);
            }
            Ok(())
        })
    }
}
