//! Reading, writing and truncating files.

use std::path::Path;

use super::bytes;
use crate::branch::Branch;
use crate::branch::transaction::{Effect, Txn};
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Change, ObjectKind, ResizedBy, SizeChange};
use crate::model::flags::{Access, OpenFlags};
use crate::model::id::NodeId;
use crate::model::stamp::Stamp;
use crate::ops::walk::Target;
use crate::store::content::{MAX_SIZE, PAGE};
use crate::store::handles::HandleId;

impl Branch {
    /// Reads at the handle's position:
    /// [read(2)](https://man7.org/linux/man-pages/man2/read.2.html). Returns how many bytes, 0 at
    /// the end of the file.
    ///
    /// # Errors
    ///
    /// Those of read(2); `ESTALE` when a lower file whose content the branch has not changed is gone
    /// or was changed after it was copied up.
    pub fn read(&self, caller: &Caller, handle: HandleId, buffer: &mut [u8]) -> Result<usize> {
        self.read_with(caller, handle, None, buffer)
    }

    /// Reads at an offset: pread(2).
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
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
        let (read, is_emitted) = self.view(caller, |view| {
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
            let is_emitted = read > 0 && view.emit_read(handle)?;
            Ok((read, is_emitted))
        })?;
        if is_emitted {
            self.deliver_for(caller);
        }
        Ok(read)
    }

    /// Writes at the handle's position, or at the end of the file with `O_APPEND`:
    /// [write(2)](https://man7.org/linux/man-pages/man2/write.2.html). Returns how many bytes.
    ///
    /// # Errors
    ///
    /// Those of write(2).
    pub fn write(&self, caller: &Caller, handle: HandleId, data: &[u8]) -> Result<usize> {
        self.change(caller, |txn| txn.write(handle, None, data))
    }

    /// Writes at an offset: pwrite(2). As on Linux, `O_APPEND` overrides the offset.
    ///
    /// # Errors
    ///
    /// Those of pwrite(2).
    pub fn write_at(
        &self,
        caller: &Caller,
        handle: HandleId,
        offset: u64,
        data: &[u8],
    ) -> Result<usize> {
        self.change(caller, |txn| txn.write(handle, Some(offset), data))
    }

    /// Sets the size of the file at a path:
    /// [truncate(2)](https://man7.org/linux/man-pages/man2/truncate.2.html).
    ///
    /// # Errors
    ///
    /// Those of truncate(2).
    pub fn truncate(&self, caller: &Caller, path: impl AsRef<Path>, size: u64) -> Result<()> {
        self.run(caller, Effect::Frees, |txn| {
            if size > MAX_SIZE {
                return Err(Errno::EINVAL);
            }
            let target = txn.walk().resolve(bytes(path.as_ref()), true)?;
            txn.truncate(&target, size)
        })
    }

    /// Sets the size of a node: truncate(2).
    ///
    /// # Errors
    ///
    /// Those of truncate(2).
    pub fn truncate_node(&self, caller: &Caller, node: NodeId, size: u64) -> Result<()> {
        self.run(caller, Effect::Frees, |txn| {
            let target = txn.walk().target(node)?;
            txn.truncate(&target, size)
        })
    }

    /// Sets the size of an open file: ftruncate(2).
    ///
    /// # Errors
    ///
    /// Those of ftruncate(2).
    pub fn ftruncate(&self, caller: &Caller, handle: HandleId, size: u64) -> Result<()> {
        self.run(caller, Effect::Frees, |txn| txn.ftruncate(handle, size))
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
        // Appending does not depend on the bytes that are there.
        self.bring_up(node, u64::MAX, opened.filter(|_| !append))?;
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
        let inode = self.tree.inode_or_held(node)?;
        Ok(inode.as_file().ok_or(Errno::EINVAL)?.size())
    }

    /// Writes bytes into a file that was [brought up](Self::bring_up), all of them or none.
    pub(crate) fn write_node(&mut self, node: NodeId, start: u64, data: &[u8]) -> Result<()> {
        let end = start + data.len() as u64;
        self.room_to_write(node, start, end)?;
        self.tree
            .change_file(node, |file, extents| file.write(extents, start, data))?;
        self.content_changed(node)
    }

    /// Checks that the limit allows the pages that `[start, end)` needs.
    pub(crate) fn room_to_write(&self, node: NodeId, start: u64, end: u64) -> Result<()> {
        let most = (end - start).div_ceil(PAGE) + 1;
        if self.tree.room_for_pages(most).is_ok() {
            return Ok(());
        }
        let inode = self.tree.inode(node)?;
        let file = inode.as_file().ok_or(Errno::EINVAL)?;
        // If it is too much even with all pages of the file in the range, those are not counted.
        self.tree
            .room_for_pages(most.saturating_sub(2 + file.counted()))?;
        self.tree.room_for_pages(file.new_pages(start, end))
    }

    /// Changes the metadata as every change of content does.
    pub(crate) fn content_changed(&mut self, node: NodeId) -> Result<()> {
        self.drop_set_ids(node)?;
        let now = self.now;
        self.tree.inode_mut(node)?.touch(now);
        Ok(())
    }

    /// Removes setuid and setgid as a write does (`file_remove_privs`).
    fn drop_set_ids(&mut self, node: NodeId) -> Result<()> {
        let mode = {
            let inode = self.tree.inode(node)?;
            self.walk().rights.mode_after_write(&inode)
        };
        self.tree.inode_mut(node)?.mode = mode;
        Ok(())
    }

    /// Emits a write through a handle to a file that was `before` bytes long.
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
        self.prepare_resize(target.node, size, None)?;
        self.resize(target, size, ResizedBy::Truncate, false)
    }

    pub(crate) fn ftruncate(&mut self, id: HandleId, size: u64) -> Result<()> {
        let handle = self.handle(id)?;
        let (node, opened) = (handle.node, handle.opened);
        if size > MAX_SIZE || !handle.flags.can_write() {
            return Err(Errno::EINVAL);
        }
        self.prepare_resize(node, size, opened.filter(|_| size > 0))?;
        let before = self.file_size(node)?;
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

    /// Does everything of a resize that can fail. What stays of the file must have the version
    /// `opened`.
    pub(crate) fn prepare_resize(
        &mut self,
        node: NodeId,
        size: u64,
        opened: Option<Stamp>,
    ) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        self.bring_up(node, size, opened)
    }

    /// Resizes a file, after [`prepare_resize`](Self::prepare_resize). As on tmpfs, truncate(2) to
    /// the same size does not change the times of a file without pages; the other calls do
    /// (`stamp`; `mm/shmem.c: shmem_setattr`).
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

/// Refuses an offset that is negative as an `off_t`, before anything else is checked
/// (`ksys_pread64`).
fn check_offset(offset: Option<u64>) -> Result<()> {
    match offset {
        Some(offset) if offset > MAX_SIZE => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// Refuses a range whose end is no `off_t` (`rw_verify_area`).
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
