//! Questions about objects: lookup, stat, readlink, access, statfs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{bytes, look_again};
use crate::branch::Branch;
use crate::model::attr::{Attr, StatFs};
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::flags::Access;
use crate::model::id::NodeId;
use crate::ops::walk::{EntryName, Walk};
use crate::store::content::PAGE;

impl Branch {
    /// Looks up a name in a directory, `.` and `..` included.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOTDIR`, `EACCES`, `ENAMETOOLONG`.
    pub fn lookup(&self, caller: &Caller, parent: NodeId, name: &[u8]) -> Result<Attr> {
        look_again(|| {
            self.view(caller, |view| {
                let walk = view.walk();
                let node = match name {
                    b"" => return Err(Errno::ENOENT),
                    b"." => parent,
                    b".." => walk.parent_of(parent)?,
                    _ => {
                        let entry = EntryName::new(parent, name, Errno::EINVAL)?;
                        let (node, inode) = walk.inode_at(entry)?.ok_or(Errno::ENOENT)?;
                        return Ok(inode.attr(node));
                    }
                };
                attr(walk, node)
            })
        })
    }

    /// Returns the metadata of the object at a path:
    /// [stat(2)](https://man7.org/linux/man-pages/man2/stat.2.html).
    ///
    /// # Errors
    ///
    /// Those of stat(2).
    pub fn stat(&self, caller: &Caller, path: impl AsRef<Path>) -> Result<Attr> {
        look_again(|| {
            self.view(caller, |view| {
                let node = view.walk().resolve(bytes(path.as_ref()), true)?.node;
                Ok(view.show_present(node)?.attr)
            })
        })
    }

    /// Returns the metadata of the object at a path; a symbolic link there is not followed:
    /// lstat(2).
    ///
    /// # Errors
    ///
    /// Those of lstat(2).
    pub fn lstat(&self, caller: &Caller, path: impl AsRef<Path>) -> Result<Attr> {
        look_again(|| {
            self.view(caller, |view| {
                let node = view.walk().resolve(bytes(path.as_ref()), false)?.node;
                Ok(view.show_present(node)?.attr)
            })
        })
    }

    /// Returns the metadata of a node.
    ///
    /// # Errors
    ///
    /// `ESTALE` when the branch has no such node, or no longer.
    pub fn getattr(&self, node: NodeId) -> Result<Attr> {
        let state = self.inner.read();
        Ok(state.tree.inode_or_held(node)?.attr(node))
    }

    /// Returns the text of a symbolic link:
    /// [readlink(2)](https://man7.org/linux/man-pages/man2/readlink.2.html).
    ///
    /// # Errors
    ///
    /// Those of readlink(2).
    pub fn readlink(&self, caller: &Caller, path: impl AsRef<Path>) -> Result<Arc<[u8]>> {
        look_again(|| {
            self.view(caller, |view| {
                let walk = view.walk();
                let target = walk.resolve(bytes(path.as_ref()), false)?;
                let inode = walk.tree.inode(target.node)?;
                inode.link_text().cloned().ok_or(Errno::EINVAL)
            })
        })
    }

    /// Returns the text of a symbolic link, by its node.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it is something else.
    pub fn readlink_node(&self, node: NodeId) -> Result<Arc<[u8]>> {
        let state = self.inner.read();
        let inode = state.tree.inode_or_held(node)?;
        inode.link_text().cloned().ok_or(Errno::EINVAL)
    }

    /// Checks whether the caller may access the object at a path:
    /// [access(2)](https://man7.org/linux/man-pages/man2/access.2.html), with the effective ids
    /// (`AT_EACCESS`).
    ///
    /// # Errors
    ///
    /// Those of access(2).
    pub fn access(&self, caller: &Caller, path: impl AsRef<Path>, wanted: Access) -> Result<()> {
        if wanted.bits() & !7 != 0 {
            return Err(Errno::EINVAL);
        }
        look_again(|| {
            self.view(caller, |view| {
                let walk = view.walk();
                let target = walk.resolve(bytes(path.as_ref()), true)?;
                walk.rights.check(&*walk.tree.inode(target.node)?, wanted)
            })
        })
    }

    /// Checks whether the caller may access a node.
    ///
    /// # Errors
    ///
    /// `EACCES` when it may not.
    pub fn access_node(&self, caller: &Caller, node: NodeId, wanted: Access) -> Result<()> {
        self.view(caller, |view| {
            let walk = view.walk();
            walk.rights.check(&*walk.tree.inode(node)?, wanted)
        })
    }

    /// Returns a canonical path of the node: one of several for a file with hard links, and `None`
    /// when no name leads to it or it lies too deep for a path (4,095 bytes).
    #[must_use]
    pub fn path_of(&self, node: NodeId) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStringExt as _;
        let state = self.inner.read();
        if node == NodeId::ROOT {
            return Some(PathBuf::from("/"));
        }
        let inode = state.tree.inode(node).ok()?;
        let (dir, name) = inode.names.first()?;
        let path = state.tree.path_in(dir, name)?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
    }

    /// Returns what the branch can hold:
    /// [statfs(2)](https://man7.org/linux/man-pages/man2/statfs.2.html). In a store that is what the
    /// store's disk has, or the store may take, unless the limit or the quota of the branch is nearer; in
    /// memory it is the limit.
    #[must_use]
    pub fn statfs(&self) -> StatFs {
        let state = self.inner.read();
        let limits = &state.tree.shared.config.limits;
        let files = state.tree.inodes().len() as u64;
        let pages = state.tree.pages();
        let mut blocks = limits.bytes / PAGE;
        let mut blocks_free = blocks.saturating_sub(pages);
        if let Some(usage) = self.core.usage() {
            blocks = usage.size() / PAGE;
            blocks_free = blocks_free.min(usage.left() / PAGE);
        }
        if let Some(quota) = state.tree.quota() {
            blocks = blocks.min(quota);
            blocks_free = blocks_free.min(quota.saturating_sub(pages));
        }
        StatFs {
            block_size: 4096,
            blocks,
            blocks_free,
            files: limits.nodes,
            files_free: limits.nodes.saturating_sub(files),
            name_max: limits.name_length,
        }
    }
}

fn attr(walk: Walk<'_>, node: NodeId) -> Result<Attr> {
    Ok(walk.tree.inode(node)?.attr(node))
}
