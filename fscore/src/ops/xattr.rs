//! Extended attributes, as `fs/xattr.c` of Linux has them over tmpfs: `user.`, `trusted.` and
//! `security.`, and no ACLs.

use std::path::Path;
use std::sync::Arc;

use super::{bytes, look_again};
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
/// The most bytes of all names and values of one object, which the log writes again with each change of
/// its metadata. Linux's filesystems have such limits, too.
const MAX_ALL: usize = 128 << 10;

impl Branch {
    /// Sets an attribute: [setxattr(2)](https://man7.org/linux/man-pages/man2/setxattr.2.html), or
    /// lsetxattr(2) when `follow` is false.
    ///
    /// # Errors
    ///
    /// Those of setxattr(2).
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

    /// Sets an attribute of a node: setxattr(2).
    ///
    /// # Errors
    ///
    /// Those of setxattr(2).
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

    /// Returns the value of an attribute:
    /// [getxattr(2)](https://man7.org/linux/man-pages/man2/getxattr.2.html), or lgetxattr(2) when
    /// `follow` is false. The caller compares its length with its own buffer, and returns `ERANGE`
    /// itself.
    ///
    /// # Errors
    ///
    /// Those of getxattr(2).
    pub fn getxattr(
        &self,
        caller: &Caller,
        path: impl AsRef<Path>,
        follow: bool,
        name: &[u8],
    ) -> Result<Arc<[u8]>> {
        look_again(|| {
            self.view(caller, |view| {
                check_name(name)?;
                let target = view.walk().resolve(bytes(path.as_ref()), follow)?;
                get(view.walk(), target.node, name)
            })
        })
    }

    /// Returns the value of an attribute of a node: getxattr(2).
    ///
    /// # Errors
    ///
    /// Those of getxattr(2).
    pub fn getxattr_node(&self, caller: &Caller, node: NodeId, name: &[u8]) -> Result<Arc<[u8]>> {
        self.view(caller, |view| get(view.walk(), node, name))
    }

    /// Returns the names of the attributes:
    /// [listxattr(2)](https://man7.org/linux/man-pages/man2/listxattr.2.html), or llistxattr(2)
    /// when `follow` is false.
    ///
    /// # Errors
    ///
    /// Those of listxattr(2).
    pub fn listxattr(
        &self,
        caller: &Caller,
        path: impl AsRef<Path>,
        follow: bool,
    ) -> Result<Vec<Box<[u8]>>> {
        look_again(|| {
            self.view(caller, |view| {
                let target = view.walk().resolve(bytes(path.as_ref()), follow)?;
                names(view.walk(), target.node)
            })
        })
    }

    /// Returns the names of the attributes of a node: listxattr(2).
    ///
    /// # Errors
    ///
    /// Those of listxattr(2).
    pub fn listxattr_node(&self, caller: &Caller, node: NodeId) -> Result<Vec<Box<[u8]>>> {
        self.view(caller, |view| names(view.walk(), node))
    }

    /// Removes an attribute:
    /// [removexattr(2)](https://man7.org/linux/man-pages/man2/removexattr.2.html), or
    /// lremovexattr(2) when `follow` is false.
    ///
    /// # Errors
    ///
    /// Those of removexattr(2).
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

    /// Removes an attribute of a node: removexattr(2).
    ///
    /// # Errors
    ///
    /// Those of removexattr(2).
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
        self.copy_up_whole(target.node)?;
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
        self.copy_up_whole(target.node)?;
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

/// Refuses what is refused before the path is looked up (`setxattr_copy`).
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

/// The namespaces of attributes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    User,
    Trusted,
    Security,
    /// Any other, `system.` included, where ACLs would be.
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

/// Checks that a name has a known prefix and something after it (`xattr_resolve_name`).
fn resolve(name: &[u8]) -> Result<()> {
    match space(name) {
        Space::Unknown => Err(Errno::EOPNOTSUPP),
        Space::User | Space::Trusted | Space::Security if is_bare(name) => Err(Errno::EINVAL),
        Space::User | Space::Trusted | Space::Security => Ok(()),
    }
}

/// Returns whether nothing follows the prefix.
fn is_bare(name: &[u8]) -> bool {
    name.iter().position(|byte| *byte == b'.') == Some(name.len() - 1)
}

/// Returns whether objects of that kind have `user.` attributes.
fn has_user_xattrs(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::File | ObjectKind::Directory)
}

/// Checks that the caller may write an attribute (`xattr_permission` and `cap_inode_setxattr`).
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

/// Checks that the caller may read an attribute (`xattr_permission`), and returns its value.
fn get(walk: Walk<'_>, node: NodeId, name: &[u8]) -> Result<Arc<[u8]>> {
    check_name(name)?;
    let inode = walk.tree.inode_or_held(node)?;
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
    let inode = walk.tree.inode_or_held(node)?;
    let all = walk.tree.xattrs(node, &inode)?;
    let names = all.iter().flat_map(|all| all.keys());
    let shown = names.filter(|name| walk.rights.is_privileged() || space(name) != Space::Trusted);
    Ok(shown.cloned().collect())
}
