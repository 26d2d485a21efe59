//! read, write, truncate.

use std::path::Path;

use super::bytes;
use crate::branch::Branch;
use crate::branch::transaction::Txn;
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Change, ObjectKind, ResizedBy, SizeChange};
use crate::model::flags::{Access, OpenFlags};
use crate::model::id::NodeId;
use crate::ops::walk::Target;
use crate::store::content::{MAX_SIZE, PAGE};
use crate::store::handles::HandleId;

impl Branch {
    /// read(2) at the handle's position. Gives how many bytes, 0 at the end.
    ///
    /// # Errors
    ///
    /// As the system call; `ESTALE` when a lower file is gone or changed after it was copied up.
    pub fn read(&self, caller: &Caller, handle: HandleId, buffer: &mut [u8]) -> Result<usize> {
        self.read_with(caller, handle, None, buffer)
    }

    /// pread(2).
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_at(
        &self,
        caller: &Caller,
        handle: HandleId,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        self.read_with(caller, handle, Some(offset), buffer)
    }

    fn read_with(
        &self,
        caller: &Caller,
        handle: HandleId,
        offset: Option<u64>,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let (read, told) = self.view(caller, |view| {
            check_offset(offset)?;
            let handle = view.handle(handle)?;
            if !handle.flags.can_read() {
                return Err(Errno::EBADF);
            }
            check_range(
                offset.unwrap_or_else(|| *handle.position.lock()),
                buffer.len() as u64,
            )?;
            let read = match offset {
                Some(offset) => view.tree.read(handle.node, offset, buffer)?,
                None => {
                    let mut position = handle.position.lock();
                    let read = view.tree.read(handle.node, *position, buffer)?;
                    *position += read as u64;
                    read
                }
            };
            let told = read > 0 && view.emit_read(handle)?;
            Ok((read, told))
        })?;
        if told {
            self.deliver_for(caller);
        }
        Ok(read)
    }

    /// write(2) at the handle's position, or at the end of the file with `O_APPEND`. Gives how many
    /// bytes.
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn write(&self, caller: &Caller, handle: HandleId, data: &[u8]) -> Result<usize> {
        self.change(caller, |txn| txn.write(handle, None, data))
    }

    /// pwrite(2); as there, `O_APPEND` wins over the offset.
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn write_at(
        &self,
        caller: &Caller,
        handle: HandleId,
        offset: u64,
        data: &[u8],
    ) -> Result<usize> {
        self.change(caller, |txn| txn.write(handle, Some(offset), data))
    }

    /// truncate(2).
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn truncate(&self, caller: &Caller, path: impl AsRef<Path>, size: u64) -> Result<()> {
        self.change(caller, |txn| {
            if size > MAX_SIZE {
                return Err(Errno::EINVAL);
            }
            let target = txn.walk().resolve(bytes(path.as_ref()), true)?;
            txn.truncate(&target, size)
        })
    }

    /// truncate(2) of a node.
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn truncate_node(&self, caller: &Caller, node: NodeId, size: u64) -> Result<()> {
        self.change(caller, |txn| {
            let target = txn.walk().target(node)?;
            txn.truncate(&target, size)
        })
    }

    /// ftruncate(2).
    ///
    /// # Errors
    ///
    /// As the system call.
    pub fn ftruncate(&self, caller: &Caller, handle: HandleId, size: u64) -> Result<()> {
        self.change(caller, |txn| txn.ftruncate(handle, size))
    }
}

impl Txn<'_> {
    fn write(&mut self, id: HandleId, offset: Option<u64>, data: &[u8]) -> Result<usize> {
        check_offset(offset)?;
        let handle = self.handle(id)?;
        if !handle.flags.can_write() {
            return Err(Errno::EBADF);
        }
        let (node, opened) = (handle.node, handle.opened);
        let append = handle.flags.contains(OpenFlags::APPEND);
        let position = *handle.position.lock();
        check_range(offset.unwrap_or(position), data.len() as u64)?;
        if data.is_empty() {
            return Ok(0);
        }
        // Whoever appends depends on nothing that was there.
        self.copy_up_as(node, opened.filter(|_| !append))?;
        let before = self.file_size(node)?;
        let start = if append {
            before
        } else {
            offset.unwrap_or(position)
        };
        let room = MAX_SIZE.saturating_sub(start);
        if room == 0 {
            return Err(Errno::EFBIG);
        }
        let data = &data[..data.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        self.write_node(node, start, data)?;
        let end = start + data.len() as u64;
        if let Some(handle) = self.handles.get_mut(id) {
            handle.written = true;
            if offset.is_none() {
                *handle.position.lock() = end;
            }
        }
        self.emit_written(id, before)?;
        Ok(data.len())
    }

    pub(crate) fn file_size(&self, node: NodeId) -> Result<u64> {
        let inode = self.tree.inode(node)?;
        Ok(inode.as_file().ok_or(Errno::EINVAL)?.size())
    }

    /// Puts bytes into a file, all or nothing.
    pub(crate) fn write_node(&mut self, node: NodeId, start: u64, data: &[u8]) -> Result<()> {
        let end = start + data.len() as u64;
        self.copy_up(node)?;
        self.room_to_write(node, start, end)?;
        self.tree.change_file(node, |file, base| {
            file.prepare(start, end, base)?;
            file.write(start, data);
            Ok(())
        })?;
        self.content_changed(node)
    }

    /// Whether the limit allows the pages that `[start, end)` needs.
    pub(crate) fn room_to_write(&self, node: NodeId, start: u64, end: u64) -> Result<()> {
        let most = (end - start).div_ceil(PAGE) + 1;
        if self.tree.room_for_pages(most).is_ok() {
            return Ok(());
        }
        let inode = self.tree.inode(node)?;
        let file = inode.as_file().ok_or(Errno::EINVAL)?;
        // Too many even if all pages of the file lay in the range: they are not looked at then.
        self.tree
            .room_for_pages(most.saturating_sub(2 + file.counted()))?;
        self.tree.room_for_pages(file.new_pages(start, end))
    }

    /// What every change of content does to the metadata.
    pub(crate) fn content_changed(&mut self, node: NodeId) -> Result<()> {
        self.drop_set_ids(node)?;
        let now = self.now;
        self.tree.inode_mut(node)?.touch(now);
        Ok(())
    }

    /// `file_remove_privs`.
    fn drop_set_ids(&mut self, node: NodeId) -> Result<()> {
        let mode = {
            let inode = self.tree.inode(node)?;
            self.walk().rights.mode_after_write(&inode)
        };
        self.tree.inode_mut(node)?.mode = mode;
        Ok(())
    }

    /// Tells of a write through a handle to a file that was `before` bytes long.
    pub(crate) fn emit_written(&self, id: HandleId, before: u64) -> Result<()> {
        self.emit(|txn| {
            let handle = txn.handle(id)?;
            Ok(Change::Written {
                node: txn.node_ref(handle.node)?,
                at: txn.handle_place(handle),
                size: compare(before, txn.file_size(handle.node)?),
            })
        })
    }

    pub(crate) fn truncate(&mut self, target: &Target, size: u64) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::EINVAL);
        }
        match target.kind {
            ObjectKind::File => {}
            ObjectKind::Directory => return Err(Errno::EISDIR),
            ObjectKind::Symlink
            | ObjectKind::Fifo
            | ObjectKind::Socket
            | ObjectKind::CharDevice
            | ObjectKind::BlockDevice => return Err(Errno::EINVAL),
        }
        let rights = self.walk().rights;
        rights.check(&*self.tree.inode(target.node)?, Access::WRITE)?;
        self.prepare_resize(target.node, size)?;
        self.resize(target, size, ResizedBy::Truncate, false)
    }

    pub(crate) fn ftruncate(&mut self, id: HandleId, size: u64) -> Result<()> {
        let handle = self.handle(id)?;
        let (node, opened) = (handle.node, handle.opened);
        if size > MAX_SIZE || !handle.flags.can_write() {
            return Err(Errno::EINVAL);
        }
        self.copy_up_as(node, opened.filter(|_| size > 0))?;
        let before = self.file_size(node)?;
        self.prepare_resize(node, size)?;
        self.set_size(node, size, true)?;
        if let Some(handle) = self.handles.get_mut(id) {
            handle.written = true;
        }
        self.emit(|txn| {
            Ok(Change::Resized {
                node: txn.node_ref(node)?,
                at: txn.handle_place(txn.handle(id)?),
                size: compare(before, size),
                by: ResizedBy::Truncate,
            })
        })
    }

    /// Everything of a resize that can fail.
    pub(crate) fn prepare_resize(&mut self, node: NodeId, size: u64) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        self.copy_up(node)
    }

    /// Resizes a file; needs [`prepare_resize`](Self::prepare_resize). As on tmpfs, truncate(2) to
    /// the same size leaves the times of a file without pages alone, and the other ways (`stamp`)
    /// do not (`mm/shmem.c: shmem_setattr`).
    pub(crate) fn resize(
        &mut self,
        target: &Target,
        size: u64,
        by: ResizedBy,
        stamp: bool,
    ) -> Result<()> {
        let before = self.file_size(target.node)?;
        let has_pages = self
            .tree
            .inode(target.node)?
            .as_file()
            .is_some_and(|file| file.blocks() > 0);
        self.set_size(target.node, size, stamp || before != size || has_pages)?;
        self.emit(|txn| {
            Ok(Change::Resized {
                node: txn.node_ref(target.node)?,
                at: txn.place_of(target),
                size: compare(before, size),
                by,
            })
        })
    }

    fn set_size(&mut self, node: NodeId, size: u64, stamp: bool) -> Result<()> {
        self.tree.change_file(node, |file, _| {
            file.resize(size);
            Ok(())
        })?;
        if stamp {
            self.content_changed(node)
        } else {
            self.drop_set_ids(node)
        }
    }
}

/// `ksys_pread64`: what is negative as an `off_t` is refused before anything else.
fn check_offset(offset: Option<u64>) -> Result<()> {
    match offset {
        Some(offset) if offset > MAX_SIZE => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// `rw_verify_area`: the end of the range must be an `off_t` too.
pub(super) fn check_range(start: u64, len: u64) -> Result<()> {
    match start.checked_add(len) {
        Some(end) if end <= MAX_SIZE => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

pub(crate) fn compare(before: u64, after: u64) -> SizeChange {
    match after.cmp(&before) {
        std::cmp::Ordering::Greater => SizeChange::Grew,
        std::cmp::Ordering::Less => SizeChange::Shrank,
        std::cmp::Ordering::Equal => SizeChange::Same,
    }
}
