//! Creating objects: mkdir, mknod, symlink, and open with `O_CREAT`.

use std::path::Path;
use std::sync::Arc;

use super::bytes;
use crate::branch::Branch;
use crate::branch::transaction::Txn;
use crate::model::attr::{
    Attr, GROUP_EXECUTE, SETGID, STICKY, TYPE_MASK, Times, file_type, kind_of_mode,
};
use crate::model::caller::Caller;
use crate::model::config::PATH_MAX;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Change, CreatedBy, Name, ObjectKind};
use crate::model::id::NodeId;
use crate::model::names::Names;
use crate::ops::walk::EntryName;
use crate::store::content::File;
use crate::store::dir::Dir;
use crate::store::inode::{Body, Inode};

impl Branch {
    /// Creates a directory: [mkdir(2)](https://man7.org/linux/man-pages/man2/mkdir.2.html).
    ///
    /// # Errors
    ///
    /// Those of mkdir(2).
    pub fn mkdir(&self, caller: &Caller, path: impl AsRef<Path>, mode: u32) -> Result<Attr> {
        self.change(caller, |txn| {
            let entry = txn
                .walk()
                .parent(bytes(path.as_ref()))?
                .entry(Errno::EEXIST)?;
            txn.mkdir(entry, mode)
        })
    }

    /// Creates a directory by its name in another one: mkdirat(2).
    ///
    /// # Errors
    ///
    /// Those of mkdirat(2).
    pub fn mkdir_at(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        mode: u32,
    ) -> Result<Attr> {
        self.change(caller, |txn| {
            txn.mkdir(EntryName::new(parent, name, Errno::EEXIST)?, mode)
        })
    }

    /// Creates a regular file, FIFO, socket or device node, as `mode & S_IFMT` says:
    /// [mknod(2)](https://man7.org/linux/man-pages/man2/mknod.2.html).
    ///
    /// # Errors
    ///
    /// Those of mknod(2).
    pub fn mknod(
        &self,
        caller: &Caller,
        path: impl AsRef<Path>,
        mode: u32,
        rdev: u64,
    ) -> Result<Attr> {
        self.change(caller, |txn| {
            let body = special(mode, rdev)?;
            let entry = txn
                .walk()
                .parent(bytes(path.as_ref()))?
                .entry(Errno::EEXIST)?;
            txn.mknod(entry, mode, body)
        })
    }

    /// Creates such an object by its name in a directory: mknodat(2).
    ///
    /// # Errors
    ///
    /// Those of mknodat(2).
    pub fn mknod_at(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        mode: u32,
        rdev: u64,
    ) -> Result<Attr> {
        self.change(caller, |txn| {
            let body = special(mode, rdev)?;
            txn.mknod(EntryName::new(parent, name, Errno::EEXIST)?, mode, body)
        })
    }

    /// Creates a symbolic link at `path` with the content `text`:
    /// [symlink(2)](https://man7.org/linux/man-pages/man2/symlink.2.html).
    ///
    /// # Errors
    ///
    /// Those of symlink(2).
    pub fn symlink(
        &self,
        caller: &Caller,
        text: impl AsRef<Path>,
        path: impl AsRef<Path>,
    ) -> Result<Attr> {
        self.change(caller, |txn| {
            let body = symlink_body(bytes(text.as_ref()))?;
            let entry = txn
                .walk()
                .parent(bytes(path.as_ref()))?
                .entry(Errno::EEXIST)?;
            txn.make_free(entry, file_type(ObjectKind::Symlink) | 0o777, body)
        })
    }

    /// Creates a symbolic link by its name in a directory: symlinkat(2).
    ///
    /// # Errors
    ///
    /// Those of symlinkat(2).
    pub fn symlink_at(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        text: &[u8],
    ) -> Result<Attr> {
        self.change(caller, |txn| {
            let body = symlink_body(text)?;
            let entry = EntryName::new(parent, name, Errno::EEXIST)?;
            txn.make_free(entry, file_type(ObjectKind::Symlink) | 0o777, body)
        })
    }
}

/// Returns what mknod creates (`may_mknod`).
fn special(mode: u32, rdev: u64) -> Result<Body> {
    if mode & TYPE_MASK == 0 {
        return Ok(Body::File(File::default()));
    }
    match kind_of_mode(mode) {
        Some(ObjectKind::File) => Ok(Body::File(File::default())),
        Some(ObjectKind::Fifo) => Ok(Body::Fifo),
        Some(ObjectKind::Socket) => Ok(Body::Socket),
        Some(ObjectKind::CharDevice) => Ok(Body::CharDevice(rdev)),
        Some(ObjectKind::BlockDevice) => Ok(Body::BlockDevice(rdev)),
        Some(ObjectKind::Directory) => Err(Errno::EPERM),
        Some(ObjectKind::Symlink) | None => Err(Errno::EINVAL),
    }
}

fn symlink_body(text: &[u8]) -> Result<Body> {
    if text.is_empty() {
        return Err(Errno::ENOENT);
    }
    if text.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(Body::Symlink(Arc::from(text)))
}

impl Txn<'_> {
    fn mkdir(&mut self, entry: EntryName<'_>, mode: u32) -> Result<Attr> {
        if self.walk().lookup_at(entry)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let body = Body::Dir(Box::<Dir>::default());
        self.make(entry, mode & (0o777 | STICKY), body)
    }

    fn mknod(&mut self, entry: EntryName<'_>, mode: u32, body: Body) -> Result<Attr> {
        let is_device = matches!(body, Body::CharDevice(_) | Body::BlockDevice(_));
        if is_device && !self.walk().rights.is_privileged() {
            // Errors of the name and of the directory come first.
            self.check_free(entry)?;
            let dir = self.tree.inode(entry.dir)?;
            self.walk().rights.change_dir(&dir)?;
            return Err(Errno::EPERM);
        }
        self.make_free(entry, mode & 0o7777, body)
    }

    /// Creates an object that is no directory, at a name that must be free and must not end in a
    /// slash.
    fn make_free(&mut self, entry: EntryName<'_>, mode: u32, body: Body) -> Result<Attr> {
        self.check_free(entry)?;
        self.make(entry, mode & 0o7777, body)
    }

    /// Checks that the name does not exist and does not ask for a directory (`filename_create`).
    pub(crate) fn check_free(&self, entry: EntryName<'_>) -> Result<()> {
        match self.walk().lookup_at(entry)? {
            Some(_) => Err(Errno::EEXIST),
            None if entry.slash => Err(Errno::ENOENT),
            None => Ok(()),
        }
    }

    /// Checks that a name may be added to the directory, and prepares everything that adding it
    /// needs.
    pub(crate) fn prepare_name(&mut self, entry: EntryName<'_>) -> Result<()> {
        let dir = self.tree.inode(entry.dir)?;
        if dir.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        self.walk().rights.change_dir(&dir)?;
        let case = self.tree.shared.config.case_sensitivity;
        let has_room = dir
            .as_dir()
            .is_some_and(|dir| dir.has_room(entry.name, case));
        if !has_room {
            return Err(Errno::ENOSPC);
        }
        self.copy_up(entry.dir)
    }

    /// Creates an object at a name that is known to be free.
    pub(crate) fn make(&mut self, entry: EntryName<'_>, mode: u32, body: Body) -> Result<Attr> {
        self.prepare_name(entry)?;
        self.tree.room_for_node()?;
        let node = self.tree.shared.new_node();
        let name: Name = Arc::from(entry.name);
        let mut inode = self.new_inode(entry.dir, mode, body)?;
        inode.names = Names::One(entry.dir, name.clone());
        let kind = inode.kind();
        let attr = inode.attr(node);

        self.tree.add(node, inode);
        self.tree.set_entry(entry.dir, &name, node, kind)?;
        let now = self.now;
        let dir = self.tree.inode_mut(entry.dir)?;
        dir.touch(now);
        dir.nlink = dir.nlink.saturating_add(kind.is_dir().into());

        self.emit(|txn| {
            Ok(Change::Created {
                node: txn.node_ref(node)?,
                at: txn.place(entry.dir, &name),
                by: CreatedBy::New,
            })
        })?;
        Ok(attr)
    }

    /// Returns an object without a name, with the owner that `inode_init_owner` sets and the mode
    /// that `vfs_prepare_mode` returns.
    pub(crate) fn new_inode(&self, dir: NodeId, mode: u32, body: Body) -> Result<Inode> {
        let rights = self.walk().rights;
        let caller = self.caller;
        let dir = self.tree.inode(dir)?;
        let inherits = dir.mode & SETGID != 0;
        let is_dir = matches!(body, Body::Dir(_));
        let is_link = matches!(body, Body::Symlink(_));
        let mut mode = mode;
        if inherits
            && !is_dir
            && mode & (SETGID | GROUP_EXECUTE) == SETGID | GROUP_EXECUTE
            && !rights.may_set_group_id(dir.gid)
        {
            mode &= !SETGID;
        }
        if !is_link {
            mode &= !caller.umask;
        }
        if inherits && is_dir {
            mode |= SETGID;
        }
        Ok(Inode {
            mode,
            uid: caller.uid,
            gid: if inherits { dir.gid } else { caller.gid },
            nlink: if is_dir { 2 } else { 1 },
            times: Times::at(self.now),
            names: Names::None,
            xattrs: None,
            body,
        })
    }
}
