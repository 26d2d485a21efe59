//! Extended attributes: `fs/xattr.c` of Linux over tmpfs, which has `user.`, `trusted.` and
//! `security.`, and no ACLs.

use std::path::Path;
use std::sync::Arc;

use super::bytes;
use crate::branch::Branch;
use crate::branch::transaction::Txn;
use crate::model::attr::STICKY;
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Change, ObjectKind};
use crate::model::flags::{Access, XattrFlags};
use crate::model::id::NodeId;
use crate::ops::walk::{Target, Walk};
use crate::store::inode::Inode;

/// Linux's limits (`XATTR_NAME_MAX`, `XATTR_SIZE_MAX`).
const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 1 << 16;
/// Bytes of all names and values of one object. Linux's filesystems have such limits, too.
const MAX_ALL: usize = 1 << 20;

impl Branch {
    /// setxattr(2), or lsetxattr(2) when `follow` is false.
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn setxattr(
        &self,
        caller: &Caller,
        path: impl AsRef<Path>,
        follow: bool,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        self.change(caller, |txn| {
            check_value(name, value, flags)?;
            let target = txn.walk().resolve(bytes(path.as_ref()), follow)?;
            txn.setxattr(&target, name, value, flags)
        })
    }

    /// setxattr(2) of a node.
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn setxattr_node(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        self.change(caller, |txn| {
            let target = txn.walk().target(node)?;
            txn.setxattr(&target, name, value, flags)
        })
    }

    /// getxattr(2), or lgetxattr(2) when `follow` is false. The length of the caller's buffer, and
    /// so `ERANGE` for one too small, is the caller's matter.
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn getxattr(
        &self,
        caller: &Caller,
        path: impl AsRef<Path>,
        follow: bool,
        name: &[u8],
    ) -> Result<Arc<[u8]>> {
        self.view(caller, |view| {
            check_name(name)?;
            let target = view.walk().resolve(bytes(path.as_ref()), follow)?;
            get(view.walk(), target.node, name)
        })
    }

    /// getxattr(2) of a node.
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn getxattr_node(&self, caller: &Caller, node: NodeId, name: &[u8]) -> Result<Arc<[u8]>> {
        self.view(caller, |view| get(view.walk(), node, name))
    }

    /// listxattr(2), or llistxattr(2) when `follow` is false: the names.
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn listxattr(
        &self,
        caller: &Caller,
        path: impl AsRef<Path>,
        follow: bool,
    ) -> Result<Vec<Box<[u8]>>> {
        self.view(caller, |view| {
            let target = view.walk().resolve(bytes(path.as_ref()), follow)?;
            names(view.walk(), target.node)
        })
    }

    /// listxattr(2) of a node: the names.
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn listxattr_node(&self, caller: &Caller, node: NodeId) -> Result<Vec<Box<[u8]>>> {
        self.view(caller, |view| names(view.walk(), node))
    }

    /// removexattr(2), or lremovexattr(2) when `follow` is false.
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn removexattr(
        &self,
        caller: &Caller,
        path: impl AsRef<Path>,
        follow: bool,
        name: &[u8],
    ) -> Result<()> {
        self.change(caller, |txn| {
            check_name(name)?;
            let target = txn.walk().resolve(bytes(path.as_ref()), follow)?;
            txn.removexattr(&target, name)
        })
    }

    /// removexattr(2) of a node.
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn removexattr_node(&self, caller: &Caller, node: NodeId, name: &[u8]) -> Result<()> {
        self.change(caller, |txn| {
            let target = txn.walk().target(node)?;
            txn.removexattr(&target, name)
        })
    }
}

impl Txn<'_> {
    fn setxattr(
        &mut self,
        target: &Target,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        check_value(name, value, flags)?;
        let inode = self.tree.inode(target.node)?;
        may_write(self.walk(), &inode, name)?;
        let exists = self.has_xattr(target.node, &inode, name)?;
        if exists && flags.contains(XattrFlags::CREATE) {
            return Err(Errno::EEXIST);
        }
        if !exists && flags.contains(XattrFlags::REPLACE) {
            return Err(Errno::ENODATA);
        }
        self.room_for_xattr(target.node, &inode, name, value)?;
        self.copy_up(target.node)?;
        let now = self.now;
        let inode = self.tree.inode_mut(target.node)?;
        inode.times.ctime = now;
        let all = inode.xattrs.get_or_insert_default();
        Arc::make_mut(all).insert(name.into(), value.into());
        self.emit_xattr(target, false)
    }

    fn removexattr(&mut self, target: &Target, name: &[u8]) -> Result<()> {
        check_name(name)?;
        let inode = self.tree.inode(target.node)?;
        may_write(self.walk(), &inode, name)?;
        if !self.has_xattr(target.node, &inode, name)? {
            return Err(Errno::ENODATA);
        }
        self.copy_up(target.node)?;
        let now = self.now;
        let inode = self.tree.inode_mut(target.node)?;
        inode.times.ctime = now;
        if let Some(all) = &mut inode.xattrs {
            let all = Arc::make_mut(all);
            all.remove(name);
            if all.is_empty() {
                inode.xattrs = None;
            }
        }
        self.emit_xattr(target, true)
    }

    fn has_xattr(&self, node: NodeId, inode: &Inode, name: &[u8]) -> Result<bool> {
        let all = self.tree.xattrs(node, inode)?;
        Ok(all.is_some_and(|all| all.contains_key(name)))
    }

    fn room_for_xattr(&self, node: NodeId, inode: &Inode, name: &[u8], value: &[u8]) -> Result<()> {
        let all = self.tree.xattrs(node, inode)?;
        let others = all.iter().flat_map(|all| all.iter());
        let others = others.filter(|(other, _)| ***other != *name);
        let taken: usize = others.map(|(name, value)| name.len() + value.len()).sum();
        if taken + name.len() + value.len() > MAX_ALL {
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    fn emit_xattr(&self, target: &Target, removed: bool) -> Result<()> {
        self.emit(|txn| {
            Ok(Change::Xattr {
                node: txn.node_ref(target.node)?,
                at: txn.place_of(target),
                removed,
            })
        })
    }
}

/// `setxattr_copy`: what is refused before the path is looked at.
fn check_value(name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
    let known = XattrFlags::CREATE | XattrFlags::REPLACE;
    if !known.contains(flags) {
        return Err(Errno::EINVAL);
    }
    check_name(name)?;
    if value.len() > MAX_VALUE {
        return Err(Errno::E2BIG);
    }
    Ok(())
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Errno::ERANGE);
    }
    Ok(())
}

/// Which part of the name space a name belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    User,
    Trusted,
    Security,
    /// Includes `system.`, where ACLs would be.
    Unknown,
}

fn space(name: &[u8]) -> Space {
    if name.starts_with(b"user.") {
        Space::User
    } else if name.starts_with(b"trusted.") {
        Space::Trusted
    } else if name.starts_with(b"security.") {
        Space::Security
    } else {
        Space::Unknown
    }
}

/// `xattr_resolve_name`: a known prefix, with something after it.
fn resolve(name: &[u8]) -> Result<()> {
    match space(name) {
        Space::Unknown => Err(Errno::EOPNOTSUPP),
        Space::User | Space::Trusted | Space::Security if is_bare(name) => Err(Errno::EINVAL),
        Space::User | Space::Trusted | Space::Security => Ok(()),
    }
}

/// Whether nothing follows the prefix.
fn is_bare(name: &[u8]) -> bool {
    name.iter().position(|byte| *byte == b'.') == Some(name.len() - 1)
}

/// Whether objects of that kind have `user.` attributes.
fn has_user_xattrs(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::File | ObjectKind::Directory)
}

/// `xattr_permission` for writing, and `cap_inode_setxattr`.
fn may_write(walk: Walk<'_>, inode: &Inode, name: &[u8]) -> Result<()> {
    let rights = walk.rights;
    match space(name) {
        Space::Security | Space::Trusted if !rights.is_privileged() => return Err(Errno::EPERM),
        Space::Security => {}
        Space::Unknown if name.starts_with(b"system.") => {}
        Space::User if !has_user_xattrs(inode.kind()) => return Err(Errno::EPERM),
        Space::User if inode.is_dir() && inode.mode & STICKY != 0 && !rights.owns(inode) => {
            return Err(Errno::EPERM);
        }
        Space::User | Space::Trusted | Space::Unknown => rights.check(inode, Access::WRITE)?,
    }
    resolve(name)
}

/// `xattr_permission` for reading, then the value.
fn get(walk: Walk<'_>, node: NodeId, name: &[u8]) -> Result<Arc<[u8]>> {
    check_name(name)?;
    let inode = walk.tree.inode(node)?;
    match space(name) {
        Space::Security => {}
        Space::Unknown if name.starts_with(b"system.") => {}
        Space::Trusted if !walk.rights.is_privileged() => return Err(Errno::ENODATA),
        Space::User if !has_user_xattrs(inode.kind()) => return Err(Errno::ENODATA),
        Space::User | Space::Trusted | Space::Unknown => {
            walk.rights.check(&inode, Access::READ)?;
        }
    }
    resolve(name)?;
    let all = walk.tree.xattrs(node, &inode)?;
    all.and_then(|all| all.get(name).cloned())
        .ok_or(Errno::ENODATA)
}

fn names(walk: Walk<'_>, node: NodeId) -> Result<Vec<Box<[u8]>>> {
    let inode = walk.tree.inode(node)?;
    let all = walk.tree.xattrs(node, &inode)?;
    let names = all.iter().flat_map(|all| all.keys());
    let shown = names.filter(|name| walk.rights.is_privileged() || space(name) != Space::Trusted);
    Ok(shown.cloned().collect())
}
