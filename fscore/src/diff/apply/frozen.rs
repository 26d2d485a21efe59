//! Applying a frozen branch. What it has changed since its base is applied as a live branch would
//! be, and the branch itself keeps all that it shows. Afterwards it is based on what it shows.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Applied, ApplyError, ApplyMode};
use crate::branch::Branch;
use crate::branch::served_versions::ServedVersions;
use crate::branch::state::BranchInner;
use crate::lower::Lower;
use crate::model::errno::Result;
use crate::model::id::NodeId;
use crate::store::inode::{Inode, Seen};
use crate::store::tree::Tree;

impl Branch {
    pub(super) fn apply_frozen(
        &self,
        lower: &Lower,
        mode: ApplyMode,
        cancelled: &AtomicBool,
    ) -> Result<Applied, ApplyError> {
        let hold = self.inner.hold();
        let frozen = hold.state().tree.without_orphans();
        let live = frozen.over_lower().map_err(ApplyError::Diff)?;
        let inner = BranchInner::new(
            self.id(),
            self.inner.name.clone(),
            self.id(),
            live.clone(),
            None,
        );
        let changes = Self {
            core: self.core.clone(),
            inner: Arc::new(inner),
        };
        let applied = changes.apply_unless(mode, cancelled)?;
        let Some(base) = frozen.base().filter(|_| applied.too_deep == 0) else {
            return Ok(applied);
        };
        let settled = {
            let mut state = hold.state();
            let served = &changes.inner.served;
            for (key, _) in live.inodes().iter() {
                see_applied(&mut state.tree, lower, served, NodeId(key))
                    .map_err(ApplyError::Diff)?;
            }
            state.tree.without_orphans()
        };
        let base = self.core.add_base(None, settled, Some(base));
        let base = base.map_err(ApplyError::Diff)?;
        hold.state().tree.set_base(Some(base));
        Ok(applied)
    }
}

/// Records how the host has an object now that was applied.
fn see_applied(
    tree: &mut Tree,
    lower: &Lower,
    served: &ServedVersions,
    node: NodeId,
) -> Result<()> {
    let Ok(now) = lower.inode(node) else {
        return Ok(());
    };
    let now = Inode {
        xattrs: lower.xattrs(node)?,
        ..now.into()
    };
    let applied = served.base(node, &[]);
    if now.is_dir() {
        tree.see(node, &now);
    } else if applied.is_some() {
        tree.see_as(node, Seen::of(&now).based_on(applied));
    }
    Ok(())
}
