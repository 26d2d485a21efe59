//! Who may do what: `fs/namei.c` and `fs/attr.c` of Linux, without ACLs: those of the host are in the
//! mode that is shown (`lower/acl.rs`).

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

    /// Whether rights are checked at all.
    pub(crate) fn is_enforced(self) -> bool {
        self.enforce
    }

    /// Whether the caller can do everything that the superuser can.
    pub(crate) fn is_privileged(self) -> bool {
        !self.enforce || self.caller.is_root()
    }

    /// `generic_permission`.
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

    /// Whether entries of `dir` may be added or taken away.
    pub(crate) fn change_dir(self, dir: &Inode) -> Result<()> {
        self.check(dir, Access::WRITE | Access::EXECUTE)
    }

    /// `may_delete`: whether this entry of `dir` may be taken away.
    pub(crate) fn remove(self, dir: &Inode, victim: &Inode) -> Result<()> {
        self.change_dir(dir)?;
        let sticky = dir.mode & STICKY != 0;
        if sticky && !self.owns(victim) && !self.owns(dir) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// `inode_owner_or_capable`.
    pub(crate) fn owns(self, inode: &Inode) -> bool {
        self.is_privileged() || self.caller.uid == inode.uid
    }

    /// `in_group_or_capable`.
    pub(crate) fn may_set_group_id(self, gid: u32) -> bool {
        self.is_privileged() || self.caller.is_in_group(gid)
    }

    /// The mode after a write or truncate by this caller: setuid and setgid go, unless the caller is
    /// privileged (`setattr_should_drop_suidgid`).
    pub(crate) fn mode_after_write(self, inode: &Inode) -> u32 {
        if self.caller.is_root() {
            return inode.mode;
        }
        self.without_set_ids(inode)
    }

    /// The mode without setuid, and without setgid where that means "run as this group".
    pub(crate) fn without_set_ids(self, inode: &Inode) -> u32 {
        let mode = inode.mode & !SETUID;
        let runs_as_group = inode.mode & GROUP_EXECUTE != 0;
        // FUSE leaves this to the filesystem (`FUSE_HANDLE_KILLPRIV_V2`), but without telling the
        // caller's further groups: then the bit goes too often rather than too seldom.
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
