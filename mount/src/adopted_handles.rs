//! Handles of files that an earlier server opened.
//!
//! The kernel goes on with the numbers that the earlier server gave. They mean nothing here, but each
//! request also names the node, so the file is opened again when the first request with such a number
//! comes. The upper bits of a number say which server gave it.

use std::collections::HashMap;

use agentfs_core::{Branch, Caller, HandleId, OpenFlags};
use fuser::{FileHandle, INodeNo, ReplyData};
use parking_lot::Mutex;

use crate::adapter::{Adapter, BUFFER};
use crate::convert::errno;
use crate::reply::{node, open_flags};

/// The bits for the number of FsCore: more than it can count in the life of a process.
const NUMBER_BITS: u32 = 48;

/// What a request does with a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Access {
    Read,
    Write,
    Append,
}

impl Access {
    fn flags(self) -> OpenFlags {
        match self {
            Self::Read => OpenFlags::READ,
            Self::Write => OpenFlags::WRITE_ONLY,
            Self::Append => OpenFlags::WRITE_ONLY | OpenFlags::APPEND,
        }
    }
}

/// The handles of earlier servers, as far as requests with them came.
#[derive(Debug, Default)]
pub(crate) struct AdoptedHandles {
    generation: u16,
    adopted: Mutex<HashMap<(FileHandle, Access), HandleId>>,
}

impl AdoptedHandles {
    pub(crate) fn new(generation: u16) -> Self {
        Self {
            generation,
            adopted: Mutex::default(),
        }
    }

    /// Returns the number by which the kernel knows a handle of this server.
    pub(crate) fn number(&self, handle: HandleId) -> FileHandle {
        FileHandle(u64::from(self.generation) << NUMBER_BITS | handle.0)
    }

    /// Returns the handle if this server gave the number.
    pub(crate) fn own(&self, file: FileHandle) -> Option<HandleId> {
        let is_own = file.0 >> NUMBER_BITS == u64::from(self.generation);
        is_own.then_some(HandleId(file.0 & ((1 << NUMBER_BITS) - 1)))
    }

    /// Returns the handle for a number that an earlier server gave; `opened` is called with one that
    /// was opened for it now.
    ///
    /// # Errors
    ///
    /// As [`Branch::open_node`].
    pub(crate) fn adopt(
        &self,
        branch: &Branch,
        caller: &Caller,
        (inode, file): (INodeNo, FileHandle),
        access: Access,
        opened: impl FnOnce(HandleId),
    ) -> agentfs_core::Result<HandleId> {
        // Held while it is opened, so that two requests do not open it twice.
        let mut adopted = self.adopted.lock();
        if let Some(handle) = adopted.get(&(file, access)) {
            return Ok(*handle);
        }
        let handle = branch.open_node(caller, node(inode), access.flags())?;
        opened(handle);
        adopted.insert((file, access), handle);
        Ok(handle)
    }

    /// Forgets a number that an earlier server gave, and returns its handles, which are to be closed.
    pub(crate) fn release(&self, file: FileHandle) -> Vec<HandleId> {
        let mut adopted = self.adopted.lock();
        let all = [Access::Read, Access::Write, Access::Append];
        all.iter()
            .filter_map(|access| adopted.remove(&(file, *access)))
            .collect()
    }
}

impl Adapter {
    /// Returns the handle that a request is about. One that an earlier server gave is opened here; the
    /// caller delivers what that emits.
    pub(crate) fn handle(
        &self,
        caller: &Caller,
        (inode, file): (INodeNo, FileHandle),
        access: Access,
    ) -> agentfs_core::Result<HandleId> {
        if let Some(handle) = self.handles.own(file) {
            return Ok(handle);
        }
        let opened = |handle| self.open_files.add(handle);
        self.handles
            .adopt(&self.branch, caller, (inode, file), access, opened)
    }

    /// Closes what the kernel releases.
    pub(crate) fn close(
        &self,
        caller: &Caller,
        (inode, file): (INodeNo, FileHandle),
        flags: fuser::OpenFlags,
    ) -> agentfs_core::Result<()> {
        let closed = match self.handles.own(file) {
            Some(handle) => vec![handle],
            None => {
                // Programs that wait for the closing of a file that was open for writing hear of it.
                if open_flags(flags).can_write() {
                    self.handle(caller, (inode, file), Access::Write)?;
                }
                self.handles.release(file)
            }
        };
        closed.into_iter().try_for_each(|handle| {
            self.open_files.remove(handle);
            self.cache.note_request(node(inode), handle);
            self.branch.close(caller, handle)
        })
    }

    /// Reads, and answers.
    pub(crate) fn read_file(
        &self,
        caller: &Caller,
        (inode, file): (INodeNo, FileHandle),
        (offset, size): (u64, usize),
        reply: ReplyData,
    ) {
        let handle = match self.handle(caller, (inode, file), Access::Read) {
            Ok(handle) => handle,
            Err(error) => return reply.error(errno(error)),
        };
        self.cache.note_request(node(inode), handle);
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let part = &mut buffer[..size];
            match self.branch.read_at(caller, handle, offset, part) {
                Ok(read) => reply.data(&part[..read]),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    /// Copies a part of a file into another one.
    pub(crate) fn copy_part(
        &self,
        caller: &Caller,
        (from_inode, from, from_offset): (INodeNo, FileHandle, u64),
        (to_inode, to, to_offset): (INodeNo, FileHandle, u64),
        length: u64,
    ) -> agentfs_core::Result<u64> {
        let from = self.handle(caller, (from_inode, from), Access::Read)?;
        let to = self.handle(caller, (to_inode, to), Access::Write)?;
        let length = length.min(u64::from(u32::MAX));
        self.branch
            .copy_range(caller, (from, from_offset), (to, to_offset), length)
    }
}
