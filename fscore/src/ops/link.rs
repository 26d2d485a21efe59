//! Further names of an object: link.

use std::path::Path;
use std::sync::Arc;

use super::bytes;
use crate::branch::Branch;
use crate::branch::transaction::Txn;
use crate::model::attr::Attr;
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Change, CreatedBy, Name};
use crate::model::id::NodeId;
use crate::ops::walk::EntryName;

impl Branch {
    /// Makes a further name of an object:
    /// [link(2)](https://man7.org/linux/man-pages/man2/link.2.html). A symbolic link at `old` is
    /// not followed.
    ///
    /// # Errors
    ///
    /// Those of link(2).
    pub fn link(
        &self,
        caller: &Caller,
        old: impl AsRef<Path>,
        new: impl AsRef<Path>,
    ) -> Result<Attr> {
        self.change(caller, |txn| {
            let target = txn.walk().resolve(bytes(old.as_ref()), false)?;
            let entry = txn
                .walk()
                .parent(bytes(new.as_ref()))?
                .entry(Errno::EEXIST)?;
            txn.link(target.node, entry)
        })
    }

    /// Makes a further name of a node: linkat(2). A file made by [`tmpfile_at`](Self::tmpfile_at)
    /// gets its name by this.
    ///
    /// # Errors
    ///
    /// Those of linkat(2).
    pub fn link_node(
        &self,
        caller: &Caller,
        node: NodeId,
        parent: NodeId,
        name: &[u8],
    ) -> Result<Attr> {
        self.change(caller, |txn| {
            txn.link(node, EntryName::new(parent, name, Errno::EEXIST)?)
        })
    }
}

impl Txn<'_> {
    fn link(&mut self, node: NodeId, entry: EntryName<'_>) -> Result<Attr> {
        self.check_free(entry)?;
        let dir = self.tree.inode(entry.dir)?;
        if dir.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        self.walk().rights.change_dir(&dir)?;
        let inode = self.tree.inode(node)?;
        if inode.is_dir() {
            return Err(Errno::EPERM);
        }
        let nameless = inode.nlink == 0;
        if nameless && self.tree.orphans().get(node.0) != Some(&true) {
            return Err(Errno::ENOENT);
        }
        if inode.nlink == u32::MAX {
            return Err(Errno::EMLINK);
        }
        let kind = inode.kind();
        self.prepare_name(entry)?;
        self.copy_up_whole(node)?;

        let name: Name = Arc::from(entry.name);
        let now = self.now;
        self.tree.set_entry(entry.dir, &name, node, kind)?;
        self.tree.inode_mut(entry.dir)?.touch(now);
        self.tree.clear_orphan(node);
        let inode = self.tree.inode_mut(node)?;
        inode.nlink += 1;
        inode.times.ctime = now;
        inode.names.add(entry.dir, name.clone());
        let attr = inode.attr(node);

        self.emit(|txn| {
            Ok(Change::Created {
                node: txn.node_ref(node)?,
                at: txn.place(entry.dir, &name),
                by: if nameless {
                    CreatedBy::LinkTmpfile
                } else {
                    CreatedBy::Link
                },
            })
        })?;
        Ok(attr)
    }
}
