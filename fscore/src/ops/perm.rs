//! Permissions, as in `fs/namei.c` and `fs/attr.c` of Linux, but without ACLs. What ACLs of the
//! host take away is missing in the mode that is shown (`lower/acl.rs`).

use crate::model::attr::{GROUP_EXECUTE, SETGID, SETUID, STICKY};
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::flags::Access;
use crate::store::inode::Inode;
use crate::store::tree::Tree;

/// The caller's rights in one tree.
#[derive(Clone, Copy)]
pub(crate) struct Rights<'a> {
    pub(crate) caller: &'a Caller,
    enforce: bool,
}

impl<'a> Rights<'a> {
    pub(crate) fn new(tree: &Tree, caller: &'a Caller) -> Self {
        Self {
            caller,
            enforce: tree.shared.config.permissions.enforce && !caller.behind_kernel,
        }
    }

    /// Returns whether rights are checked at all.
    pub(crate) fn is_enforced(self) -> bool {
        self.enforce
    }

    /// Returns whether the caller may do everything that the superuser may.
    pub(crate) fn is_privileged(self) -> bool {
        !self.enforce || self.caller.is_root()
    }

    /// Checks that the caller has the access that is wanted (`generic_permission`).
    pub(crate) fn check(self, inode: &Inode, wanted: Access) -> Result<()> {
        if !self.enforce {
            return Ok(());
        }
        let wanted = wanted.bits();
        if self.caller.is_root() {
            let executable = inode.is_dir() || inode.mode & 0o111 != 0;
            let refused = wanted & Access::EXECUTE.bits() != 0 && !executable;
            return if refused { Err(Errno::EACCES) } else { Ok(()) };
        }
        let shift = if self.caller.uid == inode.uid {
            6
        } else if self.caller.is_in_group(inode.gid) {
            3
        } else {
            0
        };
        if wanted & !(inode.mode >> shift) & 7 != 0 {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// Checks that the caller may add and remove entries of `dir`.
    pub(crate) fn change_dir(self, dir: &Inode) -> Result<()> {
        self.check(dir, Access::WRITE | Access::EXECUTE)
    }

    /// Checks that the caller may remove this entry of `dir` (`may_delete`).
    pub(crate) fn remove(self, dir: &Inode, victim: &Inode) -> Result<()> {
        self.change_dir(dir)?;
        let sticky = dir.mode & STICKY != 0;
        if sticky && !self.owns(victim) && !self.owns(dir) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// Returns whether the caller owns the object, or counts as its owner
    /// (`inode_owner_or_capable`).
    pub(crate) fn owns(self, inode: &Inode) -> bool {
        self.is_privileged() || self.caller.uid == inode.uid
    }

    /// Returns whether the caller may set a group id, being in the group or privileged
    /// (`in_group_or_capable`).
    pub(crate) fn may_set_group_id(self, gid: u32) -> bool {
        self.is_privileged() || self.caller.is_in_group(gid)
    }

    /// Returns the mode after a write or truncate by this caller. Setuid and setgid are removed,
    /// unless the caller is privileged (`setattr_should_drop_suidgid`).
    pub(crate) fn mode_after_write(self, inode: &Inode) -> u32 {
        if self.caller.is_root() {
            return inode.mode;
        }
        self.without_set_ids(inode)
    }

    /// Returns the mode without setuid, and without setgid where that means "run as this group".
    pub(crate) fn without_set_ids(self, inode: &Inode) -> u32 {
        let mode = inode.mode & !SETUID;
        let runs_as_group = inode.mode & GROUP_EXECUTE != 0;
        // FUSE leaves this to the filesystem (`FUSE_HANDLE_KILLPRIV_V2`), but does not pass the
        // caller's supplementary groups. So the bit is removed too often rather than too seldom.
        let is_member = if self.caller.behind_kernel {
            self.caller.is_root() || self.caller.is_in_group(inode.gid)
        } else {
            self.may_set_group_id(inode.gid)
        };
        if runs_as_group || !is_member {
            mode & !SETGID
        } else {
            mode
        }
    }
}
