//! Releasing from the branch what a step has written to the host, which shows it from then on.

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
    /// Removes the branch's own entry, because the host has under this name what the branch shows
    /// there.
    pub(super) fn release_name(&mut self, dir: NodeId, name: &Name, node: NodeId) {
        let case = self.shared.config.case_sensitivity;
        let Ok(entries) = self.entries_mut(dir, name) else {
            return;
        };
        let leads_there = entries
            .find(name, case)
            .is_some_and(|(_, entry)| entry.leads_to(node));
        if leads_there && entries.merges_lower {
            entries.remove(name, case);
        }
    }

    /// Removes a whiteout, because the host no longer has the name.
    pub(super) fn release_whiteout(&mut self, dir: NodeId, name: &Name) {
        let case = self.shared.config.case_sensitivity;
        let Ok(entries) = self.entries_mut(dir, name) else {
            return;
        };
        let is_hidden = entries
            .find(name, case)
            .is_some_and(|(_, entry)| entry.link == Link::Whiteout);
        if is_hidden {
            entries.remove(name, case);
        }
    }

    /// Hides a name that an object has on the host only for a while, on its way to the one that the
    /// branch shows.
    pub(super) fn hide_aside(&mut self, dir: NodeId, name: &Name) {
        let case = self.shared.config.case_sensitivity;
        let Ok(entries) = self.entries_mut(dir, name) else {
            return;
        };
        if entries.find(name, case).is_none() {
            let (name, link) = (name.clone(), Link::Whiteout);
            entries.set(Entry { name, link }, case);
        }
    }

    /// Merges a directory that the branch created with the host's, which is there now. Its entries
    /// follow in later steps.
    pub(super) fn release_dir(&mut self, node: NodeId) {
        if let Some(entries) = self.inode_mut(node).ok().and_then(|it| it.as_dir_mut()) {
            entries.merges_lower = true;
        }
    }

    /// Releases an object, because the host has it as the branch shows it.
    pub(super) fn release_object(&mut self, node: NodeId) {
        self.forget(node);
        self.forget_seen(node);
    }
}

impl Executor<'_> {
    /// Records that an object was put on the host: further steps about it are based on that.
    pub(super) fn record_placed(&self, state: &mut State, node: NodeId, staged: &Staged) {
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

    /// Records that an object has another name on the host, in the version that the comparison
    /// found.
    pub(super) fn has_moved(&self, state: &mut State, node: NodeId) {
        if let Some(expected) = self.expected.get(&node) {
            state
                .tree
                .record_own_move_of(node, expected.fingerprint.version());
        }
    }

    /// Releases a name that the host has already. The object is released with the last step that is
    /// about it.
    pub(super) fn release_already_there(
        &self,
        name: Option<&(NodeId, Name)>,
        node: NodeId,
        is_last: bool,
    ) {
        let mut state = self.hold.state();
        let mut on_host = node;
        if let Some((dir, name)) = name {
            on_host = self.lower.seen_as(*dir, name).unwrap_or(node);
            state.tree.release_name(*dir, name, node);
        }
        if let Some(expected) = self.expected.get(&on_host) {
            // The host's object was found to have the content that the branch has shown.
            self.served.content(on_host, expected.fingerprint.version());
        }
        if !is_last {
            return;
        }
        if state.handles.is_open(node) && self.lower.fingerprint_of(node).is_none() {
            // It stays open as a file without a name.
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

/// Records that the branch has shown what it put on the host, so that its next change is based on
/// that.
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
