//! Removing names: unlink and rmdir.

use std::path::Path;

use super::bytes;
use crate::branch::Branch;
use crate::branch::transaction::{Effect, Txn};
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::Change;
use crate::model::id::NodeId;
use crate::model::names::Found;
use crate::ops::walk::{EntryName, Last};

impl Branch {
    /// Removes a name of an object that is no directory:
    /// [unlink(2)](https://man7.org/linux/man-pages/man2/unlink.2.html).
    ///
    /// # Errors
    ///
    /// Those of unlink(2).
    pub fn unlink(&self, caller: &Caller, path: impl AsRef<Path>) -> Result<()> {
        self.run(caller, Effect::Frees, |txn| {
            let entry = txn
                .walk()
                .parent(bytes(path.as_ref()))?
                .entry(Errno::EISDIR)?;
            txn.unlink(entry)
        })
    }

    /// Removes a name in a directory: unlinkat(2).
    ///
    /// # Errors
    ///
    /// Those of unlinkat(2).
    pub fn unlink_at(&self, caller: &Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.run(caller, Effect::Frees, |txn| {
            txn.unlink(EntryName::new(parent, name, Errno::EISDIR)?)
        })
    }

    /// Removes an empty directory: [rmdir(2)](https://man7.org/linux/man-pages/man2/rmdir.2.html).
    ///
    /// # Errors
    ///
    /// Those of rmdir(2).
    pub fn rmdir(&self, caller: &Caller, path: impl AsRef<Path>) -> Result<()> {
        self.run(caller, Effect::Frees, |txn| {
            let parent = txn.walk().parent(bytes(path.as_ref()))?;
            let entry = parent.entry(match parent.last {
                Last::Dot => Errno::EINVAL,
                Last::DotDot => Errno::ENOTEMPTY,
                Last::Root | Last::Name(_) => Errno::EBUSY,
            })?;
            txn.rmdir(entry)
        })
    }

    /// Removes an empty directory by its name in another one: unlinkat(2) with `AT_REMOVEDIR`.
    ///
    /// # Errors
    ///
    /// Those of unlinkat(2).
    pub fn rmdir_at(&self, caller: &Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.run(caller, Effect::Frees, |txn| {
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

    /// Checks that the caller may remove the name (`may_delete`, without its check of the kind).
    pub(crate) fn may_remove(&self, dir: NodeId, victim: NodeId) -> Result<()> {
        let dir = self.tree.inode(dir)?;
        let victim = self.tree.inode(victim)?;
        self.walk().rights.remove(&dir, &victim)
    }

    /// Copies up what removing a name changes; returns whether the name leaves a whiteout.
    pub(crate) fn prepare_removal(&mut self, dir: NodeId, found: &Found) -> Result<bool> {
        let whiteout = self.tree.needs_whiteout(dir, &found.name)?;
        self.copy_up(dir)?;
        self.copy_up(found.node)?;
        Ok(whiteout)
    }

    /// Removes the name from the directory, from the object, and from the handles that were opened
    /// by it.
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
