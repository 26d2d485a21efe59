//! Setting attributes: chmod, chown, utimens, as `notify_change` of Linux's `fs/attr.c` does.

use std::path::Path;

use super::bytes;
use crate::branch::Branch;
use crate::branch::transaction::{Effect, Txn};
use crate::model::attr::{Attr, SETGID, SetAttr, SetTime};
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Attributes, Change, ObjectKind};
use crate::model::flags::Access;
use crate::model::id::NodeId;
use crate::ops::walk::Target;
use crate::store::handles::HandleId;
use crate::store::inode::Inode;

/// Returns what setting these attributes does: a size needs no room, and may give some back.
fn effect_of(set: &SetAttr) -> Effect {
    match set.size {
        Some(_) => Effect::Frees,
        None => Effect::Changes,
    }
}

impl Branch {
    /// Sets the permission bits: [chmod(2)](https://man7.org/linux/man-pages/man2/chmod.2.html).
    ///
    /// # Errors
    ///
    /// Those of chmod(2).
    pub fn chmod(&self, caller: &Caller, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        self.setattr(caller, path, true, &set).map(|_| ())
    }

    /// Sets the owner and the group:
    /// [chown(2)](https://man7.org/linux/man-pages/man2/chown.2.html). `None` leaves the id as it
    /// is.
    ///
    /// # Errors
    ///
    /// Those of chown(2).
    pub fn chown(
        &self,
        caller: &Caller,
        path: impl AsRef<Path>,
        follow: bool,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<()> {
        self.change(caller, |txn| {
            let target = txn.walk().resolve(bytes(path.as_ref()), follow)?;
            txn.chown(&target, uid, gid)
        })
    }

    /// Sets the times: [utimensat(2)](https://man7.org/linux/man-pages/man2/utimensat.2.html).
    /// `None` is `UTIME_OMIT`.
    ///
    /// # Errors
    ///
    /// Those of utimensat(2).
    pub fn utimens(
        &self,
        caller: &Caller,
        path: impl AsRef<Path>,
        follow: bool,
        atime: Option<SetTime>,
        mtime: Option<SetTime>,
    ) -> Result<()> {
        if atime.is_none() && mtime.is_none() {
            // The system call does not even look the path up then.
            return Ok(());
        }
        let set = SetAttr {
            atime,
            mtime,
            ..SetAttr::default()
        };
        self.setattr(caller, path, follow, &set).map(|_| ())
    }

    /// Sets any attributes of the object at a path.
    ///
    /// # Errors
    ///
    /// Those of the system call that sets it.
    pub fn setattr(
        &self,
        caller: &Caller,
        path: impl AsRef<Path>,
        follow: bool,
        set: &SetAttr,
    ) -> Result<Attr> {
        self.run(caller, effect_of(set), |txn| {
            let target = txn.walk().resolve(bytes(path.as_ref()), follow)?;
            txn.setattr(&target, None, set)
        })
    }

    /// Sets any attributes of a node. With a handle, the size is set as ftruncate(2) does.
    ///
    /// # Errors
    ///
    /// Those of the system call that sets it.
    pub fn setattr_node(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: Option<HandleId>,
        set: &SetAttr,
    ) -> Result<Attr> {
        self.run(caller, effect_of(set), |txn| {
            let mut target = txn.walk().target(node)?;
            if let Some(handle) = handle {
                let dentry = &txn.handle(handle)?.dentry;
                let named = dentry
                    .as_ref()
                    .map(|dentry| (dentry.parent, dentry.name.clone()));
                target.at = named.or(target.at);
            }
            txn.setattr(&target, handle, set)
        })
    }
}

impl Txn<'_> {
    fn setattr(
        &mut self,
        target: &Target,
        handle: Option<HandleId>,
        set: &SetAttr,
    ) -> Result<Attr> {
        let rest = SetAttr { size: None, ..*set };
        if rest != SetAttr::default() {
            self.check_setattr(target, &rest)?;
        }
        if let Some(size) = set.size {
            match handle {
                Some(handle) => self.ftruncate(handle, size)?,
                None => self.truncate(target, size)?,
            }
        }
        if rest != SetAttr::default() {
            self.commit_setattr(target, &rest)?;
        }
        Ok(self.tree.inode(target.node)?.attr(target.node))
    }

    /// Checks that the caller may set the attributes (`setattr_prepare`).
    fn check_setattr(&mut self, target: &Target, set: &SetAttr) -> Result<()> {
        let inode = self.tree.inode(target.node)?;
        let rights = self.walk().rights;
        let caller = self.caller;
        if target.kind == ObjectKind::Symlink && set.mode.is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        let owns = caller.uid == inode.uid;
        if !rights.is_privileged() {
            let uid_ok = set.uid.is_none_or(|uid| owns && uid == inode.uid);
            let gid_ok = set
                .gid
                .is_none_or(|gid| owns && (gid == inode.gid || caller.is_in_group(gid)));
            if !uid_ok || !gid_ok || (set.mode.is_some() && !owns) {
                return Err(Errno::EPERM);
            }
            check_times(rights, &inode, set)?;
        }
        self.copy_up_whole(target.node)
    }

    fn commit_setattr(&mut self, target: &Target, set: &SetAttr) -> Result<()> {
        let now = self.now;
        let mode = {
            let inode = self.tree.inode(target.node)?;
            self.new_mode(&inode, set)
        };
        let time = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::To(moment) => moment,
        };
        let inode = self.tree.inode_mut(target.node)?;
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        inode.mode = mode;
        inode.times.atime = set.atime.map_or(inode.times.atime, time);
        inode.times.mtime = set.mtime.map_or(inode.times.mtime, time);
        inode.times.ctime = now;
        self.emit_attributes(
            target,
            Attributes {
                mode: set.mode.is_some(),
                owner: set.uid.is_some() || set.gid.is_some(),
                atime: set.atime.is_some(),
                mtime: set.mtime.is_some(),
            },
        )
    }

    /// Returns the mode after this call. A chown of an executable object removes setuid and setgid,
    /// and only members of the group may set setgid.
    fn new_mode(&self, inode: &Inode, set: &SetAttr) -> u32 {
        let rights = self.walk().rights;
        let group = set.gid.unwrap_or(inode.gid);
        match set.mode {
            Some(mode) if rights.may_set_group_id(group) => mode & 0o7777,
            Some(mode) => mode & 0o7777 & !SETGID,
            None if set.uid.is_some() || set.gid.is_some() => self.mode_after_chown(inode, group),
            None => inode.mode,
        }
    }

    /// Returns the mode after a chown, which removes setuid and setgid, except from directories
    /// (`chown_common`).
    fn mode_after_chown(&self, inode: &Inode, group: u32) -> u32 {
        let rights = self.walk().rights;
        if inode.is_dir() {
            return inode.mode;
        }
        let mode = rights.without_set_ids(inode);
        if mode != inode.mode && !rights.may_set_group_id(group) {
            mode & !SETGID
        } else {
            mode
        }
    }

    /// Sets the owner and the group. Even when both stay, chown(2) removes setuid and setgid, and
    /// emits an event.
    fn chown(&mut self, target: &Target, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let set = SetAttr {
            uid,
            gid,
            ..SetAttr::default()
        };
        self.check_setattr(target, &set)?;
        let now = self.now;
        let mode = {
            let inode = self.tree.inode(target.node)?;
            let mode = self.mode_after_chown(&inode, gid.unwrap_or(inode.gid));
            if mode != inode.mode && !self.walk().rights.owns(&inode) {
                return Err(Errno::EPERM);
            }
            mode
        };
        let inode = self.tree.inode_mut(target.node)?;
        inode.uid = uid.unwrap_or(inode.uid);
        inode.gid = gid.unwrap_or(inode.gid);
        inode.mode = mode;
        inode.times.ctime = now;
        self.emit_attributes(
            target,
            Attributes {
                owner: true,
                ..Attributes::default()
            },
        )
    }

    fn emit_attributes(&self, target: &Target, set: Attributes) -> Result<()> {
        self.emit(|txn| {
            Ok(Change::Attributes {
                node: txn.node_ref(target.node)?,
                at: txn.place_of(target),
                set,
            })
        })
    }
}

/// Checks that the caller may set the times. Only the owner may set any moment; every caller with
/// write access may set both times to "now".
fn check_times(rights: crate::ops::perm::Rights<'_>, inode: &Inode, set: &SetAttr) -> Result<()> {
    let times = [set.atime, set.mtime];
    if times == [None, None] || rights.owns(inode) {
        return Ok(());
    }
    if times == [Some(SetTime::Now); 2] {
        return rights.check(inode, Access::WRITE);
    }
    Err(Errno::EPERM)
}
