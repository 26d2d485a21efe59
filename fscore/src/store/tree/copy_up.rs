//! Copying objects of the lower layer up, so that the branch can change them.

use std::sync::Arc;

use super::Tree;
use crate::model::errno::{Errno, Result};
use crate::model::id::NodeId;
use crate::model::names::Names;
use crate::model::stamp::Stamp;
use crate::store::inode::{Inode, Seen};

/// What the first change of a lower object is based on.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Based {
    /// The version that was shown last. If none was shown, the change is based on the version that
    /// is found.
    pub(crate) shown: Option<Stamp>,
    /// The version that the object must still have.
    pub(crate) must_be: Option<Stamp>,
}

impl Tree {
    /// Copies an object up: from now on it and its names are the branch's own, whatever the host
    /// does to its object, and the branch can change them. Of a change of metadata, only this step
    /// can fail.
    ///
    /// `based` says what the change is based on.
    ///
    /// # Errors
    ///
    /// `ESTALE` when the object does not have the version that it must have.
    pub(crate) fn copy_up(&mut self, target: NodeId, based: Based) -> Result<()> {
        // The object and the directories above it, which are copied up first. They are as many as
        // the tree is deep, so they are on the heap.
        let mut open: Vec<(NodeId, Inode)> = Vec::new();
        let mut next = Some(target);
        loop {
            if let Some(node) = next.filter(|node| !self.is_own(*node)) {
                let must_be = based.must_be.filter(|_| node == target);
                let inode = self.to_copy_up(node, must_be)?;
                next = inode.names.first().map(|(dir, _)| dir);
                open.push((node, inode));
                continue;
            }
            let Some((node, mut inode)) = open.pop() else {
                return Ok(());
            };
            // Only files have further names.
            let others = inode.names.all().into_iter().map(|(dir, _)| dir);
            if let Some(dir) = others.into_iter().find(|dir| !self.is_own(*dir)) {
                open.push((node, inode));
                next = Some(dir);
                continue;
            }
            inode.xattrs = self.xattrs(node, &inode)?;
            self.room_for_node()?;
            for (dir, name) in inode.names.all() {
                self.set_entry(dir, &name, node, inode.kind())?;
            }
            let shown = based.shown.filter(|_| node == target);
            self.seen.insert(node.0, Seen::of(&inode).based_on(shown));
            self.inodes.insert(node.0, Arc::new(inode));
            self.touch_seen(node);
            self.touch_new(node);
            next = None;
        }
    }

    /// Returns an object of the lower layer, in the version that it must have, with the names that
    /// lead to it.
    fn to_copy_up(&self, node: NodeId, must_be: Option<Stamp>) -> Result<Inode> {
        let mut inode = self.inode(node)?.into_owned();
        if must_be.is_some_and(|stamp| stamp != inode.stamp()) {
            return Err(Errno::ESTALE);
        }
        let mut shown = Names::None;
        for (dir, name) in inode.names.all() {
            // The index may remember a name that the host has given to something else since.
            let parent = self.inode(dir)?;
            let found = self.lookup(dir, &parent, &name)?;
            if found.is_some_and(|found| found.node == node) {
                shown.add(dir, name);
            }
        }
        inode.names = shown;
        Ok(inode)
    }
}
