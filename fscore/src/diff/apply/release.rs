//! What a step has brought to the host is the host's: the branch no longer holds it.

use super::execute::Executor;
use super::staging::Staged;
use crate::branch::served_versions::ServedVersions;
use crate::branch::state::State;
use crate::lower::Lower;
use crate::model::event::{Name, ObjectKind};
use crate::model::id::NodeId;
use crate::store::dir::{Entry, Link};
use crate::store::inode::Inode;
use crate::store::tree::Tree;

impl Tree {
    /// The host has under this name what the branch shows there.
    pub(super) fn release_name(&mut self, dir: NodeId, name: &Name, node: NodeId) {
        let case = self.shared.config.case_sensitivity;
        let Some(entries) = self.inode_mut(dir).ok().and_then(|it| it.as_dir_mut()) else {
            return;
        };
        let leads_there = entries
            .find(name, case)
            .is_some_and(|(_, entry)| entry.leads_to(node));
        if leads_there && entries.merges_lower {
            entries.remove(name, case);
        }
    }

    /// The host has no such name any more.
    pub(super) fn release_whiteout(&mut self, dir: NodeId, name: &Name) {
        let case = self.shared.config.case_sensitivity;
        let Some(entries) = self.inode_mut(dir).ok().and_then(|it| it.as_dir_mut()) else {
            return;
        };
        let is_hidden = entries
            .find(name, case)
            .is_some_and(|(_, entry)| entry.link == Link::Whiteout);
        if is_hidden {
            entries.remove(name, case);
        }
    }

    /// The host has a name that is only on the way to another one, which the branch shows.
    pub(super) fn hide_aside(&mut self, dir: NodeId, name: &Name) {
        let case = self.shared.config.case_sensitivity;
        let Some(entries) = self.inode_mut(dir).ok().and_then(|it| it.as_dir_mut()) else {
            return;
        };
        if entries.find(name, case).is_none() {
            let (name, link) = (name.clone(), Link::Whiteout);
            entries.set(Entry { name, link }, case);
        }
    }

    /// The host has a directory that the branch made: the rest of what the branch has in it comes
    /// later.
    pub(super) fn release_dir(&mut self, node: NodeId) {
        if let Some(entries) = self.inode_mut(node).ok().and_then(|it| it.as_dir_mut()) {
            entries.merges_lower = true;
        }
    }

    /// The host has the object as the branch shows it.
    pub(super) fn release_object(&mut self, node: NodeId) {
        self.forget(node);
        self.forget_seen(node);
    }
}

impl Executor<'_> {
    /// The host has an object that was put there: what is still to be done with it is based on that.
    pub(super) fn has_put(&self, state: &mut State, node: NodeId, staged: &Staged) {
        let is_own = |fingerprint| staged.is_own(&fingerprint);
        if self.lower.fingerprint_of(node).is_some_and(is_own)
            && let Ok(now) = self.lower.inode(node)
        {
            let xattrs = self.lower.xattrs(node).unwrap_or_default();
            state.tree.see(
                node,
                &Inode {
                    xattrs,
                    ..now.into()
                },
            );
        }
    }

    /// The host has an object by another name, in the version that the look found.
    pub(super) fn has_moved(&self, state: &mut State, node: NodeId) {
        if let Some(expected) = self.expected.get(&node) {
            state
                .tree
                .moved_by_us_as(node, expected.fingerprint.version());
        }
    }

    /// The host has it already. The object is released with the last step that is about it.
    pub(super) fn release_there(&self, name: Option<&(NodeId, Name)>, node: NodeId, is_last: bool) {
        let mut state = self.hold.state();
        let mut on_host = node;
        if let Some((dir, name)) = name {
            on_host = self.lower.seen_as(*dir, name).unwrap_or(node);
            state.tree.release_name(*dir, name, node);
        }
        if let Some(expected) = self.expected.get(&on_host) {
            // Found to hold what the branch has shown: its own.
            self.served.content(on_host, expected.fingerprint.version());
        }
        if !is_last {
            return;
        }
        if state.handles.is_open(node) && self.lower.fingerprint_of(node).is_none() {
            // It goes on as a file without a name.
            if let Ok(inode) = state.tree.inode_mut(node) {
                inode.nlink = 0;
                inode.names = crate::model::names::Names::None;
            }
            state.tree.set_orphan(node, false);
        } else {
            state.tree.release_object(node);
        }
    }
}

/// What the branch put on the host is what it has shown last: its next change is based on that.
pub(super) fn show_applied(served: &ServedVersions, lower: &Lower, new: &Tree, node: NodeId) {
    let Ok(own) = new.inode(node) else {
        return;
    };
    if matches!(own.kind(), ObjectKind::File | ObjectKind::Symlink)
        && let Some(now) = lower.fingerprint_of(node)
        && now.version().has_bytes_of(&own.stamp())
    {
        served.content(node, now.version());
    }
}
