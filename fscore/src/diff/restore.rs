//! Restoring a branch to a snapshot.

use super::steps::steps;
use super::synthetic_events::changes;
use crate::branch::Branch;
use crate::branch::fs::FsCore;
use crate::log::Purpose;
use crate::model::caller::Caller;
use crate::model::errno::Result;
use crate::model::event::Origin;
use crate::model::id::{BranchId, NodeId, SnapshotId};
use crate::model::names::Names;
use crate::store::dir_paths::{DirPath, DirPaths};
use crate::store::inode::Body;
use crate::store::tree::Tree;
use crate::store::tree::bring_up::Content;
use crate::store::visibility::visible;

impl FsCore {
    /// Makes the branch show what the snapshot shows. The difference is emitted with
    /// [`Origin::Restore`], as if it had been made step by step. Open handles stay open: a handle
    /// on an object of the snapshot shows the object as it was then, and one on any other object
    /// keeps it as if it had been unlinked.
    ///
    /// # Errors
    ///
    /// `ENOENT` without such a branch or snapshot; what the host answers when the lower layer is
    /// read; `ENOSPC` when the disk of the store has no room for the record. The branch is then as it
    /// was.
    pub fn restore(&self, caller: &Caller, branch: BranchId, snapshot: SnapshotId) -> Result<()> {
        let snapshot = self.snapshot(snapshot)?;
        let branch = self.branch(branch)?;
        branch.replace(caller, snapshot.tree.clone())
    }
}

impl Branch {
    fn replace(&self, caller: &Caller, new: Tree) -> Result<()> {
        let hold = self.inner.hold();
        self.core.check_seal()?;
        let old = self.inner.read().tree.clone();
        let steps = steps(&old.without_orphans(), &new)?;
        let is_open = |node| self.inner.read().handles.is_open(node);
        let events = changes(&old, &new, steps, &is_open);
        let room = self.inner.reserve(Purpose::Freeing)?;
        let mut state = hold.state();
        let before = state.begin();
        let old = self.commit(caller, &mut state, &mut Content::default(), |txn| {
            let old = txn.tree.replace(new);
            txn.forget_dir_paths();
            keep_open(txn.tree, &old, txn.handles);
            for change in events {
                txn.emit_from(Origin::Restore, change);
            }
            Ok(old)
        });
        // The record may be long, and there may be no room for it.
        match state.write_changes(room) {
            Ok(()) => state.keep(before),
            Err(errno) => {
                state.take_back(before);
                return Err(errno);
            }
        }
        drop(state);
        drop(hold);
        self.deliver_for(caller);
        // The old tree is freed without the lock, because it may be large.
        drop(old);
        Ok(())
    }
}

/// Keeps what is open: a handle stays on its object where that is shown, and otherwise on the
/// object as one without a name.
fn keep_open(tree: &mut Tree, old: &Tree, handles: &mut crate::store::handles::Handles) {
    let open: Vec<NodeId> = handles.open_nodes().collect();
    let mut paths = DirPaths::default();
    for node in open {
        if let Some(inode) = visible(tree, node) {
            let names = inode.names.clone();
            handles.follow(node, &names, None);
            continue;
        }
        let Ok(inode) = old.inode(node) else {
            continue;
        };
        let mut inode = inode.into_owned();
        inode.nlink = 0;
        let names = std::mem::replace(&mut inode.names, Names::None);
        if let Body::Dir(dir) = &mut inode.body {
            **dir = crate::store::dir::Dir::default();
        }
        let path = names.first().and_then(|(dir, _)| paths.of(old, dir));
        let path = path.unwrap_or_else(DirPath::root).text;
        tree.add(node, inode);
        tree.set_orphan(node, old.orphans().get(node.0) == Some(&true));
        handles.follow(node, &names, Some(path));
    }
}
