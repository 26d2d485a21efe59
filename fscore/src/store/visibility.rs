//! Which objects of a tree show: those to which names lead.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

use super::inode::Inode;
use super::tree::Tree;
use crate::model::event::Name;
use crate::model::id::NodeId;

/// Returns the object, if names lead to it.
pub(crate) fn visible(tree: &Tree, node: NodeId) -> Option<Cow<'_, Inode>> {
    Visibility::of(tree).visible(node)
}

/// Which objects of a tree show. It caches what it finds, for many questions to one tree.
pub(crate) struct Visibility<'a> {
    tree: &'a Tree,
    /// Whether directories of the lower layer are reached from the root.
    reached: RefCell<HashMap<NodeId, bool>>,
}

impl<'a> Visibility<'a> {
    pub(crate) fn of(tree: &'a Tree) -> Self {
        Self {
            tree,
            reached: RefCell::default(),
        }
    }

    /// Returns the object, if names lead to it.
    pub(crate) fn visible(&self, node: NodeId) -> Option<Cow<'a, Inode>> {
        let inode = self.tree.inode(node).ok()?;
        if inode.nlink == 0 || (!self.tree.is_own(node) && !self.is_reached(node, &inode)) {
            return None;
        }
        Some(inode)
    }

    /// Returns whether an object of the lower layer shows. The branch may hide all of its names.
    fn is_reached(&self, node: NodeId, inode: &Inode) -> bool {
        let names = inode.names.iter();
        let mut leading = names.filter(|(dir, name)| self.leads(*dir, name, node));
        leading.any(|(dir, _)| self.is_dir_reached(dir))
    }

    fn leads(&self, dir: NodeId, name: &Name, node: NodeId) -> bool {
        let Ok(parent) = self.tree.inode(dir) else {
            return false;
        };
        let found = self.tree.lookup(dir, &parent, name).ok().flatten();
        found.is_some_and(|found| found.node == node)
    }

    /// Returns whether a directory is reached from the root. A directory has one name, so this goes
    /// upwards until the answer is known.
    fn is_dir_reached(&self, dir: NodeId) -> bool {
        let mut reached = self.reached.borrow_mut();
        let mut way = Vec::new();
        let mut at = dir;
        let is_reached = loop {
            if self.tree.is_own(at) {
                break true;
            }
            if let Some(known) = reached.get(&at) {
                break *known;
            }
            way.push(at);
            let Ok(inode) = self.tree.inode(at) else {
                break false;
            };
            match inode.names.first() {
                Some((parent, name)) if self.leads(parent, name, at) => at = parent,
                Some(_) | None => break false,
            }
        };
        reached.extend(way.into_iter().map(|dir| (dir, is_reached)));
        is_reached
    }
}
