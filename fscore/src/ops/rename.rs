//! rename: `do_renameat2` and `vfs_rename` of Linux's `fs/namei.c`.

use std::path::Path;
use std::sync::Arc;

use super::bytes;
use crate::branch::Branch;
use crate::branch::transaction::Txn;
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Change, Name, RenameHow};
use crate::model::flags::{Access, RenameFlags};
use crate::model::id::NodeId;
use crate::model::names::Found;
use crate::ops::walk::{EntryName, Last, Parent};

impl Branch {
    /// Renames an object: [renameat2(2)](https://man7.org/linux/man-pages/man2/renameat2.2.html).
    ///
    /// # Errors
    ///
    /// Those of renameat2(2).
    pub fn rename(
        &self,
        caller: &Caller,
        old: impl AsRef<Path>,
        new: impl AsRef<Path>,
        flags: RenameFlags,
    ) -> Result<()> {
        self.change(caller, |txn| {
            check_flags(flags)?;
            let old = txn.walk().parent(bytes(old.as_ref()))?;
            let new = txn.walk().parent(bytes(new.as_ref()))?;
            let old = old.entry(Errno::EBUSY)?;
            let new = new.entry(taken(new, flags))?;
            txn.rename(old, new, flags)
        })
    }

    /// Renames an object by its name in a directory: renameat2(2).
    ///
    /// # Errors
    ///
    /// Those of renameat2(2).
    pub fn rename_at(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        new_parent: NodeId,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        self.change(caller, |txn| {
            check_flags(flags)?;
            let old = EntryName::new(parent, name, Errno::EBUSY)?;
            let new = EntryName::new(new_parent, new_name, Errno::EBUSY)?;
            txn.rename(old, new, flags)
        })
    }
}

fn check_flags(flags: RenameFlags) -> Result<()> {
    let known = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
    if !known.contains(flags) || flags == known {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Returns the error for a new name that is `.`, `..` or the root.
fn taken(new: Parent<'_>, flags: RenameFlags) -> Errno {
    let is_name = matches!(new.last, Last::Name(_));
    if !is_name && flags.contains(RenameFlags::NOREPLACE) {
        Errno::EEXIST
    } else {
        Errno::EBUSY
    }
}

/// A rename as it is asked for, with what the names lead to.
struct Request<'n> {
    old: EntryName<'n>,
    new: EntryName<'n>,
    source: Found,
    /// What the new name leads to.
    target: Option<Found>,
    /// Whether source and target change places.
    exchange: bool,
}

impl Request<'_> {
    /// Checks that only directories are named with a slash at the end.
    fn check_slashes(&self) -> Result<()> {
        let target = self.target.as_ref();
        let target_is_dir = target.is_some_and(|found| found.kind.is_dir());
        let source_is_dir = self.source.kind.is_dir();
        // Both the object that will have the new name and the one that will have the old name
        // count.
        let old_bad = self.old.slash && !source_is_dir;
        let new_bad = self.new.slash
            && !if self.exchange {
                target_is_dir
            } else {
                source_is_dir
            };
        let bad = old_bad || new_bad;
        if bad { Err(Errno::ENOTDIR) } else { Ok(()) }
    }
}

/// A rename that was found to be possible.
struct Move {
    from: NodeId,
    to: NodeId,
    old: Found,
    new_name: Name,
    /// What the new name leads to.
    target: Option<Found>,
}

impl Txn<'_> {
    fn rename(&mut self, old: EntryName<'_>, new: EntryName<'_>, flags: RenameFlags) -> Result<()> {
        let Some(plan) = self.plan(old, new, flags)? else {
            return Ok(());
        };
        if flags.contains(RenameFlags::EXCHANGE) {
            if let Some(other) = plan.target.clone() {
                self.exchange(&plan, &other)?;
            }
            return Ok(());
        }
        self.move_name(&plan)
    }

    /// Validates a rename. Returns `None` for one that succeeds without a change, because both
    /// names lead to one object.
    fn plan(
        &mut self,
        old: EntryName<'_>,
        new: EntryName<'_>,
        flags: RenameFlags,
    ) -> Result<Option<Move>> {
        let mut request = Request {
            source: self.walk().lookup_at(old)?.ok_or(Errno::ENOENT)?,
            target: self.walk().lookup_at(new)?,
            exchange: flags.contains(RenameFlags::EXCHANGE),
            old,
            new,
        };
        if flags.contains(RenameFlags::NOREPLACE) && request.target.is_some() {
            return Err(Errno::EEXIST);
        }
        if request.exchange && request.target.is_none() {
            return Err(Errno::ENOENT);
        }
        request.check_slashes()?;
        self.check_loops(&request)?;
        let source = &request.source;
        if let Some(found) = &request.target
            && found.node == source.node
        {
            // Only a case-insensitive directory has one entry under two spellings.
            let same_entry = old.dir == new.dir && found.name == source.name;
            if !same_entry || *source.name == *new.name {
                return Ok(None);
            }
            request.target = None;
        }
        self.check_rename_rights(&request)?;
        self.prepare_rename(&request)?;
        Ok(Some(Move {
            from: old.dir,
            to: new.dir,
            old: request.source,
            new_name: match &request.target {
                Some(found) if request.exchange => found.name.clone(),
                _ => Arc::from(new.name),
            },
            target: request.target,
        }))
    }

    /// Checks that neither object is moved into itself.
    fn check_loops(&self, request: &Request<'_>) -> Result<()> {
        let Request {
            old,
            new,
            source,
            target,
            ..
        } = request;
        let (target, exchange) = (target.as_ref(), request.exchange);
        if old.dir == new.dir {
            return Ok(());
        }
        let walk = self.walk();
        if source.kind.is_dir() && walk.is_above(source.node, new.dir)? {
            return Err(Errno::EINVAL);
        }
        if let Some(found) = target
            && found.kind.is_dir()
            && walk.is_above(found.node, old.dir)?
        {
            return Err(if exchange {
                Errno::EINVAL
            } else {
                Errno::ENOTEMPTY
            });
        }
        Ok(())
    }

    fn check_rename_rights(&self, request: &Request<'_>) -> Result<()> {
        let Request {
            old,
            new,
            source,
            target,
            ..
        } = request;
        let (target, exchange) = (target.as_ref(), request.exchange);
        self.may_remove(old.dir, source.node)?;
        let rights = self.walk().rights;
        let is_dir = source.kind.is_dir();
        match target {
            None => {
                let dir = self.tree.inode(new.dir)?;
                if dir.nlink == 0 {
                    return Err(Errno::ENOENT);
                }
                rights.change_dir(&dir)?;
            }
            Some(found) => {
                self.may_remove(new.dir, found.node)?;
                match (is_dir, found.kind.is_dir()) {
                    (true, false) if !exchange => return Err(Errno::ENOTDIR),
                    (false, true) if !exchange => return Err(Errno::EISDIR),
                    _ => {}
                }
            }
        }
        // A directory that changes its parent is written to, because its `..` changes.
        if old.dir != new.dir {
            if is_dir {
                rights.check(&*self.tree.inode(source.node)?, Access::WRITE)?;
            }
            if let Some(found) = target.filter(|found| exchange && found.kind.is_dir()) {
                rights.check(&*self.tree.inode(found.node)?, Access::WRITE)?;
            }
        }
        Ok(())
    }

    fn prepare_rename(&mut self, request: &Request<'_>) -> Result<()> {
        let Request {
            old,
            new,
            source,
            target,
            ..
        } = request;
        let (target, exchange) = (target.as_ref(), request.exchange);
        if let Some(found) = target {
            let inode = self.tree.inode(found.node)?;
            if !exchange && inode.is_dir() && !self.tree.is_empty_dir(found.node, &inode)? {
                return Err(Errno::ENOTEMPTY);
            }
        }
        let case = self.tree.shared.config.case_sensitivity;
        let dir = self.tree.inode(new.dir)?;
        if !dir.as_dir().is_some_and(|dir| dir.has_room(new.name, case)) {
            return Err(Errno::ENOSPC);
        }
        for node in [old.dir, new.dir] {
            self.copy_up(node)?;
        }
        self.copy_up_whole(source.node)?;
        match target {
            Some(found) if exchange => self.copy_up_whole(found.node),
            Some(found) => self.copy_up(found.node),
            None => Ok(()),
        }
    }

    fn move_name(&mut self, plan: &Move) -> Result<()> {
        let Move {
            from,
            to,
            old,
            new_name,
            target,
        } = plan;
        let whiteout = self.tree.needs_whiteout(*from, &old.name)?;
        if let Some(target) = target {
            self.replace(*to, target)?;
        }
        self.tree.remove_entry(*from, &old.name, whiteout)?;
        self.tree.set_entry(*to, new_name, old.node, old.kind)?;
        self.moved(old, *from, *to, new_name)?;
        if old.kind.is_dir() {
            self.count_dir(*from, -1)?;
            self.count_dir(*to, 1)?;
            if let Some(target) = target {
                self.forget_dir_path(target.node);
            }
            self.forget_moved_dir(old.node);
        }
        self.stamp_dirs(*from, *to)?;

        let replaced = target.as_ref();
        self.emit(|txn| {
            let how = match replaced {
                Some(target) => RenameHow::Replaced(txn.node_ref(target.node)?),
                None => RenameHow::Free,
            };
            txn.renamed(old, *from, (*to, new_name), how)
        })?;
        match target {
            Some(target) => self.drop_if_gone(target.node),
            None => Ok(()),
        }
    }

    /// Takes the new name from the object that has it.
    fn replace(&mut self, to: NodeId, target: &Found) -> Result<()> {
        self.detach_handles(target.node, to, &target.name);
        let now = self.now;
        let inode = self.tree.inode_mut(target.node)?;
        inode.names.remove(to, &target.name);
        inode.times.ctime = now;
        if inode.is_dir() {
            inode.nlink = 0;
            self.count_dir(to, -1)?;
        } else {
            inode.nlink = inode.nlink.saturating_sub(1);
        }
        Ok(())
    }

    fn exchange(&mut self, plan: &Move, other: &Found) -> Result<()> {
        let Move { from, to, old, .. } = plan;
        self.tree
            .set_entry(*from, &old.name, other.node, other.kind)?;
        self.tree.set_entry(*to, &other.name, old.node, old.kind)?;
        self.moved(old, *from, *to, &other.name)?;
        self.moved(other, *to, *from, &old.name)?;
        let change = i32::from(other.kind.is_dir()) - i32::from(old.kind.is_dir());
        self.count_dir(*from, change)?;
        self.count_dir(*to, -change)?;
        for it in [old, other] {
            if it.kind.is_dir() {
                self.forget_moved_dir(it.node);
            }
        }
        self.stamp_dirs(*from, *to)?;

        self.emit(|txn| {
            let how = RenameHow::ExchangeFirst(txn.node_ref(other.node)?);
            txn.renamed(old, *from, (*to, &other.name), how)
        })?;
        self.emit(|txn| {
            let how = RenameHow::ExchangeSecond(txn.node_ref(old.node)?);
            txn.renamed(other, *to, (*from, &old.name), how)
        })
    }

    /// Sets the new name of the object and of its handles.
    fn moved(&mut self, object: &Found, from: NodeId, to: NodeId, name: &Name) -> Result<()> {
        let now = self.now;
        let inode = self.tree.inode_mut(object.node)?;
        inode.names.remove(from, &object.name);
        inode.names.add(to, name.clone());
        inode.times.ctime = now;
        self.handles
            .for_name(object.node, from, &object.name, |dentry| {
                dentry.parent = to;
                dentry.name = name.clone();
            });
        Ok(())
    }

    /// Changes the link count of a directory that gains or loses a subdirectory.
    fn count_dir(&mut self, dir: NodeId, change: i32) -> Result<()> {
        let inode = self.tree.inode_mut(dir)?;
        inode.nlink = inode.nlink.saturating_add_signed(change);
        Ok(())
    }

    fn stamp_dirs(&mut self, from: NodeId, to: NodeId) -> Result<()> {
        let now = self.now;
        self.tree.inode_mut(from)?.touch(now);
        self.tree.inode_mut(to)?.touch(now);
        Ok(())
    }

    fn renamed(
        &self,
        object: &Found,
        from: NodeId,
        to: (NodeId, &Name),
        how: RenameHow,
    ) -> Result<Change> {
        Ok(Change::Renamed {
            node: self.node_ref(object.node)?,
            from: self.place(from, &object.name),
            to: self.place(to.0, to.1),
            how,
        })
    }
}
