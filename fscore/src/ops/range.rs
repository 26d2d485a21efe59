//! Operations on ranges of a file: fallocate, copy_file_range, lseek.

use std::ops::Range;

use crate::branch::Branch;
use crate::branch::transaction::{Effect, Txn};
use crate::model::attr::Seek;
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Change, ResizedBy};
use crate::model::flags::{AllocateFlags, OpenFlags};
use crate::model::id::NodeId;
use crate::store::content::MAX_SIZE;
use crate::store::handles::HandleId;

/// How many bytes are copied at a time.
const COPY_STEP: usize = 1 << 20;

/// How many bytes one call copies at most. A caller that wants more calls again, and other
/// operations get their turn in between.
const MAX_COPY: u64 = 16 << 20;

impl Branch {
    /// Allocates a range of a file, or punches a hole:
    /// [fallocate(2)](https://man7.org/linux/man-pages/man2/fallocate.2.html).
    ///
    /// # Errors
    ///
    /// Those of fallocate(2) on tmpfs, which neither zeroes, collapses nor inserts ranges.
    pub fn fallocate(
        &self,
        caller: &Caller,
        handle: HandleId,
        flags: AllocateFlags,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        self.run(caller, Effect::ChangesMuch, |txn| {
            txn.fallocate(handle, flags, offset, len)
        })
    }

    /// Copies a range of bytes:
    /// [copy_file_range(2)](https://man7.org/linux/man-pages/man2/copy_file_range.2.html) with both
    /// offsets given. Returns how many bytes were copied, which may be fewer than were asked for.
    ///
    /// # Errors
    ///
    /// Those of copy_file_range(2).
    pub fn copy_range(
        &self,
        caller: &Caller,
        from: (HandleId, u64),
        to: (HandleId, u64),
        len: u64,
    ) -> Result<u64> {
        self.change(caller, |txn| txn.copy_range(from, to, len))
    }

    /// Sets the handle's position, and returns it:
    /// [lseek(2)](https://man7.org/linux/man-pages/man2/lseek.2.html).
    ///
    /// # Errors
    ///
    /// Those of lseek(2).
    pub fn seek(&self, handle: HandleId, seek: Seek) -> Result<u64> {
        let state = self.inner.read();
        let handle = state.handles.get(handle).ok_or(Errno::EBADF)?;
        let inode = state.tree.inode_or_held(handle.node)?;
        let file = inode.as_file();
        let mut position = handle.position.lock();
        let relative = |base: u64, by: i64| base.checked_add_signed(by).ok_or(Errno::EINVAL);
        let find = |offset: i64, data: bool| {
            let file = file.ok_or(Errno::EINVAL)?;
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            if offset >= file.size() {
                return Err(Errno::ENXIO);
            }
            let found = state.tree.seek(handle.node, offset, data)?;
            found.ok_or(Errno::ENXIO)
        };
        let new = match seek {
            Seek::Set(offset) => relative(0, offset)?,
            Seek::Current(by) => relative(*position, by)?,
            // A directory has no end (`offset_dir_llseek`).
            Seek::End(by) => relative(file.ok_or(Errno::EINVAL)?.size(), by)?,
            Seek::Data(offset) => find(offset, true)?,
            Seek::Hole(offset) => find(offset, false)?,
        };
        if new > MAX_SIZE {
            return Err(Errno::EINVAL);
        }
        *position = new;
        Ok(new)
    }

    /// Returns the next range of an open file, at or after `from`, that may hold other bytes than
    /// zero; `None` when the rest of the file is a hole. The handle's position stays as it is.
    ///
    /// Copying a file range by range keeps it sparse, and takes no time for its holes. Those are
    /// the holes of the branch, and the holes of the lower file where the branch shows it.
    ///
    /// # Errors
    ///
    /// `EBADF`; `EINVAL` when it is no regular file; `ESTALE` as for [`read`](Self::read).
    pub fn next_data(&self, handle: HandleId, from: u64) -> Result<Option<Range<u64>>> {
        let state = self.inner.read();
        let node = state.handles.get(handle).ok_or(Errno::EBADF)?.node;
        state.tree.next_data(node, from)
    }
}

impl Txn<'_> {
    /// Allocates or punches (`vfs_fallocate` and `shmem_fallocate`).
    fn fallocate(
        &mut self,
        id: HandleId,
        flags: AllocateFlags,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        if offset > MAX_SIZE || len == 0 || len > MAX_SIZE {
            return Err(Errno::EINVAL);
        }
        let punch = flags.contains(AllocateFlags::PUNCH_HOLE);
        let keep = flags.contains(AllocateFlags::KEEP_SIZE);
        let known = AllocateFlags::PUNCH_HOLE | AllocateFlags::KEEP_SIZE;
        let later =
            AllocateFlags::ZERO_RANGE | AllocateFlags::COLLAPSE_RANGE | AllocateFlags::INSERT_RANGE;
        if !(known | later).contains(flags) || (punch && !keep) {
            return Err(Errno::EOPNOTSUPP);
        }
        let handle = self.handle(id)?;
        if !handle.flags.can_write() {
            return Err(Errno::EBADF);
        }
        let (node, opened) = (handle.node, handle.opened);
        let end = offset.checked_add(len).filter(|end| *end <= MAX_SIZE);
        let end = end.ok_or(Errno::EFBIG)?;
        if !known.contains(flags) {
            return Err(Errno::EOPNOTSUPP);
        }
        let before = self.file_size(node)?;
        if !punch {
            self.room_to_write(node, offset, end)?;
        }
        self.bring_up(node, u64::MAX, opened)?;
        if !punch {
            self.room_to_write(node, offset, end)?;
        }
        self.tree.change_file(node, |file, extents| {
            if punch {
                file.punch(extents, offset, end)?;
            } else {
                file.allocate(offset, end);
                if !keep && end > file.size() {
                    file.resize(end);
                }
            }
            Ok(())
        })?;
        self.content_changed(node)?;
        self.emit(|txn| {
            let handle = txn.handle(id)?;
            Ok(Change::Resized {
                node: txn.node_ref(node)?,
                at: txn.handle_place(handle),
                size: super::write::compare(before, txn.file_size(node)?),
                by: ResizedBy::Allocate,
            })
        })
    }

    fn copy_range(&mut self, from: (HandleId, u64), to: (HandleId, u64), len: u64) -> Result<u64> {
        let (source, target) = (self.handle(from.0)?, self.handle(to.0)?);
        let readable = source.flags.can_read();
        let writable = target.flags.can_write() && !target.flags.contains(OpenFlags::APPEND);
        let opened = target.opened;
        let (source, target) = (source.node, target.node);
        for node in [source, target] {
            if self.tree.inode_or_held(node)?.is_dir() {
                return Err(Errno::EISDIR);
            }
        }
        if !readable || !writable {
            return Err(Errno::EBADF);
        }
        let before = self.file_size(target)?;
        let len = copy_len(from.1, to.1, len, self.file_size(source)?, source == target)?;
        let len = len.min(MAX_COPY);
        if len == 0 {
            return Ok(0);
        }
        self.bring_up(target, u64::MAX, opened)?;
        self.room_to_write(target, to.1, to.1 + len)?;
        let copied = self.copy_bytes((source, from.1), (target, to.1), len)?;
        if let Some(handle) = self.handles.get_mut(to.0) {
            handle.written = true;
        }
        if self.wants_activity() {
            self.emit(|txn| {
                Ok(Change::Read {
                    node: txn.node_ref(source)?,
                    at: txn.handle_place(txn.handle(from.0)?),
                })
            })?;
        }
        self.emit_written(to.0, before)?;
        Ok(copied)
    }

    /// Copies in steps. If the lower layer fails after the first one, the bytes copied so far are
    /// returned.
    fn copy_bytes(&mut self, from: (NodeId, u64), to: (NodeId, u64), len: u64) -> Result<u64> {
        let mut done = 0;
        let mut buffer = vec![0; COPY_STEP.min(usize::try_from(len).unwrap_or(COPY_STEP))];
        while done < len {
            let step = buffer
                .len()
                .min(usize::try_from(len - done).unwrap_or(COPY_STEP));
            let part = &mut buffer[..step];
            let result = self
                .tree
                .read(from.0, from.1 + done, part)
                .and_then(|_| self.write_node(to.0, to.1 + done, part));
            match result {
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
                Ok(()) => done += step as u64,
            }
        }
        Ok(done)
    }
}

/// Returns how many bytes there are to copy (`generic_copy_file_checks`). `size` is that of the
/// source.
fn copy_len(from: u64, to: u64, len: u64, size: u64, is_same: bool) -> Result<u64> {
    if from.checked_add(len).is_none() || to.checked_add(len).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    if to == MAX_SIZE {
        return Err(Errno::EFBIG);
    }
    let len = len
        .min(size.saturating_sub(from))
        .min(MAX_SIZE.saturating_sub(to));
    if is_same && from < to.saturating_add(len) && to < from.saturating_add(len) {
        return Err(Errno::EINVAL);
    }
    super::write::check_range(from, len)?;
    super::write::check_range(to, len)?;
    Ok(len)
}
