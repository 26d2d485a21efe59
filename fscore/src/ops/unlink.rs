//! unlink and rmdir.

use std::path::Path;

use super::bytes;
use crate::branch::Branch;
use crate::branch::transaction::Txn;
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::Change;
use crate::model::id::NodeId;
use crate::model::names::Found;
use crate::ops::walk::{EntryName, Last};

impl Branch {
    /// unlink(2).
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn unlink(&self, caller: &Caller, path: impl AsRef<Path>) -> Result<()> {
        self.change(caller, |txn| {
            let entry = txn
                .walk()
                .parent(bytes(path.as_ref()))?
                .entry(Errno::EISDIR)?;
            txn.unlink(entry)
        })
    }

    /// unlinkat(2).
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn unlink_at(&self, caller: &Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.change(caller, |txn| {
            txn.unlink(EntryName::new(parent, name, Errno::EISDIR)?)
        })
    }

    /// rmdir(2).
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn rmdir(&self, caller: &Caller, path: impl AsRef<Path>) -> Result<()> {
        self.change(caller, |txn| {
            let parent = txn.walk().parent(bytes(path.as_ref()))?;
            let entry = parent.entry(match parent.last {
                Last::Dot => Errno::EINVAL,
                Last::DotDot => Errno::ENOTEMPTY,
                Last::Root | Last::Name(_) => Errno::EBUSY,
            })?;
            txn.rmdir(entry)
        })
    }

    /// unlinkat(2) with `AT_REMOVEDIR`.
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn rmdir_at(&self, caller: &Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.change(caller, |txn| {
            txn.rmdir(EntryName::new(parent, name, Errno::EINVAL)?)
        })
    }
}

impl Txn<'_> {
    fn unlink(&mut self, entry: EntryName<'_>) -> Result<()> {
        let found = self.walk().lookup_at(entry)?.ok_or(Errno::ENOENT)?;
        if entry.slash {
            return Err(if found.kind.is_dir() {
                Errno::EISDIR
            } else {
                Errno::ENOTDIR
            });
        }
        self.may_remove(entry.dir, found.node)?;
        if found.kind.is_dir() {
            return Err(Errno::EISDIR);
        }
        let whiteout = self.prepare_removal(entry.dir, &found)?;

        self.drop_name(entry.dir, &found, whiteout)?;
        let now = self.now;
        let inode = self.tree.inode_mut(found.node)?;
        inode.nlink = inode.nlink.saturating_sub(1);
        inode.times.ctime = now;

        self.emit_removed(entry.dir, &found)?;
        self.drop_if_gone(found.node)
    }

    fn rmdir(&mut self, entry: EntryName<'_>) -> Result<()> {
        let found = self.walk().lookup_at(entry)?.ok_or(Errno::ENOENT)?;
        self.may_remove(entry.dir, found.node)?;
        if !found.kind.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let victim = self.tree.inode(found.node)?;
        if !self.tree.is_empty_dir(found.node, &victim)? {
            return Err(Errno::ENOTEMPTY);
        }
        let whiteout = self.prepare_removal(entry.dir, &found)?;

        self.drop_name(entry.dir, &found, whiteout)?;
        let now = self.now;
        let inode = self.tree.inode_mut(found.node)?;
        inode.nlink = 0;
        inode.times.ctime = now;
        let parent = self.tree.inode_mut(entry.dir)?;
        parent.nlink = parent.nlink.saturating_sub(1);

        self.forget_dir_path(found.node);
        self.emit_removed(entry.dir, &found)?;
        self.drop_if_gone(found.node)
    }

    /// `may_delete` without the question for the kind.
    pub(crate) fn may_remove(&self, dir: NodeId, victim: NodeId) -> Result<()> {
        let dir = self.tree.inode(dir)?;
        let victim = self.tree.inode(victim)?;
        self.walk().rights.remove(&dir, &victim)
    }

    /// What taking a name away needs of the lower layer; gives whether it leaves a whiteout.
    pub(crate) fn prepare_removal(&mut self, dir: NodeId, found: &Found) -> Result<bool> {
        let whiteout = self.tree.needs_whiteout(dir, &found.name)?;
        self.copy_up(dir)?;
        self.copy_up(found.node)?;
        Ok(whiteout)
    }

    /// Takes the name out of the directory, off the object, and from the handles opened by it.
    pub(crate) fn drop_name(&mut self, dir: NodeId, found: &Found, whiteout: bool) -> Result<()> {
        self.detach_handles(found.node, dir, &found.name);
        self.tree.remove_entry(dir, &found.name, whiteout)?;
        let now = self.now;
        self.tree.inode_mut(dir)?.touch(now);
        let inode = self.tree.inode_mut(found.node)?;
        inode.names.remove(dir, &found.name);
        Ok(())
    }

    fn emit_removed(&self, dir: NodeId, found: &Found) -> Result<()> {
        self.emit(|txn| {
            Ok(Change::Removed {
                node: txn.node_ref(found.node)?,
                at: txn.place(dir, &found.name),
            })
        })
    }
}
