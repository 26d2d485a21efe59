//! What a step has brought to the host is the host's: the branch no longer holds it.

use crate::dir::{Entry, Link};
use crate::event::Name;
use crate::id::NodeId;
use crate::tree::Tree;

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
