//! open, close, and `O_TMPFILE`.

use std::path::Path;
use std::sync::Arc;

use super::{bytes, look_again};
use crate::branch::Branch;
use crate::branch::transaction::{Effect, Txn};
use crate::lower::Held;
use crate::model::attr::{Attr, STICKY};
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Change, ObjectKind, ResizedBy};
use crate::model::flags::{Access, OpenFlags};
use crate::model::id::NodeId;
use crate::model::stamp::Stamp;
use crate::ops::walk::{EntryName, Last, Target};
use crate::store::content::File;
use crate::store::handles::{Dentry, HandleId};
use crate::store::inode::{Body, Inode};

/// Returns what opening with these flags does, or allows.
fn effect_of(flags: OpenFlags) -> Effect {
    if flags.contains(OpenFlags::TRUNCATE) {
        Effect::Frees
    } else if flags.can_write() || flags.contains(OpenFlags::CREATE) {
        Effect::Changes
    } else {
        Effect::Opens
    }
}

impl Branch {
    /// Opens the object at a path: [open(2)](https://man7.org/linux/man-pages/man2/open.2.html).
    /// `mode` is used if the file is created.
    ///
    /// # Errors
    ///
    /// Those of open(2); `ENXIO` for FIFOs, sockets and device nodes, which a mount leaves to the
    /// kernel.
    pub fn open(
        &self,
        caller: &Caller,
        path: impl AsRef<Path>,
        flags: OpenFlags,
        mode: u32,
    ) -> Result<HandleId> {
        look_again(|| {
            self.run(caller, effect_of(flags), |txn| {
                txn.check_open(flags)?;
                txn.open_path(NodeId::ROOT, bytes(path.as_ref()), flags, mode, &mut 0)
            })
        })
    }

    /// Opens a node, as open(2) opens an existing object. `O_CREAT` and `O_EXCL` are ignored.
    ///
    /// # Errors
    ///
    /// Those of open(2); `ESTALE` when the host no longer has the object where it was. A caller that
    /// has the object by a name looks that up again.
    pub fn open_node(&self, caller: &Caller, node: NodeId, flags: OpenFlags) -> Result<HandleId> {
        self.run(caller, effect_of(flags), |txn| {
            txn.check_open(flags)?;
            let target = txn.walk().target(node)?;
            txn.open_existing(&target, flags)
        })
    }

    /// Opens a node as [`open_node`](Self::open_node) does, also if the host no longer has the object
    /// where it was, as long as the object is [held](Self::show_and_hold) or open.
    ///
    /// Of an object that is gone only what the handle reads can be had. If the handle cuts the file,
    /// what is written through it goes to a file without a name.
    ///
    /// # Errors
    ///
    /// Those of open(2); `ESTALE` when the object is gone and not held.
    pub fn open_held(&self, caller: &Caller, node: NodeId, flags: OpenFlags) -> Result<HandleId> {
        self.run(caller, effect_of(flags), |txn| {
            txn.check_open(flags)?;
            let target = txn.walk().held_target(node)?;
            txn.open_existing(&target, flags)
        })
    }

    /// Opens a name in a directory, and creates the file if there is none: openat(2) with
    /// `O_CREAT`.
    ///
    /// # Errors
    ///
    /// Those of openat(2); a symbolic link is `ELOOP`, with `O_EXCL` `EEXIST`.
    pub fn create_at(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        flags: OpenFlags,
        mode: u32,
    ) -> Result<(HandleId, Attr)> {
        let flags = flags | OpenFlags::CREATE | OpenFlags::NOFOLLOW;
        look_again(|| {
            self.change(caller, |txn| {
                txn.check_open(flags)?;
                let entry = EntryName::new(parent, name, Errno::EISDIR)?;
                txn.walk()
                    .rights
                    .check(&*txn.tree.inode(parent)?, Access::EXECUTE)?;
                let handle = txn.open_last(entry, flags, mode, &mut 0)?;
                let node = txn.handle(handle)?.node;
                Ok((handle, txn.tree.inode_or_held(node)?.attr(node)))
            })
        })
    }

    /// Creates and opens a regular file without a name in the directory `parent`: open(2) with
    /// `O_TMPFILE`. [`link_node`](Self::link_node) may give it a name.
    ///
    /// # Errors
    ///
    /// Those of open(2); `EINVAL` without write access.
    pub fn tmpfile_at(
        &self,
        caller: &Caller,
        parent: NodeId,
        flags: OpenFlags,
        mode: u32,
    ) -> Result<(HandleId, Attr)> {
        self.change(caller, |txn| {
            txn.check_open(flags)?;
            if !flags.can_write() {
                return Err(Errno::EINVAL);
            }
            let dir = txn.tree.inode(parent)?;
            if !dir.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            txn.walk().rights.change_dir(&dir)?;
            txn.tree.room_for_node()?;
            let mut inode = txn.new_inode(parent, mode & 0o7777, Body::File(File::default()))?;
            inode.nlink = 0;
            let node = txn.tree.shared.new_node();
            let attr = inode.attr(node);
            txn.tree.add(node, inode);
            txn.tree
                .set_orphan(node, !flags.contains(OpenFlags::EXCLUSIVE));
            let target = Target {
                node,
                kind: ObjectKind::File,
                at: None,
                found: None,
            };
            Ok((txn.open_handle(&target, flags)?, attr))
        })
    }

    /// Closes a handle: close(2). An object without names ends with its last handle.
    ///
    /// # Errors
    ///
    /// `EBADF`.
    pub fn close(&self, caller: &Caller, handle: HandleId) -> Result<()> {
        // Closing the last descriptor of a removed file of the host frees it, which takes long: that is
        // done when the lock is given back.
        let held = self.run(caller, Effect::Opens, |txn| txn.close(handle))?;
        drop(held);
        Ok(())
    }

    /// Waits until the file survives a power cut: fsync(2). In a store, all that was done before
    /// does; in memory there is nothing to wait for.
    ///
    /// # Errors
    ///
    /// `EBADF`; `EIO` when the disk of the store has failed.
    pub fn fsync(&self, handle: HandleId) -> Result<()> {
        let is_open = self.inner.read().handles.get(handle).is_some();
        if !is_open {
            return Err(Errno::EBADF);
        }
        self.core.sync()
    }

    /// Returns the metadata of an open object: fstat(2).
    ///
    /// # Errors
    ///
    /// `EBADF`.
    pub fn fstat(&self, handle: HandleId) -> Result<Attr> {
        let state = self.inner.read();
        let node = state.handles.get(handle).ok_or(Errno::EBADF)?.node;
        Ok(state.tree.inode_or_held(node)?.attr(node))
    }

    /// Returns the version of the host's file on which a handle was opened; `None` when the branch
    /// had content of its own by then. Through this handle the file can be changed in part as long
    /// as it has that version. Later, changing it in part fails with `ESTALE`, and the file has to
    /// be opened again.
    #[must_use]
    pub fn version_opened(&self, handle: HandleId) -> Option<Stamp> {
        self.inner.read().handles.get(handle)?.opened
    }

    /// Returns the node that a handle holds.
    ///
    /// # Errors
    ///
    /// `EBADF`.
    pub fn node_of(&self, handle: HandleId) -> Result<NodeId> {
        let state = self.inner.read();
        state
            .handles
            .get(handle)
            .map(|handle| handle.node)
            .ok_or(Errno::EBADF)
    }
}

/// Returns the access for which the flags ask (`ACC_MODE` in `fs/open.c`). Truncating needs write
/// access.
fn access_of(flags: OpenFlags) -> Access {
    let read = if flags.can_read() {
        Access::READ
    } else {
        Access::EXISTS
    };
    let both = flags.bits() & 3 == 3;
    if flags.can_write() || flags.contains(OpenFlags::TRUNCATE) || both {
        let read = if both { Access::READ } else { read };
        read | Access::WRITE
    } else {
        read
    }
}

impl Txn<'_> {
    fn check_open(&self, flags: OpenFlags) -> Result<()> {
        if flags.contains(OpenFlags::CREATE | OpenFlags::DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        if self.handles.len() >= self.tree.shared.config.limits.open_handles {
            return Err(Errno::EMFILE);
        }
        Ok(())
    }

    /// Opens a path from `start` (`open_last_lookups` and `do_open`).
    fn open_path(
        &mut self,
        start: NodeId,
        path: &[u8],
        flags: OpenFlags,
        mode: u32,
        links: &mut u32,
    ) -> Result<HandleId> {
        let parent = self.walk().parent_from(start, path, links)?;
        let create = flags.contains(OpenFlags::CREATE);
        let Last::Name(name) = parent.last else {
            let dir = match parent.last {
                Last::DotDot => self.walk().parent_of(parent.dir)?,
                Last::Dot | Last::Root | Last::Name(_) => parent.dir,
            };
            return match (create, flags.contains(OpenFlags::EXCLUSIVE)) {
                (true, true) => Err(Errno::EEXIST),
                (true, false) => Err(Errno::EISDIR),
                _ => {
                    let target = self.walk().target(dir)?;
                    self.open_existing(&target, flags)
                }
            };
        };
        if create && parent.slash {
            return Err(Errno::EISDIR);
        }
        let entry = EntryName {
            dir: parent.dir,
            name,
            slash: parent.slash,
        };
        self.open_last(entry, flags, mode, links)
    }

    fn open_last(
        &mut self,
        entry: EntryName<'_>,
        flags: OpenFlags,
        mode: u32,
        links: &mut u32,
    ) -> Result<HandleId> {
        let create = flags.contains(OpenFlags::CREATE);
        let Some(found) = self.walk().lookup(entry.dir, entry.name)? else {
            if !create {
                return Err(Errno::ENOENT);
            }
            return self.open_new(entry, flags, mode);
        };
        if create && flags.contains(OpenFlags::EXCLUSIVE) {
            return Err(Errno::EEXIST);
        }
        let flags = if entry.slash {
            // From here on, every link is followed, even at the end of another link's text.
            flags.without(OpenFlags::NOFOLLOW) | OpenFlags::DIRECTORY
        } else {
            flags
        };
        if found.kind == ObjectKind::Symlink
            && (entry.slash || !flags.contains(OpenFlags::NOFOLLOW))
        {
            let text = self.walk().link_text(found.node, links)?;
            return self.open_path(entry.dir, &text, flags, mode, links);
        }
        if create && found.kind.is_dir() {
            return Err(Errno::EISDIR);
        }
        if create {
            self.may_create_in_sticky(entry.dir, found.node)?;
        }
        let target = Target {
            node: found.node,
            kind: found.kind,
            at: Some((entry.dir, found.name)),
            found: None,
        };
        self.open_existing(&target, flags)
    }

    /// Checks `may_create_in_sticky`, with `fs.protected_regular` and `fs.protected_fifos` off.
    fn may_create_in_sticky(&self, dir: NodeId, node: NodeId) -> Result<()> {
        let dir = self.tree.inode(dir)?;
        let inode = self.tree.inode(node)?;
        let harmless = matches!(inode.kind(), ObjectKind::File | ObjectKind::Fifo);
        let open_to_all = dir.mode & STICKY != 0 && dir.mode & 0o002 != 0;
        let own = inode.uid == dir.uid || inode.uid == self.caller.uid;
        if harmless || !open_to_all || own || !self.walk().rights.is_enforced() {
            return Ok(());
        }
        Err(Errno::EACCES)
    }

    fn open_new(&mut self, entry: EntryName<'_>, flags: OpenFlags, mode: u32) -> Result<HandleId> {
        let attr = self.make(entry, mode & 0o7777, Body::File(File::default()))?;
        // The creator of a file may use it as asked, whatever its mode.
        let target = self.walk().target(attr.node)?;
        self.open_handle(&target, flags)
    }

    /// Opens an existing object (`may_open` and `handle_truncate`).
    fn open_existing(&mut self, target: &Target, flags: OpenFlags) -> Result<HandleId> {
        if flags.contains(OpenFlags::DIRECTORY) && !target.kind.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let access = access_of(flags);
        match target.kind {
            ObjectKind::Symlink => return Err(Errno::ELOOP),
            ObjectKind::Directory if access.contains(Access::WRITE) => return Err(Errno::EISDIR),
            ObjectKind::File
            | ObjectKind::Directory
            | ObjectKind::Fifo
            | ObjectKind::Socket
            | ObjectKind::CharDevice
            | ObjectKind::BlockDevice => {}
        }
        let walk = self.walk();
        if walk.rights.is_enforced() {
            walk.rights
                .check(&*self.tree.inode_or_held(target.node)?, access)?;
        }
        match target.kind {
            ObjectKind::File if flags.contains(OpenFlags::TRUNCATE) => {
                self.take_nameless(target.node)?;
                self.prepare_resize(target.node, 0, None)?;
                let handle = self.open_handle(target, flags)?;
                if let Some(handle) = self.handles.get_mut(handle) {
                    handle.written = true;
                }
                self.resize(target, 0, ResizedBy::OpenTruncate, true)?;
                Ok(handle)
            }
            ObjectKind::File | ObjectKind::Directory => self.open_handle(target, flags),
            ObjectKind::Symlink
            | ObjectKind::Fifo
            | ObjectKind::Socket
            | ObjectKind::CharDevice
            | ObjectKind::BlockDevice => Err(Errno::ENXIO),
        }
    }

    fn open_handle(&mut self, target: &Target, flags: OpenFlags) -> Result<HandleId> {
        let dentry = target.at.clone().map(|(parent, name)| Dentry {
            parent,
            name,
            gone_from: None,
        });
        let held = self.hold(target)?;
        let opened = self.version_to_open(target, held.as_deref())?;
        if let Some(version) = opened.filter(|_| flags.can_read()) {
            self.has_served(target.node, version);
        }
        let handle = self
            .handles
            .insert(target.node, flags, dentry, (opened, held));
        if self.wants_activity() {
            self.emit(|txn| {
                Ok(Change::Opened {
                    node: txn.node_ref(target.node)?,
                    at: txn.place_of(target),
                })
            })?;
        }
        Ok(handle)
    }

    /// Holds the host's file that is about to be opened, so that the handle goes on with it whatever
    /// the host puts in its place.
    fn hold(&self, target: &Target) -> Result<Option<Arc<Held>>> {
        let lower = self.tree.shared.lower.as_ref();
        match lower.filter(|_| target.kind == ObjectKind::File && !self.tree.is_own(target.node)) {
            Some(lower) => lower.hold(target.node),
            None => Ok(None),
        }
    }

    /// Makes a file that the host no longer has, and that is held, an empty file of the branch that
    /// has no name. Does nothing for a file that the host still has.
    fn take_nameless(&mut self, node: NodeId) -> Result<()> {
        match self.tree.inode(node) {
            Err(Errno::ESTALE) => {}
            found => return found.map(|_| ()),
        }
        let held = self.tree.inode_or_held(node)?.into_owned();
        self.tree.room_for_node()?;
        let inode = Inode {
            nlink: 0,
            body: Body::File(File::default()),
            ..held
        };
        self.tree.add(node, inode);
        self.tree.set_orphan(node, false);
        Ok(())
    }

    /// Returns the version of the host's file that is about to be opened.
    fn version_to_open(&self, target: &Target, held: Option<&Held>) -> Result<Option<Stamp>> {
        if target.kind != ObjectKind::File || self.tree.is_own(target.node) {
            return Ok(None);
        }
        let version = match (target.found, held) {
            (Some(found), _) => found,
            // Closing other files may have taken long: the file may have lost its name by now.
            (None, Some(held)) => held.stamp()?,
            (None, None) => self.tree.inode(target.node)?.stamp(),
        };
        Ok(Some(version))
    }

    fn close(&mut self, id: HandleId) -> Result<Option<Arc<Held>>> {
        let mut handle = self.handles.remove(id).ok_or(Errno::EBADF)?;
        let held = handle.held.take();
        let node = handle.node;
        // The object may be gone from the branch, or from the host below it.
        let has_no_name = self.tree.inode(node).map_or(true, |inode| inode.nlink == 0);
        let is_gone = has_no_name && !self.handles.is_open(node);
        if is_gone || self.wants_activity() {
            self.emit(|txn| {
                Ok(Change::Closed {
                    node: txn.node_ref(node)?,
                    at: txn.handle_place(&handle),
                    write: handle.flags.can_write(),
                    written: handle.written,
                })
            })?;
        }
        if is_gone {
            self.forget_or_keep(node);
        }
        Ok(held)
    }
}
